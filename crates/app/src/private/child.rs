//! Starting a server so that it cannot outlive us, even when we are killed.
//!
//! The kernel can signal a child when its parent dies, but a process has to ask for that itself, and the wish is
//! forgotten whenever it changes its user. So we start *our own* binary again, as `openwatch __child ...`: it
//! gives up its privileges, makes the wish, makes sure that the parent is still there, and becomes the server.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Gid, Pid, Signal, Uid};

/// First argument of the hidden entry: `main` passes everything after it to [`child_main`].
pub const CHILD: &str = "__child";

/// Name, user id and group id of the user that servers run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What to start and how it dies with us.
#[derive(Debug)]
pub(super) struct ChildSpec<'a> {
    pub(super) program: &'a Path,
    pub(super) args: Vec<OsString>,
    pub(super) cwd: &'a Path,
    /// Sent by the kernel at the moment the thread that called [`ChildSpec::spawn`] ends.
    pub(super) at_parent_death: Signal,
    pub(super) user: Option<&'a User>,
    pub(super) log: &'a Path,
}

impl ChildSpec<'_> {
    /// Starts it. The calling thread must live as long as the child should.
    ///
    /// The child gets no environment of ours (it could hold secrets), no stdin, and a process group of its own, so
    /// that Ctrl-C reaches only us and we stop it in order.
    pub(super) fn spawn(&self, reexec: &Path) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log)?;
        let mut command = Command::new(reexec);
        command.arg(CHILD).arg(std::process::id().to_string()).arg(self.at_parent_death.as_raw().to_string());
        command.arg(self.user.map_or_else(|| "-".to_owned(), |user| format!("{}:{}", user.uid, user.gid)));
        command.arg("--").arg(self.program).args(&self.args);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(self.cwd).process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).spawn()
    }
}

/// The hidden entry's body: `PARENT SIGNAL UID:GID|- -- PROGRAM ARGS...`. Becomes PROGRAM, or ends the process with
/// exit code 70 and a reason on stderr, which is the server's log.
pub fn child_main(args: impl Iterator<Item = OsString>) -> ! {
    let reason = match become_server(args) {
        Ok(never) => match never {},
        Err(reason) => reason,
    };
    eprintln!("openwatch: failed to start server: {reason}");
    std::process::exit(70)
}

fn become_server(mut args: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, String> {
    let mut text = |what: &str| {
        args.next()
            .and_then(|arg| arg.into_string().ok())
            .ok_or_else(|| format!("the hidden entry wants {what}"))
    };
    let parent: i32 = text("a parent")?.parse().map_err(|_| "parent is not a process id".to_owned())?;
    let signal: i32 = text("a signal")?.parse().map_err(|_| "signal is not a number".to_owned())?;
    let signal = Signal::from_named_raw(signal).ok_or("signal is unknown")?;
    let user = parse_user(&text("a user")?)?;
    if text("`--`")? != "--" {
        return Err("the hidden entry wants `--`".to_owned());
    }
    let program = PathBuf::from(args.next().ok_or("the hidden entry wants a program")?);

    if let Some((uid, gid)) = user {
        // Groups first: without the user's privileges we could not give them up any more.
        rustix::thread::set_thread_groups(&[]).map_err(|e| format!("give up groups: {e}"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| format!("set group {gid:?}: {e}"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| format!("set user {uid:?}: {e}"))?;
    }
    rustix::process::set_parent_process_death_signal(Some(signal))
        .map_err(|e| format!("bind to parent: {e}"))?;
    // The parent may have died before the wish was made; then nobody would ever send the signal.
    if rustix::process::getppid() != Pid::from_raw(parent) {
        return Err("the parent is gone".to_owned());
    }
    let error = Command::new(&program).args(args).exec();
    Err(format!("run {}: {error}", program.display()))
}

fn parse_user(text: &str) -> Result<Option<(Uid, Gid)>, String> {
    if text == "-" {
        return Ok(None);
    }
    let ids = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    let (uid, gid): (u32, u32) = ids.ok_or("user is not UID:GID")?;
    if uid == 0 {
        return Err("servers never run as root".to_owned());
    }
    Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: &[&str]) -> String {
        become_server(args.iter().map(OsString::from)).expect_err("must not become anything")
    }

    #[test]
    fn bad_arguments_start_nothing() {
        assert_eq!(refused(&[]), "the hidden entry wants a parent");
        assert_eq!(refused(&["x"]), "parent is not a process id");
        assert_eq!(refused(&["1", "999", "-"]), "signal is unknown");
        assert_eq!(refused(&["1", "15", "0:0", "--", "/bin/true"]), "servers never run as root");
        assert_eq!(refused(&["1", "15", "-", "/bin/true"]), "the hidden entry wants `--`");
        assert_eq!(refused(&["1", "15", "-", "--"]), "the hidden entry wants a program");
    }
}
