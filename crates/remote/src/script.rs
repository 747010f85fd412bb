//! The shell text that is sent. Pure: nonce, indices and commands in, POSIX text out.
//!
//! Our names all start with `_k`, which no alias, function or rule in the wild uses. Every frame is one `printf` that
//! starts with a newline of its own, so that output without a final newline cannot hide it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::exec;

/// 128 random bits in hex that mark our frames in a stream full of other text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Nonce(String);

impl Nonce {
    /// A fresh one. `None` when the operating system has no randomness to give.
    pub(crate) fn fresh() -> Option<Self> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(hex::encode(bytes)))
    }

    pub(crate) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a lane's script is made from.
pub(crate) struct Lane<'a> {
    pub(crate) nonce: &'a Nonce,
    /// Names the spool directory; the same text is used to remove it after an abort.
    pub(crate) spool: &'a str,
    /// Process groups and spools of lanes that were abandoned.
    pub(crate) bury: &'a [Remains],
    /// Most bytes of one output stream, and of one spool file.
    pub(crate) cap: usize,
    /// Whether the account's own shell, where it is bash, runs the commands that are for it.
    pub(crate) login_shell: bool,
    /// Set when no `timeout` guards this shell: it then guards itself.
    pub(crate) watchdog: Option<Duration>,
}

/// What an abandoned lane may have left on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) group: Option<u32>,
    pub(crate) spool: String,
    /// Whether there may be a spool, as far as we have heard.
    pub(crate) spooled: bool,
}

/// Functions and the hello frame. While a command runs the lane's own standard error is closed off, because shells report
/// on it how their children died and those words are not the command's. A spool that ran full (`_kf`), or that no program
/// can read back (`_kh`), ends the lane: part of an answer would look like all of it. Reads the process group from `/proc` so
/// that it is only ever killed when it is ours alone: led by the `timeout` that we started, or by this shell. Whoever is told to
/// end (`_kq`) ends the command with a group of its own, if one runs: `$!` knows it from its first moment, and `_kj` is the last
/// child that is none or over.
pub(crate) fn prologue(lane: &Lane<'_>) -> String {
    let nonce = lane.nonce.as_str();
    let cap = lane.cap;
    let past_cap = cap.saturating_add(1);
    let blocks = past_cap.div_ceil(512);
    let spool = lane.spool;
    let kib = past_cap.div_ceil(1024);
    // Where one guards this lane it takes our arguments. Elsewhere there may be one that does not, and its complaint would
    // look like an answer: it is tried before its first use.
    let timeout = if lane.watchdog.is_some() { "'?'" } else { "t" };
    let own = if lane.login_shell { "case $SHELL in */bash) _kL=$SHELL;; esac" } else { ":" };
    let mut text = format!(
        r#"set +xv 2>/dev/null; \unalias -a 2>/dev/null; unset -f printf read [ command eval kill wait umask 2>/dev/null; unset ENV BASH_ENV CDPATH; LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/sbin:/sbin
_kn={nonce}; _kt={timeout}; _kd=; _kg=-; _kj=$!; _kL=/bin/sh; {own}
_kq(){{ [ "$_kj" = "$!" ] || kill -9 -"$!" 2>/dev/null; [ -z "$_kd" ] || rm -rf "$_kd"; exit 143; }}
trap _kq TERM HUP
_ku(){{ read -r _kU _kx 2>/dev/null </proc/uptime || _kU=-; }}
_kb(){{ _ku; printf '\n%s B %s %s\n' "$_kn" "$1" "$_kU"; }}
_ke(){{ _ku; if [ "$2" = - ]; then printf '\n%s E %s %s %s\n' "$_kn" "$1" "$_kR" "$_kU"; else printf '\n%s E %s %s %s\n\n%s B %s %s\n' "$_kn" "$1" "$_kR" "$_kU" "$_kn" "$2" "$_kU"; fi; printf '\n%s E %s\n' "$_kn" "$1" >&2; }}
_kr(){{ {{ ( _kc=$3; unset _kn; set --; eval "$_kc" ) </dev/null 2>&3 3>&-; _kR=$?; }} 3>&2 2>/dev/null; _ke "$1" "$2"; }}
_kl(){{ {{ ( unset _kn; exec "$_kL" -c "$3" ) </dev/null 2>&3 3>&-; _kR=$?; }} 3>&2 2>/dev/null; _ke "$1" "$2"; }}
_ks(){{ [ -z "$_kd" ] || return 0; for _kx in /dev/shm "/run/user/$(id -u)" "${{TMPDIR:-/tmp}}" /tmp; do if mkdir -m 700 "$_kx/{spool}" 2>/dev/null; then if (printf x >"$_kx/{spool}/o") 2>/dev/null; then _kd=$_kx/{spool}; trap 'rm -rf "$_kd"' EXIT; return 0; fi; rm -rf "$_kx/{spool}"; fi; done; return 1; }}
_kf(){{ {{ printf x >"$_kd/f" && : >"$_kd/f"; }} 2>/dev/null || exit 1; }}
_kh(){{ [ -s "$1" ] || return 0; head -c {past_cap} "$1" 2>/dev/null || dd bs=1024 count={kib} <"$1" 2>/dev/null || cat "$1" 2>/dev/null || exit 1; }}
_ki(){{ if [ "$_kt" = '?' ]; then if timeout -k 1 9 true; then _kt=t; else _kt=; fi </dev/null >/dev/null 2>&1; fi
if [ -z "$_kt" ]; then {{ ( unset _kn; exec "${{5:-/bin/sh}}" -c "$4" ) </dev/null 2>&3 3>&-; _kR=$?; }} 3>&2 2>/dev/null
elif _ks; then {{ ( unset _kn; ulimit -f {blocks} 2>/dev/null; exec timeout -k 1 "$3" "${{5:-/bin/sh}}" -c "$4" ) </dev/null >"$_kd/o" 2>"$_kd/e" & }} 2>/dev/null; {{ wait "$!"; _kR=$?; kill -9 -"$!"; }} 2>/dev/null; _kj=$!; _kf; _kh "$_kd/o"; _kh "$_kd/e" >&2
else ( unset _kn; exec timeout -k 1 "$3" "${{5:-/bin/sh}}" -c "$4" ) </dev/null & {{ wait "$!"; _kR=$?; kill -9 -"$!"; }} 2>/dev/null; _kj=$!; fi; _ke "$1" "$2"; }}
_kz(){{ printf '\n%s Z %s\n' "$_kn" "$1"; [ -z "$_kd" ] || rm -rf "$_kd"; [ "$_kg" = - ] || kill -9 -"$_kg"; exit 0; }}
"#
    );
    if let Some(limit) = lane.watchdog {
        let seconds = whole_seconds(limit);
        // Writing nowhere, so that it holds no pipe open; and only while it is still our child, so that it never kills a
        // process that merely inherited our number.
        let _ = writeln!(
            text,
            r#"( sleep {seconds}; read -r _kx _kx _kx _kp _kx </proc/self/stat && [ "$_kp" = "$$" ] && {{ kill -9 -$$ || kill -9 $$; }} ) </dev/null >/dev/null 2>&1 &
_kj=$!"#
        );
    }
    for remains in lane.bury {
        bury(&mut text, remains);
    }
    text.push_str(
        r#"if read -r _kx _kx _kx _kx _kp _kx </proc/$$/stat; then if [ "$_kp" = "$$" ]; then _kg=$_kp; elif [ "$_kp" = "$PPID" ] && read -r _kx </proc/$PPID/comm && [ "$_kx" = timeout ]; then _kg=$_kp; fi; fi 2>/dev/null
printf '\n%s H 1 %s %s\n' "$_kn" "$_kg" "$_kt"; printf '\n%s H\n' "$_kn" >&2
"#,
    );
    text
}

fn bury(text: &mut String, remains: &Remains) {
    if let Some(group) = remains.group {
        // Told first: a command with a time limit is in a group of its own, which the lane's shell takes down with it.
        let _ = writeln!(
            text,
            "kill -TERM -{group} 2>/dev/null && {{ sleep 0.1 2>/dev/null || sleep 1; kill -9 -{group} 2>/dev/null; }}"
        );
    }
    let spool = &remains.spool;
    let _ = writeln!(
        text,
        r#"rm -rf "/dev/shm/{spool}" "/run/user/$(id -u)/{spool}" "${{TMPDIR:-/tmp}}/{spool}" "/tmp/{spool}""#
    );
}

/// One command of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) index: usize,
    pub(crate) script: &'a str,
    /// Its own time limit, when it is to run in a process group of its own.
    pub(crate) isolated: Option<Duration>,
    /// For the account's own shell.
    pub(crate) login_shell: bool,
}

/// Several commands. The end of one and the start of the next travel in one frame; the first start has its own.
pub(crate) fn chunk(items: &[Item<'_>]) -> String {
    let mut text = String::new();
    for (at, item) in items.iter().enumerate() {
        if at == 0 {
            let _ = writeln!(text, "_kb {}", item.index);
        }
        let next = items.get(at + 1).map_or("-".to_owned(), |next| next.index.to_string());
        let body = if exec::is_one_program(item.script) {
            quote(&format!("exec {}", item.script.trim()))
        } else {
            quote(item.script)
        };
        let index = item.index;
        let _ = match (item.isolated.map(whole_seconds), item.login_shell) {
            (None, false) => writeln!(text, "_kr {index} {next} {body}"),
            (None, true) => writeln!(text, "_kl {index} {next} {body}"),
            (Some(limit), false) => writeln!(text, "_ki {index} {next} {limit} {body}"),
            (Some(limit), true) => writeln!(text, "_ki {index} {next} {limit} {body} \"$_kL\""),
        };
    }
    text
}

/// The end: how many commands this lane ran.
pub(crate) fn epilogue(count: usize) -> String {
    format!("_kz {count}\n")
}

/// One shell word that means exactly this text in every POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Seconds for `timeout` and `sleep`, rounded up; never 0, which would mean no limit at all.
pub(crate) fn whole_seconds(limit: Duration) -> u64 {
    limit.as_millis().div_ceil(1000).clamp(1, 1_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_quotes() {
        assert_eq!(quote("a'b"), r"'a'\''b'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn limits_round_up_and_are_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds(Duration::MAX), 1_000_000);
    }

    /// Told to end when a command has begun and the shell has not yet come to its next word, as on a machine that is busy: the
    /// command goes too.
    #[test]
    fn a_command_that_has_just_begun_goes_with_its_lane() {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number");
        let (nonce, spool) = (Nonce::of("n0"), format!("ow-{}", std::process::id()));
        let lane =
            Lane { nonce: &nonce, spool: &spool, bury: &[], cap: 1024, login_shell: false, watchdog: None };
        let script = format!("echo $$ >{}; exec sleep 60", number.display());
        let limit = Some(Duration::from_secs(60));
        let text = prologue(&lane)
            + &chunk(&[Item { index: 0, script: &script, isolated: limit, login_shell: false }]);
        let waits = "{ wait";
        assert_eq!(text.matches(waits).count(), 2, "{text}");
        let begun =
            format!("while [ ! -s {} ]; do sleep 0.1; done; kill -TERM $$; {waits}", number.display());
        let ended =
            std::process::Command::new("sh").arg("-c").arg(text.replace(waits, &begun)).output().unwrap();
        assert_eq!(ended.status.code(), Some(143), "{ended:?}");
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(&number).unwrap().trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while runs() {
            assert!(std::time::Instant::now() < until, "it goes on for a minute");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_chunk_names_the_next_of_each() {
        let item = |index, isolated| Item { index, script: "true", isolated, login_shell: index == 7 };
        let text = chunk(&[item(3, None), item(7, Some(Duration::from_secs(10)))]);
        assert_eq!(text, "_kb 3\n_kr 3 7 'true'\n_ki 7 - 10 'true' \"$_kL\"\n");
    }
}
