//! A target that needs no shell for what it is asked: for measuring a worker beside targets that take next to nothing.

use tokio::sync::watch;

use crate::scripted::Act;

/// One line of a lane's script that asks for something.
#[derive(Debug, PartialEq)]
enum Line {
    /// `_kb INDEX`: the first of several commands.
    Begin(String),
    /// `_kr INDEX NEXT 'COMMAND'`, or one of its kin.
    Run { index: String, next: String, command: String },
    /// `_kz COUNT`.
    Last(String),
    /// Functions, traps, and the rest of what a shell would do.
    Other,
}

impl Act {
    /// Answers a lane, or a plain script: what begins with `echo WORDS;` says so, a pipe is read when `gate` is open, and the
    /// rest fails.
    pub async fn quick(mut self, mut gate: watch::Receiver<bool>) {
        if self.command.is_none() {
            return;
        }
        let (mut script, mut nonce) = (String::new(), None);
        let mut plain = String::new();
        while let Some(bytes) = self.input.recv().await {
            script.push_str(&String::from_utf8_lossy(&bytes));
            let (mut out, mut err) = (String::new(), String::new());
            while let Some((line, length)) = next_line(&script) {
                let text = script.drain(..length).collect::<String>();
                let Some(n) = nonce.clone().or_else(|| told(&text)) else {
                    plain.push_str(&text);
                    continue;
                };
                if nonce.is_none() {
                    out = format!("\n{n} H 1 - t\n");
                    err = format!("\n{n} H\n");
                }
                match line {
                    Line::Begin(index) => out.push_str(&format!("\n{n} B {index} 1.00\n")),
                    Line::Run { index, next, command } => {
                        if command.contains("head -c 1 ") {
                            self.out(std::mem::take(&mut out)).await;
                            self.err(std::mem::take(&mut err)).await;
                            // Whoever held the gate is gone: so is the test.
                            let _ = gate.wait_for(|open| *open).await;
                        }
                        let (said, exit) = answer(&command);
                        out.push_str(&format!("{said}\n{n} E {index} {exit} 1.00\n"));
                        err.push_str(&format!("\n{n} E {index}\n"));
                        if next != "-" {
                            out.push_str(&format!("\n{n} B {next} 1.00\n"));
                        }
                    }
                    Line::Last(count) => {
                        out.push_str(&format!("\n{n} Z {count}\n"));
                        self.out(out).await;
                        self.err(err).await;
                        let _ = self.handle.exit_status_request(self.channel, 0).await;
                        let _ = self.handle.close(self.channel).await;
                        return;
                    }
                    Line::Other => {}
                }
                nonce = Some(n);
            }
            if !out.is_empty() {
                self.out(out).await;
            }
            if !err.is_empty() {
                self.err(err).await;
            }
        }
        if nonce.is_none() {
            self.out(plain.lines().map(|command| answer(command).0).collect::<String>()).await;
            let _ = self.handle.exit_status_request(self.channel, 0).await;
            let _ = self.handle.close(self.channel).await;
        }
    }
}

/// The nonce, where the script sets it.
fn told(text: &str) -> Option<String> {
    text.split_once("_kn=").and_then(|(_, rest)| rest.get(..32)).map(str::to_owned)
}

/// What a command says, and how it ends.
fn answer(command: &str) -> (String, i32) {
    match command.strip_prefix("echo ").and_then(|rest| rest.split_once(';')) {
        Some((words, _)) => (format!("{words}\n/usr/bin:/bin\n"), 0),
        None if command.contains("head -c 1 ") => ("x".to_owned(), 0),
        None => (String::new(), 1),
    }
}

/// The first whole line and its length. A command may go over several.
fn next_line(script: &str) -> Option<(Line, usize)> {
    let end = script.find('\n')?;
    let mut words = script[..end].split(' ');
    let verb = words.next().unwrap_or_default();
    let mut word = || words.next().unwrap_or_default().to_owned();
    match verb {
        "_kb" => Some((Line::Begin(word()), end + 1)),
        "_kz" => Some((Line::Last(word()), end + 1)),
        "_kr" | "_kl" | "_ki" => {
            let (index, next) = (word(), word());
            let (command, length) = quoted(script)?;
            let end = script[length..].find('\n')?;
            Some((Line::Run { index, next, command }, length + end + 1))
        }
        _ => Some((Line::Other, end + 1)),
    }
}

/// The first quoted word, and where it ends. A quote within it is written `'\''`.
fn quoted(script: &str) -> Option<(String, usize)> {
    let mut at = script.find('\'')? + 1;
    let mut word = String::new();
    loop {
        let end = at + script[at..].find('\'')?;
        word.push_str(&script[at..end]);
        at = end + 1;
        if !script[at..].starts_with("\\''") {
            return Some((word, at));
        }
        word.push('\'');
        at += 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let run = |command: &str| Line::Run { index: "3".into(), next: "4".into(), command: command.into() };
        assert_eq!(next_line("_kr 3 4 'echo a; echo b'\n_kz 1\n"), Some((run("echo a; echo b"), 25)));
        assert_eq!(next_line("_ki 3 4 9 'it'\\''s\ntwo' \"$_kL\"\n"), Some((run("it's\ntwo"), 31)));
        assert_eq!(next_line("_kr 3 4 'one\ntw"), None);
        assert_eq!(next_line("_kr 3 4 'one\ntwo'"), None);
        assert_eq!(next_line("_kb 0\n"), Some((Line::Begin("0".into()), 6)));
        assert_eq!(next_line("_kr(){ true; }\n_kb 0\n"), Some((Line::Other, 15)));
    }
}
