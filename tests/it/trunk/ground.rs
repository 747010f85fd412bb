//! A target whose truth a test knows: files that are there or not, and a corpus that asks for each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The files, and the rules about them.
pub(crate) struct Ground {
    dir: TempDir,
    rules: usize,
}

impl Ground {
    /// Rules `file-0` and so on, each content because its file is there.
    pub(crate) fn new(rules: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("ow-ground-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let it = Self { dir, rules };
        for number in 0..rules {
            let check = format!("method: file_exists\n      path: {}", it.file(number).display());
            it.rule(&rule(number), &check);
            it.set(number, true);
        }
        it
    }

    /// One more rule, `slow`, that takes so many seconds and is content.
    pub(crate) fn slow(self, seconds: u32) -> Self {
        self.rule("slow", &format!("method: command\n      run: sleep {seconds}"));
        self
    }

    /// Writes one more rule.
    pub(crate) fn rule(&self, id: &str, check: &str) {
        let text = format!(
            "id: {id}\ntitle: Test rule {id}\ndescription: A rule of a test.\nrationale: None.\nseverity: high\n\
             category: test\ntags: [test]\nreferences:\n  nist_800_53: [\"AC-6\"]\n\
             platforms:\n  - family: debian\n  - family: ubuntu\n  - family: rhel\n\
             implementations:\n  - default: true\n    check:\n      {check}\n"
        );
        std::fs::write(self.rules().join(format!("{id}.yml")), text).unwrap();
    }

    /// Where the rules are.
    pub(crate) fn rules(&self) -> PathBuf {
        self.dir.path().join("rules")
    }

    /// The same as an argument.
    pub(crate) fn rules_arg(&self) -> String {
        self.rules().display().to_string()
    }

    fn file(&self, number: usize) -> PathBuf {
        self.dir.path().join("files").join(number.to_string())
    }

    /// Puts a file there, or takes it away.
    pub(crate) fn set(&self, number: usize, there: bool) {
        let file = self.file(number);
        if there {
            std::fs::write(file, "").unwrap();
        } else {
            let _ = std::fs::remove_file(file);
        }
    }

    /// What a scan must say now of the rules about files.
    pub(crate) fn truth(&self) -> BTreeMap<String, String> {
        let status = |file: &Path| if file.exists() { "pass" } else { "fail" };
        (0..self.rules).map(|number| (rule(number), status(&self.file(number)).to_owned())).collect()
    }
}

/// Id of a rule about a file.
pub(crate) fn rule(number: usize) -> String {
    format!("file-{number}")
}
