//! `audit_rule_exists`: audit rules that the kernel has loaded. One `auditctl -l` serves every rule.

use std::collections::BTreeSet;

use super::{Ready, Step, Stop, Verdict, one, required};
use crate::rule::Leaf;

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let wanted: Vec<String> = required(leaf, "rule")?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    one(Step::whole("auditctl -l 2>/dev/null"), move |seen| {
        let loaded: Vec<AuditRule> = seen.stdout.lines().map(AuditRule::parse).collect();
        match wanted.iter().find(|line| !is_loaded(line, &loaded)) {
            Some(line) => Verdict::fail(format!("audit rule is not loaded: {line}")),
            None => Verdict::pass_if(true, "every audit rule is loaded"),
        }
    })
}

fn is_loaded(wanted: &str, loaded: &[AuditRule]) -> bool {
    let rule = AuditRule::parse(wanted);
    if wanted.starts_with("-w") {
        return loaded.iter().any(|line| line.tokens == rule.tokens);
    }
    loaded.iter().any(|line| rule.is_met_by(line))
}

/// Fields whose first value has to be the same.
const FIELDS: [&str; 4] = ["arch=", "path=", "perm=", "exit="];

/// An audit rule, taken apart.
struct AuditRule<'a> {
    tokens: Vec<&'a str>,
    /// The first value of each of [`FIELDS`].
    fields: [Option<&'a str>; 4],
    key: Option<&'a str>,
    syscalls: BTreeSet<&'a str>,
    /// Who is watched, in the kernel's words.
    auids: Vec<&'a str>,
}

impl<'a> AuditRule<'a> {
    fn parse(line: &'a str) -> Self {
        let tokens: Vec<&str> = line.split_whitespace().collect();
        let mut rule = Self {
            tokens: Vec::new(),
            fields: [None; 4],
            key: None,
            syscalls: BTreeSet::new(),
            auids: Vec::new(),
        };
        for (i, token) in tokens.iter().enumerate() {
            match (*token, tokens.get(i + 1)) {
                ("-F", Some(value)) => rule.field(value),
                ("-k", Some(key)) => rule.key = rule.key.or(Some(key)),
                ("-S", Some(list)) => rule.syscalls.extend(list.split(',').filter(|name| !name.is_empty())),
                (token, _) if token.len() > 2 && token.starts_with("-k") => {
                    rule.key = rule.key.or(Some(&token[2..]))
                }
                _ => {}
            }
        }
        rule.tokens = tokens;
        rule
    }

    fn field(&mut self, value: &'a str) {
        for (slot, name) in self.fields.iter_mut().zip(FIELDS) {
            if value.starts_with(name) {
                *slot = slot.or(Some(value));
            }
        }
        if let Some(key) = value.strip_prefix("key=") {
            self.key = self.key.or(Some(key));
        }
        if value.starts_with("auid") {
            // auditctl prints the unset id as a number.
            self.auids.push(if value == "auid!=unset" { "auid!=-1" } else { value });
        }
    }

    /// Whether a loaded line does at least what this one wants. What neither names is not compared.
    fn is_met_by(&self, loaded: &Self) -> bool {
        let [arch, path, _, exit] = self.fields;
        let distinct = arch.is_some() || path.is_some() || exit.is_some() || !self.syscalls.is_empty();
        self.fields.iter().zip(loaded.fields).all(|(want, have)| want.is_none() || *want == have)
            && (self.key.is_none() || self.key == loaded.key)
            && (self.syscalls.is_empty() || self.syscalls == loaded.syscalls)
            && self.auids.iter().all(|auid| loaded.tokens.contains(auid))
            && (distinct || self.tokens == loaded.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ready, stop};
    use super::super::{Answers, Stop};
    use super::*;
    use crate::rule::Value;

    const GROUP: &str = "-w /etc/group -p wa -k usergroup";
    const SUDO: &str = "-a always,exit -S execve -F arch=b64 -F path=/usr/bin/sudo -F perm=x -F auid>=1000 -F auid!=-1 -F key=priv_cmd";
    const CHMOD: &str = "-a always,exit -F arch=b64 -S chmod,fchmod,fchmodat -F auid>=1000 -F auid!=-1 -F key=perm_chng\n\
                         -a always,exit -F arch=b32 -S fchmodat,chmod,fchmod -F auid>=1000 -F auid!=-1 -F key=perm_chng";

    fn loaded(wanted: &str, output: &str) -> bool {
        let mut leaf = super::super::testing::leaf("method: audit_rule_exists, rule: x");
        leaf.params.insert("rule".into(), Value::Text(wanted.into()));
        let Ok(ready) = compile(&leaf) else { panic!("{wanted} compiles") };
        let observation = super::super::testing::done(1, output);
        let mut answers = Answers::new(&ready.steps, vec![&observation]);
        (ready.judge)(&mut answers).unwrap().status == openwatch_model::Status::Pass
    }

    fn both(syscalls: &str) -> String {
        ["b32", "b64"]
            .map(|arch| {
                format!(
                    "-a always,exit -F arch={arch} -S {syscalls} -F auid>=1000 -F auid!=unset -k perm_chng"
                )
            })
            .join("\n")
    }

    #[test]
    fn watches_are_compared_whole() {
        assert!(loaded("-w  /etc/group -p wa   -k usergroup", GROUP));
        for path in ["/etc/passwd", "/etc/shadow", "/etc/gshadow", "/etc/security/opasswd"] {
            assert!(!loaded(&format!("-w {path} -p wa -k usergroup"), GROUP), "{path}");
        }
        assert!(!loaded("-w /etc/group", GROUP));
    }

    #[test]
    fn pinned_rules() {
        let sudo = |path: &str| {
            format!("-a always,exit -F path={path} -F perm=x -F auid>=1000 -F auid!=unset -k priv_cmd")
        };
        assert!(loaded(&sudo("/usr/bin/sudo"), SUDO));
        assert!(!loaded(&sudo("/usr/bin/chsh"), SUDO));
        assert!(!loaded(&sudo("/usr/bin/su"), SUDO));
        assert!(loaded(&sudo("/usr/bin/su"), &SUDO.replace("sudo", "su")));
        assert!(loaded(&both("chmod,fchmod,fchmodat"), CHMOD));
        assert!(!loaded(&both("chown,fchown,fchownat,lchown"), CHMOD));
        assert!(!loaded(&both("chmod,fchmod"), CHMOD));
        assert!(!loaded(&both("chmod,fchmod,fchmodat"), CHMOD.lines().next().unwrap()));
        let execve = |auid: &str| format!("-a always,exit -F arch=b64 -S execve -F auid>={auid} -F key=exec");
        assert!(!loaded(&execve("1000"), &execve("10000")));
        assert!(loaded(&execve("1000"), &execve("1000")));
    }

    #[test]
    fn details_of_matching() {
        let line = "-a always,exit -F arch=b64 -S open -F exit=-EACCES -F auid>=1000 -F key=access";
        assert!(loaded("# remark\n\n-a never,exit -F arch=b64 -S open -F exit=-EACCES -kaccess", line));
        assert!(!loaded("-a always,exit -F arch=b64 -S open -F exit=-EPERM -k access", line));
        assert!(!loaded("-a always,exit -F arch=b64 -S open -k other", line));
        assert!(loaded(
            "-a always,exit -F arch=b64 -S open,creat",
            "-a always,exit -F arch=b64 -S creat -S open"
        ));
        assert!(!loaded("-F auid!=4294967295 -S open", "-S open -F auid!=-1"));
        // Nothing that tells it apart: then the whole line has to be there.
        assert!(!loaded("-k logins", "-w /var/log/lastlog -p wa -k logins"));
        assert!(loaded("-a always,exit -F perm=x", "-a  always,exit -F perm=x"));
        assert!(!loaded("-a always,exit -F perm=x", "-a always,exit -F perm=x -F auid>=1"));
        assert!(loaded("# only a remark", "No rules"));
        assert!(matches!(stop("method: audit_rule_exists, rule: ''"), Stop::Broken(_)));
        assert_eq!(ready("method: audit_rule_exists, rule: -D").steps[0].command, "auditctl -l 2>/dev/null");
    }
}
