//! A second reading of the rule language, as slow and as plain as it can be: one command after the other, each rule for
//! itself, no sharing, and the verdict read straight out of what was printed. It shares no code with the engine but the
//! decoded rule.

use std::collections::BTreeSet;

use openwatch_model::Status;
use openwatch_model::plan::Done;
use openwatch_rules::{Check, Leaf, Value};

use super::host::Host;

/// What one rule came to: its status, and the exit status and output of each command that had to run.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) status: Status,
    pub(crate) ran: Vec<(String, i32, String)>,
}

pub(crate) fn read(host: &Host, check: &Check) -> Read {
    let mut reader = Reader { host, ran: Vec::new() };
    let status = reader.check(check);
    Read { status, ran: reader.ran }
}

struct Reader<'h> {
    host: &'h Host,
    ran: Vec<(String, i32, String)>,
}

fn q(text: &str) -> String {
    let mut word = String::from("'");
    for c in text.chars() {
        match c {
            '\'' => word.push_str("'\\''"),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

fn yes(holds: bool) -> Status {
    if holds { Status::Pass } else { Status::Fail }
}

impl Reader<'_> {
    fn check(&mut self, check: &Check) -> Status {
        match check {
            Check::One(leaf) => self.leaf(leaf).unwrap_or(Status::Error),
            Check::All(checks) => {
                let mut all = Status::Pass;
                for check in checks {
                    match self.check(check) {
                        Status::Pass => {}
                        Status::Fail => all = Status::Fail,
                        stops => return stops,
                    }
                }
                all
            }
        }
    }

    fn run(&mut self, command: String) -> (i32, String) {
        let Done { exit, stdout, .. } = self.host.run(&command);
        let mut text = String::from_utf8(stdout).unwrap();
        if text.ends_with('\n') {
            text.pop();
        }
        self.ran.push((command, exit, text.clone()));
        (exit, text)
    }

    fn exit(&mut self, command: String) -> i32 {
        self.run(command).0
    }

    /// `None`: the rule is wrong.
    fn leaf(&mut self, leaf: &Leaf) -> Option<Status> {
        let text = |name: &str| match leaf.params.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        let or = |name: &str, default: &'static str| text(name).unwrap_or(default).to_owned();
        let status = match leaf.method.as_str() {
            "command" => self.command(leaf, text("cmd").or(text("run"))?),
            "package_state" => self.package(text("name")?, text("state") != Some("absent")),
            "package_installed" => self.package(text("name")?, true),
            "package_absent" => self.package(text("name")?, false),
            "dpkg_installed" => yes(self.dpkg(text("name")?) == 0),
            "dpkg_absent" => yes(self.dpkg(text("name")?) != 0),
            "audit_rule_exists" => self.audit(text("rule")?),
            "config_value" => self.config(leaf, text("path")?, text("key")?)?,
            "sshd_effective_config" => {
                let (key, expected) = (text("key")?.to_lowercase(), text("expected")?);
                let (exit, out) =
                    self.run(format!("sshd -T 2>/dev/null | grep -i {}", q(&format!("^{key} "))));
                let line = out.split('\n').next().unwrap_or("");
                match line.find(' ') {
                    Some(at) if exit == 0 && !line[at..].trim().is_empty() => {
                        yes(line[at..].trim().to_lowercase() == expected.to_lowercase())
                    }
                    _ => Status::Fail,
                }
            }
            "service_state" => {
                self.service(text("name")?, leaf.params.get("enabled"), leaf.params.get("active"))
            }
            "service_enabled" => self.service(text("name")?, Some(&Value::Bool(true)), None),
            "service_active" => self.service(text("name")?, None, Some(&Value::Bool(true))),
            "file_permission" | "file_permissions" => {
                let wanted = [text("mode"), text("owner"), text("group")];
                let path = text("path")?;
                if wanted == [None; 3] {
                    return None;
                }
                let (exit, out) = self.run(format!("stat -c '%a %U %G' {}", q(path)));
                let strip = |mode: &str| match mode.trim_start_matches('0') {
                    "" => "0".to_owned(),
                    rest => rest.to_owned(),
                };
                let found: Vec<&str> = out.split_whitespace().collect();
                yes(exit == 0
                    && found.len() >= 3
                    && wanted[0].is_none_or(|mode| strip(mode) == strip(found[0]))
                    && wanted[1].is_none_or(|owner| owner == found[1])
                    && wanted[2].is_none_or(|group| group == found[2]))
            }
            "file_exists" => yes(self.exit(format!("[ -e {} ]", q(text("path")?))) == 0),
            "file_absent" => yes(self.exit(format!("[ ! -e {} ]", q(text("path")?))) == 0),
            "file_content" => {
                let (path, content) = (text("path")?, text("expected_content")?);
                yes(self.exit(format!("grep -qF {} {}", q(content), q(path))) == 0)
            }
            "file_content_match" => {
                let (path, pattern) = (text("path")?, text("pattern")?);
                yes(self.exit(format!("grep -qE {} {}", q(pattern), q(path))) == 0)
            }
            "sysctl_value" => {
                let (key, expected) = (text("key")?, text("expected")?);
                let (exit, out) = self.run(format!("sysctl -n {}", q(key)));
                yes(exit == 0 && compare(out.trim(), expected, &or("comparator", "=="), false))
            }
            "mount_option" => {
                let point = text("mount_point")?;
                let Some(Value::List(options)) = leaf.params.get("options") else { return None };
                let mut wanted = Vec::new();
                for option in options {
                    let Value::Text(option) = option else { return None };
                    wanted.push(option.as_str());
                }
                let (exit, out) = self.run(format!("findmnt -n -o OPTIONS {} 2>/dev/null", q(point)));
                let has = |wanted: &&str| {
                    out.trim().split(',').any(|o| o.find('=').map_or(o, |at| &o[..at]) == *wanted)
                };
                yes(exit == 0 && wanted.iter().all(has))
            }
            "kernel_module_state" => {
                let name = text("name")?;
                if self.exit(format!("lsmod 2>/dev/null | grep -qw {}", q(name))) == 0 {
                    return Some(Status::Fail);
                }
                if text("state") == Some("blacklisted") {
                    let pattern = q(&format!("blacklist\\s\\+{name}"));
                    return Some(yes(
                        self.exit(format!("grep -rq {pattern} /etc/modprobe.d/ 2>/dev/null")) == 0
                    ));
                }
                let (_, out) = self.run(format!("modprobe -n --show-depends {} 2>&1", q(name)));
                let has = |words: &str| out.contains(words);
                yes(has("install /bin/true") || has("install /bin/false") || has("not found"))
            }
            "grub_parameter" => {
                let (key, expected) = (text("key")?, text("expected")?);
                let (_, running) = self.run("cat /proc/cmdline 2>/dev/null".into());
                let (_, stored) = self.run("grep 'GRUB_CMDLINE_LINUX' /etc/default/grub 2>/dev/null".into());
                let pair = format!("{key}={expected}");
                let token = |t: &str| t == pair || (t == key && expected == "1");
                yes(running.split_whitespace().any(token) && (stored.contains(&pair) || stored.contains(key)))
            }
            "selinux_state" => {
                let state = text("state")?;
                let (_, out) = self.run("getenforce 2>/dev/null".into());
                yes(out.trim().to_lowercase() == state.to_lowercase())
            }
            "systemd_target" => {
                let (_, out) = self.run("systemctl get-default 2>/dev/null".into());
                let is = |target: &str| out.trim().to_lowercase() == target.to_lowercase();
                match (text("expected"), text("not_expected")) {
                    (Some(wanted), _) => yes(is(wanted)),
                    (None, Some(unwanted)) => yes(!is(unwanted)),
                    (None, None) => Status::Error,
                }
            }
            "set_compare" => self.set(leaf, text("observed_command")?, text("alias_separator"))?,
            _ => return None,
        };
        Some(status)
    }

    fn command(&mut self, leaf: &Leaf, script: &str) -> Status {
        let number = |name: &str| match leaf.params.get(name) {
            Some(Value::Int(number)) => Some(*number),
            Some(Value::Float(number)) => Some(number.trunc() as i64),
            _ => None,
        };
        let (exit, out) = self.run(script.to_owned());
        let exit = i64::from(exit);
        if number("not_assessable_exit") == Some(exit) {
            return Status::Skipped;
        }
        if exit != number("expected_exit").unwrap_or(0) {
            return Status::Fail;
        }
        let key =
            ["expected_output", "expected_stdout"].into_iter().find(|key| leaf.params.contains_key(*key));
        match key.map(|key| &leaf.params[key]) {
            None => Status::Pass,
            Some(Value::Text(wanted)) if !wanted.trim().is_empty() => yes(out.contains(wanted.as_str())),
            Some(_) => yes(out.trim().is_empty()),
        }
    }

    fn package(&mut self, name: &str, wanted: bool) -> Status {
        let name = q(name);
        let dpkg = format!("(command -v dpkg >/dev/null 2>&1 && dpkg -l {name} 2>/dev/null | grep -q '^ii')");
        let command = match wanted {
            true => format!("rpm -q {name} >/dev/null 2>&1 || {dpkg}"),
            false => format!("! rpm -q {name} >/dev/null 2>&1 && ! {dpkg}"),
        };
        yes(self.exit(command) == 0)
    }

    fn dpkg(&mut self, name: &str) -> i32 {
        self.exit(format!("dpkg -l {} 2>/dev/null | grep -q '^ii'", q(name)))
    }

    fn service(&mut self, name: &str, enabled: Option<&Value>, active: Option<&Value>) -> Status {
        if let Some(enabled) = enabled {
            let (_, out) = self.run(format!("systemctl is-enabled {}", q(name)));
            let on = ["enabled", "enabled-runtime"].contains(&out.trim());
            let pulled_in = ["static", "generated"].contains(&out.trim());
            if !if *enabled == Value::Bool(true) { on || pulled_in } else { !on } {
                return Status::Fail;
            }
        }
        if let Some(active) = active {
            let runs = self.exit(format!("systemctl is-active {}", q(name))) == 0;
            return yes(runs == (*active == Value::Bool(true)));
        }
        Status::Pass
    }

    fn config(&mut self, leaf: &Leaf, path: &str, key: &str) -> Option<Status> {
        let text = |name: &str| match leaf.params.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        leaf.params.get("expected")?;
        let mut escaped = String::new();
        for c in key.chars() {
            if r"\.+*?()|[]{}^$".contains(c) {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        let tree = text("scan_pattern").map(|suffix| format!("{}/*.{suffix}", q(path)));
        let Some(expected) = text("expected") else {
            let pattern = q(&format!("^\\s*{escaped}\\s*$"));
            let command = match tree {
                Some(tree) => format!("grep -rqE {pattern} {tree} 2>/dev/null"),
                None => format!("grep -qE {pattern} {} 2>/dev/null", q(path)),
            };
            return Some(yes(self.exit(command) == 0));
        };
        let delimiter = text("delimiter").unwrap_or("=");
        let pattern = match delimiter {
            " " => q(&format!("^\\s*{escaped}\\s+")),
            _ => q(&format!("^\\s*{escaped}\\s*[{delimiter}:]\\s*")),
        };
        let line = if let Some(dir) = text("dropin_dir") {
            let (_, out) = self.run(format!("grep -E {pattern} {} {}/*.conf 2>/dev/null", q(path), q(dir)));
            out.split('\n').rfind(|line| !line.trim().is_empty()).map(str::to_owned)
        } else {
            let command = match tree {
                Some(tree) => format!("grep -rE {pattern} {tree} 2>/dev/null"),
                None => format!("grep -E {pattern} {} 2>/dev/null", q(path)),
            };
            let (exit, out) = self.run(command);
            (exit == 0).then(|| out.split('\n').next().unwrap_or("").to_owned())
        };
        let Some(mut line) = line else { return Some(Status::Fail) };
        if let Some(colon) = line.find(':')
            && line[..colon].contains('/')
        {
            line = line[colon + 1..].to_owned();
        }
        let value = if delimiter == " " {
            let line = line.trim_start();
            let rest = line.strip_prefix(key).unwrap_or(line).trim();
            if rest.is_empty() {
                return Some(Status::Fail);
            }
            rest
        } else {
            let found =
                line.find(delimiter).map(|at| at + delimiter.len()).or(line.find(':').map(|at| at + 1));
            match found {
                Some(after) => line[after..].trim(),
                None => return Some(Status::Fail),
            }
        };
        Some(yes(compare(value, expected, text("comparator").unwrap_or("=="), true)))
    }

    fn set(&mut self, leaf: &Leaf, observer: &str, separator: Option<&str>) -> Option<Status> {
        let declared = match leaf.params.get("authorized")? {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        let known: BTreeSet<&str> = declared.split(',').map(str::trim).filter(|m| !m.is_empty()).collect();
        if known.is_empty() {
            return Some(Status::Skipped);
        }
        let (exit, out) = self.run(observer.to_owned());
        if exit != 0 {
            return Some(Status::Error);
        }
        for line in out.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
            let names: Vec<&str> = match separator {
                Some(separator) => line.split(separator).map(str::trim).filter(|n| !n.is_empty()).collect(),
                None => vec![line],
            };
            if !names.is_empty() && !names.iter().any(|name| known.contains(name)) {
                return Some(Status::Fail);
            }
        }
        Some(Status::Pass)
    }

    fn audit(&mut self, wanted: &str) -> Status {
        let (_, out) = self.run("auditctl -l 2>/dev/null".into());
        let collapse = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let loaded: Vec<String> = out.split('\n').map(collapse).collect();
        for line in wanted.split('\n').map(collapse) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !loaded.iter().any(|loaded| audit_line(&line, loaded)) {
                return Status::Fail;
            }
        }
        Status::Pass
    }
}

/// Whether a loaded audit rule answers a wanted one; both with single blanks.
fn audit_line(wanted: &str, loaded: &str) -> bool {
    if wanted.starts_with("-w") {
        return wanted == loaded;
    }
    let field = |line: &str, name: &str| {
        let tokens: Vec<&str> = line.split(' ').collect();
        tokens.windows(2).find(|t| t[0] == "-F" && t[1].starts_with(name)).map(|t| t[1].to_owned())
    };
    let key = |line: &str| {
        let tokens: Vec<&str> = line.split(' ').collect();
        for (i, token) in tokens.iter().enumerate() {
            let next = tokens.get(i + 1).copied();
            match *token {
                "-k" => return next.map(str::to_owned),
                "-F" => {
                    if let Some(key) = next.and_then(|next| next.strip_prefix("key=")) {
                        return Some(key.to_owned());
                    }
                }
                token if token.starts_with("-k") => return Some(token[2..].to_owned()),
                _ => {}
            }
        }
        None
    };
    let calls = |line: &str| -> BTreeSet<String> {
        let tokens: Vec<&str> = line.split(' ').collect();
        let lists = tokens.windows(2).filter(|t| t[0] == "-S").map(|t| t[1]);
        lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let mut distinct = false;
    for name in ["arch=", "path=", "perm=", "exit="] {
        if let Some(value) = field(wanted, name) {
            distinct |= name != "perm=";
            if field(loaded, name) != Some(value) {
                return false;
            }
        }
    }
    if let Some(key_wanted) = key(wanted)
        && key(loaded) != Some(key_wanted)
    {
        return false;
    }
    let calls_wanted = calls(wanted);
    distinct |= !calls_wanted.is_empty();
    if !calls_wanted.is_empty() && calls_wanted != calls(loaded) {
        return false;
    }
    let tokens: Vec<&str> = wanted.split(' ').collect();
    for pair in tokens.windows(2).filter(|t| t[0] == "-F" && t[1].starts_with("auid")) {
        let auid = if pair[1] == "auid!=unset" { "auid!=-1" } else { pair[1] };
        if !loaded.split(' ').any(|token| token == auid) {
            return false;
        }
    }
    distinct || wanted == loaded
}

fn compare(found: &str, wanted: &str, comparator: &str, fold: bool) -> bool {
    let equal = if fold { found.to_lowercase() == wanted.to_lowercase() } else { found == wanted };
    let numbers = found.trim().parse::<i64>().ok().zip(wanted.trim().parse::<i64>().ok());
    match (comparator, numbers) {
        ("==", _) => equal,
        ("!=", _) => !equal,
        ("<", Some((a, b))) => a < b,
        ("<=", Some((a, b))) => a <= b,
        (">", Some((a, b))) => a > b,
        (">=", Some((a, b))) => a >= b,
        _ => false,
    }
}
