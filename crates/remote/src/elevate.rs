//! Asking for a shell, as ourselves or through sudo.

use std::time::Duration;

use openwatch_model::credential::{Secret, SudoMode};

use crate::script::{Nonce, quote, whole_seconds};

/// Whether and how root is reached. Found out once per session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elevation {
    /// As the login user.
    None,
    /// sudo that asks nothing.
    SudoQuiet,
    /// sudo that asks for a password on its standard input.
    SudoPassword,
}

impl Elevation {
    /// Where to start: root needs no sudo, and where a password for sudo was given, asking without it would leave a
    /// complaint in the target's log.
    pub(crate) fn first(mode: SudoMode, user: &str, given: bool) -> Self {
        match mode {
            SudoMode::Sudo if user == "root" => Self::None,
            SudoMode::Sudo if given => Self::SudoPassword,
            SudoMode::Sudo => Self::SudoQuiet,
            SudoMode::None => Self::None,
        }
    }
}

/// What keeps a lane from outliving us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapper {
    /// `timeout` around the shell.
    Timeout,
    /// A bare shell that guards itself.
    Bare,
}

/// The text of one exec request, and how to talk to it.
pub(crate) struct Request {
    pub(crate) command: String,
    /// Set when sudo may ask: its prompt, and the word that says it has let us in.
    pub(crate) conversation: Option<Conversation>,
}

/// Words that sudo and its child say, unguessable so that nothing else can be taken for them.
pub(crate) struct Conversation {
    pub(crate) prompt: String,
    pub(crate) entered: String,
}

/// A shell that reads its script from standard input. `exec` and plain words mean the same to sh, csh and fish.
pub(crate) fn reading_shell(elevation: Elevation, wrapper: Wrapper, budget: Duration) -> Option<Request> {
    let shell = match wrapper {
        Wrapper::Timeout => format!("timeout -k 5 {} /bin/sh", whole_seconds(budget)),
        Wrapper::Bare => "/bin/sh".to_owned(),
    };
    elevate(elevation, &shell)
}

/// A shell that is given its whole script as an argument.
pub(crate) fn told_shell(elevation: Elevation, shell: &str, script: &str) -> Option<Request> {
    let command = format!("{shell} -c {}", quote(script));
    match elevation {
        // So that it leads its group and can be ended with all that it started. A restricted shell refuses that, but it is
        // given no path either, and puts the last command in its own place by itself.
        Elevation::None if shell.starts_with('/') => {
            Some(Request { command: format!("exec {command}"), conversation: None })
        }
        Elevation::None => Some(Request { command, conversation: None }),
        _ => elevate(elevation, &command),
    }
}

fn elevate(elevation: Elevation, shell: &str) -> Option<Request> {
    Some(match elevation {
        Elevation::None => Request { command: format!("exec {shell}"), conversation: None },
        Elevation::SudoQuiet => {
            Request { command: format!("exec env LC_ALL=C sudo -n -- {shell}"), conversation: None }
        }
        Elevation::SudoPassword => {
            let prompt = Nonce::fresh()?.as_str().to_owned();
            let entered = Nonce::fresh()?.as_str().to_owned();
            // sudo reads the password from the same pipe as the shell reads its script. Nothing but the password may be in
            // it until sudo is done, or script lines become wrong passwords: hence the word printed on the way in.
            let inner = quote(&format!("echo {entered}; exec {shell}"));
            Request {
                command: format!("exec env LC_ALL=C sudo -k -S -p {prompt} -- /bin/sh -c {inner}"),
                conversation: Some(Conversation { prompt, entered }),
            }
        }
    })
}

/// The password for sudo: its own if there is one, else the login password.
pub(crate) fn sudo_password(secret: &Secret) -> Option<&str> {
    secret.sudo_password.as_deref().or(secret.password.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_uses_no_sudo() {
        assert_eq!(Elevation::first(SudoMode::Sudo, "root", true), Elevation::None);
        assert_eq!(Elevation::first(SudoMode::Sudo, "ow", false), Elevation::SudoQuiet);
        assert_eq!(Elevation::first(SudoMode::Sudo, "ow", true), Elevation::SudoPassword);
        assert_eq!(Elevation::first(SudoMode::None, "ow", true), Elevation::None);
    }

    #[test]
    fn commands() {
        let budget = Duration::from_secs(300);
        let text = |e, w| reading_shell(e, w, budget).unwrap().command;
        assert_eq!(text(Elevation::None, Wrapper::Timeout), "exec timeout -k 5 300 /bin/sh");
        assert_eq!(text(Elevation::None, Wrapper::Bare), "exec /bin/sh");
        assert_eq!(
            text(Elevation::SudoQuiet, Wrapper::Timeout),
            "exec env LC_ALL=C sudo -n -- timeout -k 5 300 /bin/sh"
        );
        let asked = reading_shell(Elevation::SudoPassword, Wrapper::Timeout, budget).unwrap();
        let words = asked.conversation.unwrap();
        assert_ne!(words.prompt, words.entered);
        assert!(asked.command.contains(&format!("-p {} --", words.prompt)), "{}", asked.command);
    }
}
