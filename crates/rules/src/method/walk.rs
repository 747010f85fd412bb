//! One walk of a file tree for all rules that walk it.
//!
//! Walking a host's whole file system takes longer than everything else a scan asks, and several rules do it only to look
//! at other properties of the same files. Where a script's walk is nothing but tests, it is made once for all of them and
//! each script reads its own findings where its `find` stood. The walk needs GNU find; elsewhere, where it does not like one
//! of the tests, where it finds too much to be kept, or names with line breaks in them, every script walks for itself.

use std::fmt::Write as _;
use std::ops::Range;

use openwatch_model::plan::Lost;
use sha2::{Digest as _, Sha256};

use crate::shell::{self, quote};

/// Most that one walk keeps for all its rules. More is not read again: each rule then walks for itself.
const KEPT: usize = 4 << 20;
/// Most that the scripts of one walk may say together; what comes after it is left out, and lost.
const SAID: usize = 8 << 20;

/// How a walk is told to complain to nobody.
const QUIET: &str = "2>/dev/null";

/// A script with a walk that can be shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) script: String,
    /// Names the script among those that share a walk.
    id: String,
    /// Where in the script `find` and its words stand.
    find: Range<usize>,
    /// Roots and options: what is walked.
    pub(crate) tree: String,
    /// What is looked for.
    tests: String,
}

impl Walk {
    /// The walk of a script, where it can be shared without changing what the script says.
    pub(super) fn of(script: &str) -> Option<Self> {
        let odd = ["_ow_", "pipefail", "set -", "trap", "\0"];
        if odd.iter().any(|odd| script.contains(odd)) || shell::command(script).isolate {
            return None;
        }
        script.match_indices("find /").find_map(|(start, _)| Self::at(script, start))
    }

    fn at(script: &str, start: usize) -> Option<Self> {
        let code = |line: &&str| !line.trim_start().starts_with('#');
        let before = script[..start].split_inclusive('\n').filter(code).collect::<String>();
        let before = before.trim_end();
        let inside = before.strip_suffix("$(").is_some_and(|rest| !rest.ends_with('\\'));
        let line = script[..start].rsplit('\n').next().unwrap_or_default();
        let comment = line.trim_start().starts_with('#');
        if comment
            || !(before.is_empty() || inside)
            || before.contains(['\'', '#', '`'])
            || before.contains("<<")
        {
            return None;
        }
        let (tree, tests, length) = words(&script[start + "find".len()..])?;
        let id = hex::encode(&Sha256::digest(script)[..8]);
        let find = start..start + "find".len() + length;
        Some(Self { script: script.to_owned(), id, find, tree, tests })
    }

    /// What this script said when it ran with the others.
    ///
    /// # Errors
    /// `Protocol` when the answer is not whole, `NoRoom` when there was no room for it.
    pub(super) fn answer<'a>(&self, said: &'a [u8]) -> Result<(i32, &'a [u8]), Lost> {
        let (exit, stdout) = self.find_answer(said).ok_or(Lost::Protocol)?;
        Ok((exit.parse().map_err(|_| Lost::NoRoom)?, stdout))
    }

    fn find_answer<'a>(&self, mut said: &'a [u8]) -> Option<(&'a str, &'a [u8])> {
        let mut found = None;
        while !matches!(said, b"." | b".\n") {
            let end = said.iter().position(|b| *b == b'\n')?;
            let mut head = std::str::from_utf8(&said[..end]).ok()?.split_ascii_whitespace();
            let (id, exit, length) = (head.next()?, head.next()?, head.next()?.parse().ok()?);
            let (stdout, rest) = said[end + 1..].split_at_checked(length)?;
            if id == self.id {
                found = Some((exit, stdout));
            }
            said = rest;
        }
        found
    }
}

/// One script that walks once and then runs every given one.
pub(crate) fn shared_walk<'w>(walks: impl Iterator<Item = &'w Walk> + Clone) -> String {
    let tree = walks.clone().next().map_or("/", |walk| walk.tree.as_str());
    let mut script = format!("# one walk of {tree}\n_ow_walk() {{ case $1 in\n");
    let mut union = Vec::new();
    let mut runs = String::new();
    // Writing to a string does not fail.
    for (number, walk) in walks.enumerate() {
        let Walk { tests, id, find, script: own, .. } = walk;
        let _ = writeln!(script, "{number}) find {tree} {tests};;");
        union.push(format!(r"\( \( {tests} \) -printf '{number}:%p\n' \)"));
        let own = format!("{}_ow_walk {number} {}", &own[..find.start], &own[find.end..]);
        let _ = writeln!(runs, "_ow_rule {id} {}", quote(&own));
    }
    let union = union.join(" , ");
    let _ = write!(
        script,
        r#"esac; }}
_ow_n='
'
if find {tree} -maxdepth 0 {union} >/dev/null 2>&1; then
_ow_found=$({{ find {tree} -path "*$_ow_n*" -printf 'odd:\n' -quit , {union} 2>/dev/null; printf 'walked:%s\n' "$?"; }} | head -c {KEPT})
case $_ow_found in
odd:*|*"$_ow_n"odd:*) ;;
*walked:[0-9]|*walked:[0-9][0-9]|*walked:[0-9][0-9][0-9])
_ow_exit=${{_ow_found##*walked:}}
_ow_walk() {{ printf '%s\n' "$_ow_found" | LC_ALL=C sed -n "s/^$1://p"; return "$_ow_exit"; }};;
esac
fi
_ow_room={SAID}
_ow_rule() {{ _ow_said=$( ( _ow_own=$2; set --; eval "$_ow_own" ); printf ':%s' "$?" )
_ow_size=$(printf %s "${{_ow_said%:*}}" | wc -c); _ow_room=$((_ow_room - _ow_size))
if [ "$_ow_room" -lt 0 ]; then printf '%s - 0\n' "$1"; _ow_room=0
else printf '%s %s %s\n' "$1" "${{_ow_said##*:}}" "$_ow_size"; printf %s "${{_ow_said%:*}}"; fi; }}
{runs}echo ."#
    );
    script
}

/// Tree, tests, and the length of the words of a `find` that only tests and complains to nobody.
fn words(text: &str) -> Option<(String, String, usize)> {
    let mut lexer = Lexer { text, at: 0 };
    let (mut tree, mut tests, mut depth, mut either) = (Vec::new(), Vec::new(), 0_u32, false);
    loop {
        let (word, end) = (lexer.next()?, lexer.at);
        match word {
            QUIET => {
                let rest = text[end..].trim_start_matches([' ', '\t']);
                let ends =
                    rest.is_empty() || rest.starts_with(['|', ')', '\n', ';']) || rest.starts_with("&&");
                // Without the redirection, which stays where it is.
                let length = end - word.len();
                return (ends && depth == 0 && !tests.is_empty())
                    .then(|| (tree.join(" "), tests.join(" "), length));
            }
            _ if tests.is_empty() && (word == "-xdev" || is_root(word)) => tree.push(word),
            "-print" if depth == 0 && !either && text[end..].trim_start().starts_with(QUIET) => {}
            r"\(" => {
                depth += 1;
                tests.push(word);
            }
            r"\)" => {
                depth = depth.checked_sub(1)?;
                tests.push(word);
            }
            "-o" => {
                either |= depth == 0;
                tests.push(word);
            }
            "!" | "-a" | "-nouser" | "-nogroup" => tests.push(word),
            _ => {
                let value = lexer.next()?;
                is_test(word, value).then_some(())?;
                tests.extend([word, value]);
            }
        }
    }
}

fn is_root(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    word.starts_with('/') && word.bytes().all(plain)
}

/// A test that no find takes amiss, or one rule's mistake would cost the others their walk.
fn is_test(name: &str, value: &str) -> bool {
    let all = |text: &str, of: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(of);
    match name {
        "-type" => matches!(value, "f" | "d" | "l" | "p" | "s" | "c" | "b"),
        "-perm" => {
            let bits = value.strip_prefix(['-', '/']).unwrap_or(value);
            bits.len() <= 5 && all(bits, |b| (b'0'..b'8').contains(b))
        }
        "-uid" | "-gid" => {
            let number = value.strip_prefix(['+', '-']).unwrap_or(value);
            number.len() <= 9 && all(number, u8::is_ascii_digit)
        }
        "-user" | "-group" => value == "root",
        "-name" => !value.contains('/'),
        _ => false,
    }
}

/// Words of one simple command that mean the same wherever they are put: quoted whole, or without anything special.
struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn next(&mut self) -> Option<&'t str> {
        loop {
            let rest = &self.text[self.at..];
            let blank = if rest.starts_with("\\\n") { 2 } else { usize::from(rest.starts_with([' ', '\t'])) };
            if blank == 0 {
                break;
            }
            self.at += blank;
        }
        let rest = &self.text[self.at..];
        let length = match rest.bytes().next()? {
            b'\'' => rest[1..].find('\'')? + 2,
            b'"' => rest[1..].find('"')? + 2,
            // What follows it need not be apart from it.
            _ if rest.starts_with(QUIET) => QUIET.len(),
            _ => rest.find([' ', '\t', '\n']).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+-".contains(&b);
        let usable = match word.as_bytes()[0] {
            b'\'' => true,
            b'"' => !word.contains(['$', '`', '\\']),
            _ => matches!(word, r"\(" | r"\)" | "!" | QUIET) || word.bytes().all(plain),
        };
        self.at += length;
        let apart = word == QUIET || after.is_empty() || after.starts_with([' ', '\t', '\n']);
        (usable && apart && !word.contains('\n')).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn run(shell: &str, script: &str) -> (i32, Vec<u8>) {
        let output = Command::new(shell).args(["-c", script]).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), output.stdout)
    }

    #[test]
    fn only_pure_walks_are_shared() {
        for script in [
            "find / -xdev -type d 2>/dev/null",
            r"find / -xdev -type d \( -perm -0002 -a ! -perm -1000 \) 2>/dev/null | head -1 | grep -q . && exit 1",
            "x=$(find / -xdev -uid +999 -print 2>/dev/null || true)\nfor d in $x; do echo \"$d\"; done",
            "r=\"$(find /usr/bin /usr/sbin ! -user root -type f 2>/dev/null)\"; [ -z \"$r\" ]",
            "find / -name '*.rhosts' \\\n  -nouser 2>/dev/null; true",
            "find / -type f -o -type d 2>/dev/null",
            "# Don't say what find / -type d says\nx=$(find / -xdev -type d 2>/dev/null)",
        ] {
            assert!(Walk::of(script).is_some(), "{script}");
        }
        for script in [
            "find / -xdev -type d",
            "find / -xdev 2>/dev/null",
            "find $d -xdev -type d 2>/dev/null",
            "find /home/* -type d 2>/dev/null",
            "find / -type f -exec stat {} + 2>/dev/null",
            "find / -type f -delete 2>/dev/null",
            "find / -type f -o -type d -print 2>/dev/null",
            "find / -user nobody 2>/dev/null",
            "find / -perm +022 2>/dev/null",
            "find / -path /proc -prune -o -type f -print 2>/dev/null",
            "find / -name $x 2>/dev/null",
            "find / -name \"$x\" 2>/dev/null",
            "find / -type d 2>/dev/null >/tmp/x",
            "find / -type d 2>/dev/null &",
            "echo '$(find / -type d 2>/dev/null)'",
            "# find / -type d 2>/dev/null",
            "#$(find / -type d 2>/dev/null)\ntrue",
            "set -o pipefail; x=$(find / -type d 2>/dev/null)",
            "echo 'find / -type d 2>/dev/null'",
            r"find / \( -type d 2>/dev/null",
        ] {
            assert_eq!(Walk::of(script), None, "{script}");
        }
    }

    const SCRIPTS: [&str; 7] = [
        "find ROOT -xdev -type d 2>/dev/null",
        "find ROOT -xdev -type f -print 2>/dev/null | sort | head -1 | grep -q . && exit 1 || exit 0",
        "x=$(find ROOT -xdev -type d \\( -name 'b*' -o -name '-n' \\) 2>/dev/null || true)\necho \"[$x]\"",
        "x=\"$(find ROOT -xdev ! -user root 2>/dev/null)\"; [ -z \"$x\" ] && printf 'no line end'",
        "find ROOT -xdev -name 'nothing' 2>/dev/null; exit 9",
        "x=$(find ROOT -xdev -type f -o -type d 2>/dev/null | wc -l); echo $# $x; if",
        "find ROOT -xdev -type l 2>/dev/null || echo failed",
    ];

    /// Runs scripts together and alone, over a tree with files of these names.
    fn together_and_alone(names: &[&str], scripts: &[&str], walks_once: bool) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        for name in names {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("file"), "").unwrap();
        }
        let scripts: Vec<String> = scripts.iter().map(|script| script.replace("ROOT", root)).collect();
        let walks: Vec<Walk> = scripts.iter().map(|script| Walk::of(script).unwrap()).collect();
        let count = format!("find() {{ echo walk >>'{root}.calls'; command find \"$@\"; }}\n");
        for shell in ["sh", "bash"] {
            let (exit, said) = run(shell, &format!("{count}{}", shared_walk(walks.iter())));
            assert_eq!(exit, 0);
            let calls = std::fs::read_to_string(format!("{root}.calls")).unwrap().lines().count();
            std::fs::remove_file(format!("{root}.calls")).unwrap();
            assert_eq!(calls <= 2, walks_once, "{calls} walks of {names:?}");
            for walk in &walks {
                let (exit, stdout) = run(shell, &walk.script);
                let (found, said) = walk.answer(&said).unwrap();
                let texts = (String::from_utf8_lossy(said), String::from_utf8_lossy(&stdout));
                assert_eq!((found, &texts.0), (exit, &texts.1), "{shell}: {}", walk.script);
            }
            assert_eq!(walks[0].answer(&said[..said.len() - 3]), Err(Lost::Protocol), "cut off");
        }
    }

    #[test]
    fn together_they_say_what_each_says_alone() {
        let plain = ["a", "b c", "it's", "1:", "-n", "é", "walked:7", "x\u{1}y", "odd:"];
        together_and_alone(&plain, &SCRIPTS, true);
        // Of which one is another's record.
        together_and_alone(&["a", "new\nline"], &SCRIPTS, false);
        together_and_alone(&["x\n1:/fake"], &SCRIPTS, false);
    }

    /// A find that one of them gets wrong says nothing to that one only.
    #[test]
    fn a_test_that_find_refuses_costs_the_others_nothing() {
        for broken in ["\\( -type f -o \\)", "\\( \\)", "-type f !", "-a -type f", "-perm 77777"] {
            let broken = format!("find ROOT -xdev {broken} 2>/dev/null");
            together_and_alone(&["a"], &[SCRIPTS[0], SCRIPTS[2], &broken], false);
        }
    }

    #[test]
    fn what_has_no_room_is_lost_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let walks = ["echo small", "head -c 9000000 /dev/zero | tr '\\0' x", "echo small too"]
            .map(|then| Walk::of(&format!("find {root} -xdev -type d 2>/dev/null; {then}")).unwrap());
        let (_, said) = run("sh", &shared_walk(walks.iter()));
        assert_eq!(walks[1].answer(&said), Err(Lost::NoRoom));
        assert_eq!(walks[0].answer(&said), Ok((0, format!("{root}\nsmall\n").as_bytes())));
    }

    #[test]
    fn without_gnu_find_each_walks_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let root = dir.path().to_str().unwrap();
        let walks = ["-type d", "-type f"]
            .map(|tests| Walk::of(&format!("find {root} -xdev {tests} 2>/dev/null")).unwrap());
        let plain = "find() { case $* in *printf*) return 1;; esac; command find \"$@\"; }\n";
        let (_, said) = run("sh", &format!("{plain}{}", shared_walk(walks.iter())));
        assert_eq!(walks[0].answer(&said).unwrap().1, format!("{root}\n{root}/d\n").as_bytes());
        assert_eq!(walks[1].answer(&said), Ok((0, &b""[..])));
    }
}
