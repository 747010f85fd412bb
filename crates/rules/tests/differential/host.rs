//! A make-believe host: a directory of tools that answer from files, and nothing else on the path.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use openwatch_model::plan::{Done, Observation, Plan};
use tempfile::TempDir;

use super::dice::Dice;

/// What every host has. The rest comes or does not come with a state.
const ALWAYS: [&str; 16] = [
    "cat", "grep", "sed", "stat", "wc", "head", "tail", "cut", "sort", "tr", "id", "ls", "printf", "echo",
    "true", "false",
];

/// A host in one state.
pub(crate) struct Host {
    dir: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::create_dir_all(dir.path().join("etc/drop.d")).unwrap();
        let host = Self { dir };
        for tool in ALWAYS {
            if let Some(found) = find(tool) {
                symlink(found, host.path("bin").join(tool)).unwrap();
            }
        }
        symlink("/bin/sh", host.path("bin/sh")).unwrap();
        host
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The absolute path of something below its `etc`, as rules would write it.
    pub(crate) fn etc(&self, below: &str) -> String {
        self.path("etc").join(below).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn chmod(&self, below: &str, mode: u32) {
        fs::set_permissions(self.path(below), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A tool: a shell script, with the host's directory in `$H`.
    pub(crate) fn tool(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\nH='{}'\n{body}\n", self.dir.path().display());
        self.write(&format!("bin/{name}"), text);
        self.chmod(&format!("bin/{name}"), 0o755);
    }

    /// A tool that prints a text and exits, whatever it is asked.
    pub(crate) fn says(&self, name: &str, exit: i32, stdout: &str) {
        self.write(&format!("said/{name}"), stdout);
        self.tool(name, &format!("echo 'a word on stderr' >&2\ncat \"$H/said/{name}\"\nexit {exit}"));
    }

    /// Runs a script as a scan would.
    pub(crate) fn run(&self, script: &str) -> Done {
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Done {
            exit: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr: output.stderr,
            ..Done::default()
        }
    }

    pub(crate) fn observe(&self, plan: &Plan) -> Vec<Observation> {
        plan.commands.iter().map(|command| Observation::Done(self.run(&command.script))).collect()
    }
}

pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|p| p.exists())
}

/// Package names that rules and hosts are made of. Some are the beginning of others.
pub(crate) const PACKAGES: [&str; 9] =
    ["foo", "foo-bar", "foo-bar-baz", "libX11", "aide", "NetworkManager", "gtk2.0", "c++", "foo-1.0"];

/// Installs a package database or two with random packages. Kinds: none, real, in another language, a wrapper that looks at
/// one name only, broken.
pub(crate) fn packages(host: &Host, dice: &mut Dice, kind: usize) {
    let chosen: Vec<&str> = PACKAGES.into_iter().filter(|_| dice.one_in(2)).collect();
    let rows: String = chosen.iter().map(|name| format!("{name} 1.0 2 noarch\n")).collect();
    host.write("rpm.db", rows);
    // One question of rpm: the name alone, with a version, with a release, with an architecture.
    const ONE: &str = r#"one() { while read -r n v r a; do for l in "$n" "$n-$v" "$n-$v-$r" "$n.$a"; do
if [ "$1" = "$l" ]; then echo "$n-$v-$r.$a"; return 0; fi; done; done <"$H/rpm.db"; echo "$WORD $1 $REST"; return 1; }
[ "$1" = -q ] || exit 9; shift"#;
    let all = format!("{ONE}\ne=0; for p; do one \"$p\" || e=$((e+1)); done; exit $e");
    match kind % 6 {
        0 => {}
        1 | 2 => host.tool("rpm", &format!("WORD=package REST='is not installed'\n{all}")),
        3 => host.tool("rpm", &format!("WORD=Paket REST='ist nicht installiert'\n{all}")),
        4 => host.tool("rpm", &format!("WORD=package REST='is not installed'\n{ONE}\none \"$1\"")),
        _ => host.says("rpm", 1, "error: cannot open the database\n"),
    }
    let state = |dice: &mut Dice| ["ii ", "ii ", "rc ", "hi ", "un ", "iU ", "iiR"][dice.below(7)];
    let arch = |dice: &mut Dice| ["", ":amd64"][dice.below(2)];
    let mut rows = String::new();
    for name in PACKAGES {
        if dice.one_in(2) {
            rows.push_str(&format!("{} {name}{} 1.0 amd64 words\n", state(dice), arch(dice)));
            if dice.one_in(4) {
                rows.push_str(&format!("{} {name}:i386 1.0 i386 words\n", state(dice)));
            }
        }
    }
    host.write("dpkg.db", rows);
    const LIST: &str = r#"[ "$1" = -l ] || exit 9; shift; e=0
echo 'Desired=Unknown/Install/Remove/Purge/Hold'; echo '||/ Name Version Architecture Description'; echo '+++-====-====-====-===='
for p; do f=; while IFS= read -r l; do set -f; s=${l#???}; s=${s# }; n=${s%% *}; case ${n%%:*} in "$p") f=y; echo "$l";; esac; done <"$H/dpkg.db"
[ -n "$f" ] || { echo "dpkg-query: no packages found matching $p" >&2; e=1; }; done; exit $e"#;
    match kind % 5 {
        1 | 2 => {}
        0 | 3 => host.tool("dpkg", LIST),
        _ => host.tool("dpkg", &LIST.replace("for p;", "for p in \"$1\";")),
    }
}
