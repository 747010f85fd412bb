//! `kernel_module_state`: a module that must not be loadable. One `lsmod` serves every module.

use super::{Judge, Ready, Step, Stop, Verdict, View, required};
use crate::rule::Leaf;
use crate::shell::quote;

/// Prints every loaded module.
pub(super) const LSMOD: &str = "lsmod 2>/dev/null";

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?.to_owned();
    let blacklisted = leaf.text("state") == Some("blacklisted");
    let command = format!("{LSMOD} | grep -qw {}", quote(&name));
    // Only a plain word means the same to us as to grep.
    let plain =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') && !name.starts_with('-');
    let view = if plain { View::LsmodWord(name.clone()) } else { View::Whole };
    let second = if blacklisted {
        format!("grep -rq {} /etc/modprobe.d/ 2>/dev/null", quote(&format!("blacklist\\s\\+{name}")))
    } else {
        format!("modprobe -n --show-depends {} 2>&1", quote(&name))
    };
    let judge: Judge = Box::new(move |answers| {
        if answers.ask(0)?.exit == 0 {
            return Ok(Verdict::fail(format!("{name} is loaded")));
        }
        let seen = answers.ask(1)?;
        if blacklisted {
            let found = if seen.exit == 0 { "is" } else { "is not" };
            return Ok(Verdict::pass_if(
                seen.exit == 0,
                format!("{name} is not loaded and {found} blacklisted"),
            ));
        }
        let text = &seen.stdout;
        let disabled = text.contains("install /bin/true") || text.contains("install /bin/false");
        let missing = text.contains("not found");
        let state = match (disabled, missing) {
            (true, _) => "disabled",
            (_, true) => "not available",
            _ => "loadable",
        };
        Ok(Verdict::pass_if(disabled || missing, format!("{name} is not loaded and {state}")).actual(state))
    });
    Ok(Ready { steps: vec![Step { command, view }, Step::whole(second)], judge })
}

/// Whether a word stands in the text with no letter, digit or underscore beside it, as `grep -w` sees it.
pub(super) fn has_word(text: &[u8], word: &str) -> bool {
    let word = word.as_bytes();
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    !word.is_empty()
        && text.windows(word.len()).enumerate().any(|(at, window)| {
            window == word
                && !part(at.checked_sub(1).and_then(|before| text.get(before)))
                && !part(text.get(at + word.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::testing::{commands, judge_by, ready, status};
    use super::*;

    const LOADED: &str = "Module  Size  Used by\nusb_storage  81920  0\nscsi_mod  1  2 usb_storage,hfs\n";

    #[test]
    fn pinned_modules() {
        let disabled = "method: kernel_module_state, name: cramfs";
        for (text, expected) in [
            ("install /bin/true \n", 'p'),
            ("install /bin/false \n", 'p'),
            ("modprobe: FATAL: Module cramfs not found in directory /lib/modules/5\n", 'p'),
            ("insmod /lib/modules/5/cramfs.ko\n", 'f'),
            ("", 'f'),
        ] {
            assert_eq!(status(disabled, &[(0, LOADED), (1, text)]), expected, "{text}");
        }
        let blacklisted = "method: kernel_module_state, name: cramfs, state: blacklisted";
        assert_eq!(status(blacklisted, &[(0, ""), (0, "")]), 'p');
        assert_eq!(status(blacklisted, &[(0, ""), (1, "")]), 'f');
    }

    #[test]
    fn a_loaded_module_fails_at_once() {
        let (verdict, asked) =
            judge_by("method: kernel_module_state, name: hfs", &[(0, LOADED), (0, "install /bin/false")]);
        assert_eq!((verdict.status, asked), (openwatch_model::Status::Fail, 1));
        // lsmod writes underscores: a name with a dash is never found.
        assert_eq!(
            status(
                "method: kernel_module_state, name: usb-storage",
                &[(0, LOADED), (0, "install /bin/true")]
            ),
            'p'
        );
    }

    #[test]
    fn words_are_bounded() {
        for (word, expected) in
            [("hfs", true), ("usb_storage", true), ("usb", false), ("Size", true), ("scsi", false)]
        {
            assert_eq!(has_word(LOADED.as_bytes(), word), expected, "{word}");
        }
        assert!(has_word(b"xa a", "a") && !has_word(b"xa ab", "a"));
    }

    #[test]
    fn the_shared_view_says_what_grep_says() {
        use std::io::Write as _;
        let texts = [
            "a b\n",
            "ab\n",
            "a-b c\n",
            "_a a_\n",
            "a1 1a a\n",
            "x,a\n",
            "aa aa-a\n",
            "",
            "a",
            "\u{e9}a\n",
            "b\na\n",
        ];
        for text in texts {
            for word in ["a", "b", "aa", "a-b", "a_", "1a", "usb"] {
                let mut grep = std::process::Command::new("grep")
                    .args(["-qw", word])
                    .env("LC_ALL", "C")
                    .stdin(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                // grep -q may stop reading early.
                let _ = grep.stdin.take().unwrap().write_all(text.as_bytes());
                assert_eq!(
                    has_word(text.as_bytes(), word),
                    grep.wait().unwrap().success(),
                    "{word} in {text:?}"
                );
            }
        }
    }

    #[test]
    fn commands_are_logical_and_odd_names_are_left_to_grep() {
        let check = "method: kernel_module_state, name: dccp, state: blacklisted";
        let expected = [
            "lsmod 2>/dev/null | grep -qw 'dccp'",
            "grep -rq 'blacklist\\s\\+dccp' /etc/modprobe.d/ 2>/dev/null",
        ];
        assert_eq!(commands(check), expected);
        assert_eq!(ready(check).steps[0].source(), Source::Script(LSMOD));
        assert_eq!(ready("method: kernel_module_state, name: 'a.b'").steps[0].view, View::Whole);
    }
}
