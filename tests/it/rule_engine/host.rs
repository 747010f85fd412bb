//! A host that a test can be any system on: a real SSH server that finds the test's own tools first.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use openwatch_tests::Program;
use openwatch_tests::sshd::{Options, Sshd};
use serde_json::Value;
use tempfile::TempDir;

/// The server, its tools, its files, and the rules to check it with.
pub(crate) struct Host {
    dir: TempDir,
    sshd: Sshd,
}

impl Host {
    /// One that says it is Debian 12 and has no tools of its own.
    pub(crate) fn new() -> Self {
        Self::through("PATH='{bin}':/usr/bin:/bin exec sh -c \"$SSH_ORIGINAL_COMMAND\"")
    }

    /// Commands go through this line of shell, where `{bin}` is the directory of the host's own tools.
    pub(crate) fn through(line: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ow-rule-engine-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["bin", "rules", "said", "etc"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let line = line.replace("{bin}", dir.path().join("bin").to_str().unwrap());
        let sshd = Options::new().force_command(&line).start();
        fs::write(dir.path().join("key"), sshd.private_key()).unwrap();
        fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let host = Self { dir, sshd };
        host.is("ID=debian\nVERSION_ID=\"12\"\n");
        host.tool(
            "cat",
            "case $1 in /etc/os-release) exec /bin/cat \"$H/os-release\";; esac\nexec /bin/cat \"$@\"",
        );
        host
    }

    /// What its os-release says.
    pub(crate) fn is(&self, os_release: &str) {
        fs::write(self.path("os-release"), os_release).unwrap();
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// A file of the host; its absolute path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path("etc").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A tool: shell text, with the host's directory in `$H`. Each call leaves a line in `calls`.
    pub(crate) fn tool(&self, name: &str, body: &str) {
        let dir = self.dir.path().display();
        let path = self.path("bin").join(name);
        let call = format!("echo \"{name} $*\" >>'{dir}/calls'");
        fs::write(&path, format!("#!/bin/sh\nH='{dir}'\n{call}\n{body}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A tool that says this, whatever it is asked.
    pub(crate) fn says(&self, name: &str, exit: i32, stdout: &str) {
        fs::write(self.path("said").join(name), stdout).unwrap();
        self.tool(name, &format!("/bin/cat \"$H/said/{name}\"; exit {exit}"));
    }

    /// As if it had never been installed.
    pub(crate) fn without(&self, name: &str) {
        self.tool(name, &format!("echo 'sh: 1: {name}: not found' >&2; exit 127"));
    }

    /// How often a tool was called since the host was made.
    pub(crate) fn calls(&self, of: &str) -> usize {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter(|line| line.starts_with(of)).count()
    }

    /// A rule with one check: more top-level lines, and the check in flow style.
    pub(crate) fn rule(&self, id: &str, more: &str, check: &str) {
        let way = format!("{{default: true, check: {{{check}}}}}");
        self.rule_of(id, more, &format!("[{way}]"));
    }

    /// A rule with these implementations, in flow style.
    pub(crate) fn rule_of(&self, id: &str, more: &str, implementations: &str) {
        self.rule_text(
            id,
            &format!(
                "id: {id}\ntitle: Test {id}\nseverity: high\nreferences: {{nist_800_53: [\"AC-6\"]}}\n{more}\n\
                 implementations: {implementations}\n"
            ),
        );
    }

    /// A rule file as it is.
    pub(crate) fn rule_text(&self, id: &str, text: &str) {
        fs::write(self.path("rules").join(format!("{id}.yml")), text).unwrap();
    }

    pub(crate) fn forget_rules(&self) {
        fs::remove_dir_all(self.path("rules")).unwrap();
        fs::create_dir(self.path("rules")).unwrap();
    }

    /// Checks it: the exit code and the whole report.
    pub(crate) async fn check(&self, more: &[&str]) -> Report {
        let user = format!("{}@127.0.0.1", self.sshd.user());
        let program = ["check", &user, "--host-key", "tofu", "--json", "-p"]
            .map(str::to_owned)
            .into_iter()
            .chain([self.sshd.port().to_string(), "-i".into(), self.path("key").display().to_string()])
            .chain(["--rules".to_owned(), self.path("rules").display().to_string()])
            .chain(more.iter().map(|arg| (*arg).to_owned()));
        let mut running = Program::new(program).env("HOME", self.dir.path()).spawn();
        // A check is seconds of work; a machine that builds and tests elsewhere may take its time over it.
        for _ in 0..1200 {
            if running.try_wait().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let code = running.wait().await.code();
        let (stdout, stderr) = (running.stdout(), running.stderr());
        let report: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("check ended in {code:?}: {error}\n{stdout}{stderr}"));
        let outcomes = report["outcomes"].as_array().unwrap().iter();
        let outcomes = outcomes.map(|o| (o["rule"].as_str().unwrap().to_owned(), o.clone())).collect();
        Report { code, whole: report, outcomes }
    }
}

/// What a check said.
pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) whole: Value,
    pub(crate) outcomes: BTreeMap<String, Value>,
}

impl Report {
    /// Status of a rule.
    pub(crate) fn status(&self, rule: &str) -> &str {
        self.outcomes[rule]["status"].as_str().unwrap()
    }

    pub(crate) fn detail(&self, rule: &str) -> &str {
        self.outcomes[rule]["detail"].as_str().unwrap()
    }

    /// The evidence of a rule, one entry for each logical command.
    pub(crate) fn evidence(&self, rule: &str) -> &[Value] {
        self.outcomes[rule]["evidence"]["checks"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Every rule with its status is as wanted.
    pub(crate) fn says(&self, wanted: &[(&str, &str)]) {
        for (rule, status) in wanted {
            assert_eq!(self.status(rule), *status, "{rule}: {}", self.outcomes[*rule]);
        }
    }
}
