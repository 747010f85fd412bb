//! A pretend host: a directory that stands for `/` and a set of tools that say what a fixture tells them to, so that
//! the real commands of a rule run for real without reading this machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use openwatch_model::plan::{Done, Observation, Plan};
use serde::Deserialize;
use tempfile::TempDir;

/// One state of a host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Which family: `debian` (the default) or `el`.
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// Its capabilities, instead of the family's usual ones.
    #[serde(default)]
    pub(crate) with: Option<Vec<String>>,
    /// Variables that its policy sets.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    /// Files below `/`. A name that ends in a slash is a directory and its value the mode.
    #[serde(default)]
    files: BTreeMap<String, File>,
    /// What tools say: the tool, then the last of its arguments (see [`SHIM`]).
    #[serde(default)]
    tools: BTreeMap<String, Answer>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum File {
    Text(String),
    Mode { mode: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Says(String),
    Ends {
        exit: i32,
        #[serde(default)]
        out: String,
    },
}

/// Tools that always answer from the fixture; one that has nothing to say about its subject ends with 1.
const SHIMS: [&str; 17] = [
    "aa-status",
    "auditctl",
    "authselect",
    "findmnt",
    "getenforce",
    "gsettings",
    "lsmod",
    "modprobe",
    "nft",
    "realm",
    "ss",
    "sshd",
    "stat",
    "sysctl",
    "systemctl",
    "ufw",
    "iptables",
];

/// Tools that are the real ones unless the fixture gives them something to say.
const REAL: [&str; 26] = [
    "awk", "basename", "cat", "cut", "dirname", "echo", "env", "false", "find", "grep", "head", "id", "ls",
    "mawk", "printf", "readlink", "sed", "sh", "sort", "tail", "test", "tr", "true", "uniq", "wc", "xargs",
];

/// Finds what it was asked about: the words after the tool for systemctl, nothing for tools with one answer, and the
/// last argument for the rest.
const SHIM: &str = r#"#!/bin/sh
name=${0##*/}
case $name in
  systemctl) key=$name; for word; do case $word in -*) ;; *) key="$key $word" ;; esac; done ;;
  aa-status | find | getenforce | lsmod | ss | sshd) key=$name ;;
  *) for word; do :; done; key="$name ${word#"$PRETEND_ROOT"}" ;;
esac
case $key in
"#;

/// The tree and the tools, on disk for as long as this lives.
pub(crate) struct Host {
    dir: TempDir,
}

impl Host {
    pub(crate) fn new(case: &Case) -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(host.root()).unwrap();
        for (name, file) in &case.files {
            host.write(name, file);
        }
        host.install(case);
        host
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn tools(&self) -> PathBuf {
        self.dir.path().join("tools")
    }

    fn write(&self, name: &str, file: &File) {
        let path = self.root().join(name);
        let (text, mode) = match file {
            File::Text(text) if name.ends_with('/') => ("", text.as_str()),
            File::Text(text) => (text.as_str(), "0644"),
            File::Mode { mode } => ("", mode.as_str()),
        };
        if name.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, self.rooted(text)).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap())).unwrap();
    }

    fn install(&self, case: &Case) {
        fs::create_dir(self.tools()).unwrap();
        let shim = self.tools().join(".shim");
        let mut script = SHIM.to_owned();
        for (key, answer) in &case.tools {
            let (out, exit) = match answer {
                Answer::Says(out) => (out, 0),
                Answer::Ends { exit, out } => (out, *exit),
            };
            writeln!(script, "  {}) printf %s {}; exit {exit} ;;", quoted(key), quoted(&self.rooted(out)))
                .unwrap();
        }
        script.push_str("esac\nexit 1\n");
        fs::write(&shim, script).unwrap();
        fs::set_permissions(&shim, Permissions::from_mode(0o755)).unwrap();

        let packages: &[&str] =
            if case.is_el() { &["rpm"] } else { &["dpkg", "dpkg-query", "apt-config", "apt-get"] };
        let mentioned = case.tools.keys().filter_map(|key| key.split(' ').next());
        let shims: std::collections::BTreeSet<&str> =
            SHIMS.into_iter().chain(packages.iter().copied()).chain(mentioned).collect();
        for name in &shims {
            symlink(&shim, self.tools().join(name)).unwrap();
        }
        for name in REAL.into_iter().filter(|name| !shims.contains(name)) {
            let found =
                ["/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
            if let Some(path) = found {
                symlink(path, self.tools().join(name)).unwrap();
            }
        }
    }

    /// Runs every command of a plan against the tree.
    pub(crate) fn observe(&self, plan: &Plan) -> Vec<Observation> {
        plan.commands.iter().map(|command| self.run(&command.script)).collect()
    }

    fn run(&self, script: &str) -> Observation {
        let root = self.root();
        let output = Command::new(self.tools().join("sh"))
            .args(["-c", &in_tree(script, root.to_str().unwrap())])
            .env_clear()
            .env("PATH", self.tools())
            .env("PRETEND_ROOT", &root)
            .current_dir(&root)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let exit = output.status.code().expect("a command ended by a signal");
        Observation::Done(Done { exit, stdout: output.stdout, stderr: output.stderr, ..Done::default() })
    }

    /// `@ROOT@` in a fixture is the directory that stands for `/`.
    fn rooted(&self, text: &str) -> String {
        text.replace("@ROOT@", self.root().to_str().unwrap())
    }
}

impl Case {
    pub(crate) fn is_el(&self) -> bool {
        match self.host.as_deref() {
            None | Some("debian") => false,
            Some("el") => true,
            Some(other) => panic!("a fixture names the host {other}"),
        }
    }
}

/// The script with each path of the real system moved below `root`. Only whole path words move: the `(/usr)?/bin`
/// of a pattern stays as it is.
fn in_tree(script: &str, root: &str) -> String {
    const MOVED: [&str; 12] = [
        "/boot",
        "/etc",
        "/home",
        "/lib",
        "/opt",
        "/proc",
        "/root",
        "/run",
        "/sys",
        "/usr",
        "/var/log",
        "/var/spool",
    ];
    let mut moved = String::with_capacity(script.len() * 2);
    for (i, c) in script.char_indices() {
        let starts_word = !script[..i].ends_with(|p: char| p.is_ascii_alphanumeric() || "_./-$}".contains(p));
        let is_moved = |path: &str| {
            let rest = script[i..].strip_prefix(path);
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(|n: char| n.is_whitespace() || "/;'\"".contains(n))
            })
        };
        if c == '/' && starts_word && MOVED.into_iter().any(is_moved) {
            moved.push_str(root);
        }
        moved.push(c);
    }
    moved
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn only_real_paths_move() {
    assert_eq!(
        in_tree("cat /etc/a '/proc/b' ./etc x/etc /etcetera", "/t"),
        "cat /t/etc/a '/t/proc/b' ./etc x/etc /etcetera"
    );
    assert_eq!(in_tree("for d in /etc /usr; do :; done", "/t"), "for d in /t/etc /t/usr; do :; done");
    assert_eq!(in_tree("(/usr)?/bin/true 2>/dev/null", "/t"), "(/usr)?/bin/true 2>/dev/null");
}
