//! Rules that walk a file tree, most of which can share one walk; and trees that make it hard to.

use std::fs;
use std::os::unix::fs::symlink;

use super::dice::Dice;
use super::host::{Host, find};
use super::rules::text;

/// Names that look like something else: to a shell, to sed, in a record of what was found.
const NAMES: [&str; 12] =
    ["a", "b c", "it's", "1:", "2:/a", "-n", "é", "walked:7", "odd:", "x\u{1}y", "*", "ab*"];

/// Puts a tree on a host, and one of several kinds of `find`; for each `/` is that tree.
pub(crate) fn tree(host: &Host, dice: &mut Dice) {
    for dir in ["tree", "tree/sub", "tree/sub/deep", "tree/empty"] {
        fs::create_dir_all(host.path(dir)).unwrap();
        if dir != "tree/empty" {
            for name in dice.some(&NAMES) {
                // "2:/a" is a directory and a file in it.
                host.write(&format!("{dir}/{name}"), "");
                host.chmod(&format!("{dir}/{name}"), [0o644, 0o666, 0o4755, 0o2755, 0][dice.below(5)]);
            }
        }
        host.chmod(dir, [0o755, 0o777, 0o1777][dice.below(3)]);
    }
    if dice.one_in(3) {
        host.write("tree/sub/line\nbreak", "");
    }
    symlink("nowhere", host.path("tree/link")).unwrap();
    let Some(real) = find("find") else { return };
    let root = "n=$#; for a; do case $a in /) set -- \"$@\" \"$H/tree\";; *) set -- \"$@\" \"$a\";; esac; done; shift \"$n\"";
    let exit = ["", "; exit 1"][usize::from(dice.one_in(4))];
    let whole = format!("{root}\n{} \"$@\"{exit}", real.display());
    match dice.below(6) {
        0 => {}
        1 => host.tool(
            "find",
            &format!("case $* in *-printf*) echo 'no printf here' >&2; exit 1;; esac\n{whole}"),
        ),
        _ => host.tool("find", &whole),
    }
}

/// One check with a walk.
pub(crate) fn check(host: &Host, dice: &mut Dice) -> String {
    let place = |below: &str| host.path(below).to_str().unwrap().to_owned();
    let root = ["/".to_owned(), place("tree"), place("tree/sub"), place("missing")][dice.below(4)].clone();
    let root = format!("{root}{}", dice.pick(&["", " -xdev", " -xdev", " -xdev"]));
    let tests = dice.pick(&[
        "-type f",
        "-type d",
        "-perm -0002",
        "-type f -perm /6000",
        "-type d -perm -0002 -a ! -perm -1000",
        "-name 'a*'",
        "\\( -name '*b*' -o -name '1:' \\)",
        "! -type d",
        "-nouser",
        "-uid 0 -type f -print",
        "-type f -o -type l",
        "-perm 77777",
        "-maxdepth 1 -type f",
        "-type f -exec echo {} +",
        "-name \"$x\"",
    ]);
    let quiet = dice.pick(&["2>/dev/null", "2>/dev/null", "2>/dev/null", ""]);
    let walk = format!("find {root} {tests} {quiet}");
    let script = match dice.below(7) {
        0 => walk,
        1 => format!("{walk} | sort"),
        2 => format!("{walk} | grep -q b"),
        3 => format!("{walk}; exit 3"),
        4 => format!("{walk} && echo found"),
        5 => format!("found=$({walk}); [ -z \"$found\" ]"),
        _ => format!("# what is there\nn=$({walk} | wc -l)\necho \"$n\"; [ \"$n\" -lt 3 ]"),
    };
    let wanted = dice.pick(&["", "", ", expected_stdout: ''", ", expected_output: b", ", expected_exit: 1"]);
    format!("method: command, cmd: {}{wanted}", text(&script))
}
