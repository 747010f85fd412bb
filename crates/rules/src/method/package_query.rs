//! One question to both package databases about every package of a plan.
//!
//! Each rule's own command starts several processes, and dpkg reads its whole database for each. Both tools take many names
//! at once and say something about every one of them. Where one says nothing about a name (a wrapper that looks at its
//! first argument only, words of another language), that name is asked for alone, exactly as its rule would.

use std::fmt::Write as _;

use crate::shell::quote;

/// Prints the names that are installed, each on a line, and a last line with a dot.
pub(crate) fn package_query<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut script = String::from("# one question for every package\nset --");
    for name in names {
        // Writing to a string does not fail.
        let _ = write!(script, " {}", quote(name));
    }
    script.push_str(QUERY);
    script
}

/// Both answers become lines of `ii NAME` and `no NAME`. rpm prints name, version and release, and the last two hold no
/// dash.
const QUERY: &str = r#"
n='
'
r=; command -v rpm >/dev/null 2>&1 && r=$n$(rpm -q "$@" 2>/dev/null | sed -n -e 's/^package \(.*\) is not installed$/no \1/p' -e t -e 's/^\([^ ]*\)-[^- ]*-[^- ]*$/ii \1/p')$n
d=; command -v dpkg >/dev/null 2>&1 && d=$n$(COLUMNS=500 dpkg -l "$@" 2>&1 | sed -n -e 's/^.*no packages found matching \([^ ]*\)$/no \1/p' -e t -e 's/^ii[^ ]* *\([^ :]*\).*/ii \1/p' -e t -e 's/^[a-z][a-zA-Z][^ ]* *\([^ :]*\).*/no \1/p')$n
for p; do
case $r in
'') false;;
*"${n}ii $p$n"*) true;;
*"${n}no $p$n"*) false;;
*) rpm -q "$p" >/dev/null 2>&1;;
esac || case $d in
'') false;;
*"${n}ii $p$n"*) true;;
*"${n}no $p$n"*) false;;
*) dpkg -l "$p" 2>/dev/null | grep -q '^ii';;
esac && printf '%s\n' "$p"
done
echo ."#;

/// Whether a name is among the answers; `None` when the query did not come to its end.
pub(super) fn installed(answers: &[u8], name: &str) -> Option<bool> {
    let lines = answers.strip_suffix(b".\n").or_else(|| answers.strip_suffix(b"."))?;
    Some(lines.split(|b| *b == b'\n').any(|line| line == name.as_bytes()))
}

/// A name that both databases take for nothing but a name.
pub(super) fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._~".contains(&b))
}
