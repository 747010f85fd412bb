//! `openwatch check` against a private SSH server, and the `rules` commands, as a user types them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use openwatch_tests::sshd::{Options, Sshd};
use openwatch_tests::{Program, eventually};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A user's machine: a home, a key, and a directory of rules.
struct Desk {
    dir: TempDir,
    sshd: Sshd,
}

const RULE: &str = "title: t\ndescription: d\nrationale: r\nseverity: low\ncategory: demo\n";

impl Desk {
    fn new() -> Self {
        let (dir, sshd) = (tempfile::tempdir().unwrap(), Options::new().start());
        fs::write(dir.path().join("key"), sshd.private_key()).unwrap();
        fs::create_dir_all(dir.path().join("rules/demo")).unwrap();
        Self { dir, sshd }
    }

    fn rule(self, id: &str, script: &str) -> Self {
        let text = format!(
            "id: {id}\n{RULE}references: {{cis: {{demo: {{section: '1'}}}}}}\nimplementations:\n  - default: true\n    check:\n      method: command\n      cmd: |\n        {script}\n"
        );
        fs::write(self.dir.path().join(format!("rules/demo/{id}.yml")), text).unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// In the user's directory, at the user's home.
    fn openwatch(&self, args: &[&str]) -> Program {
        Program::new(args.iter().copied()).cwd(self.path()).env("HOME", self.path().join("home"))
    }

    /// A check with the key and the rules, and these arguments besides.
    fn check(&self, args: &[&str]) -> Program {
        let host = format!("{}@127.0.0.1", self.sshd.user());
        let port = self.sshd.port().to_string();
        let line: Vec<&str> = ["check", &host, "-p", &port, "-i", "key", "--rules", "rules"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        self.openwatch(&line)
    }

    fn accepted(&self) -> usize {
        self.sshd.log().matches("Connection from").count()
    }
}

// @spec check
// @ac AC-01
#[tokio::test]
async fn the_worst_outcome_is_the_exit_code() {
    println!("@spec check");
    println!("@ac AC-01");
    let desk = Desk::new().rule("good", "true").rule("bad", "echo seen; false");
    let tofu = ["--host-key", "tofu"];
    let (code, stdout, _) = desk.check(&[&tofu[..], &["--rule", "good", "--json"]].concat()).run().await;
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(0), "{stdout}");
    for key in ["host", "platform", "capabilities", "started_at", "duration_ms", "counts", "outcomes"] {
        assert!(object.get(key).is_some_and(|v| !v.is_null()), "{key}: {stdout}");
    }
    let outcome = &object["outcomes"][0];
    assert_eq!((&outcome["rule"], &outcome["status"]), (&"good".into(), &"pass".into()));
    assert_eq!(outcome["framework_refs"]["cis_demo"][0], "1");
    assert_eq!(outcome["evidence"]["checks"][0]["exit_code"], 0);
    for key in ["severity", "detail", "duration_ms"] {
        assert!(!outcome[key].is_null(), "{key}: {outcome}");
    }

    let (code, stdout, stderr) = desk.check(&[]).run().await;
    assert_eq!(code, Some(1), "{stderr}");
    for said in ["bad", "seen", "1 pass, 1 fail", "executions", "lane"] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    fs::write(
        desk.path().join("rules/demo/odd.yml"),
        format!("id: odd\n{RULE}implementations: [{{default: true}}]\n"),
    )
    .unwrap();
    let (code, stdout, _) = desk.check(&["--severity", "low"]).run().await;
    assert_eq!(code, Some(2), "{stdout}");
}

// @spec check
// @ac AC-02
#[tokio::test]
async fn a_host_is_trusted_on_the_users_word_only() {
    println!("@spec check");
    println!("@ac AC-02");
    let desk = Desk::new().rule("good", "true");
    let (code, _, stderr) = desk.check(&[]).run().await;
    assert_eq!(code, Some(69), "{stderr}");
    let pin = stderr.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap().to_owned();
    assert!(stderr.contains("--host-key tofu") && !desk.sshd.log().contains("Accepted"), "{stderr}");

    let (code, _, stderr) = desk.check(&["--host-key", &pin]).run().await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!desk.path().join("home/.ssh/known_hosts").exists(), "a named key is not recorded");
    let other = format!("SHA256:{}", "A".repeat(43));
    let (code, _, stderr) = desk.check(&["--host-key", &other]).run().await;
    assert!(code == Some(69) && stderr.contains(&pin), "{stderr}");

    let (code, _, stderr) = desk.check(&["--host-key", "tofu"]).run().await;
    assert!(code == Some(0) && stderr.contains(&pin), "{stderr}");
    let (code, _, stderr) = desk.check(&[]).run().await;
    assert_eq!(code, Some(0), "on record now: {stderr}");
    let known = desk.path().join("home/.ssh/known_hosts");
    let text = fs::read_to_string(&known).unwrap();
    let another = Options::new().start();
    let line = text.replace(&desk.sshd.host_keys()[0].key, &another.host_keys()[0].key);
    fs::write(&known, line).unwrap();
    for mode in ["tofu", "require-known"] {
        let (code, _, stderr) = desk.check(&["--host-key", mode]).run().await;
        assert!(code == Some(69) && stderr.contains("ssh-keygen -R"), "{mode}: {stderr}");
    }
}

// @spec check
// @ac AC-03
#[tokio::test]
async fn what_cannot_be_meant_is_refused_before_dialling() {
    println!("@spec check");
    println!("@ac AC-03");
    let desk = Desk::new().rule("good", "echo {{ ssh_max_auth_tries }}");
    // The server's own start was seen by one connection.
    let before =
        eventually("the log tells of it", async || Some(desk.accepted()).filter(|seen| *seen > 0)).await;
    fs::write(desk.path().join("key.pub"), "ssh-ed25519 AAAA me").unwrap();
    fs::write(desk.path().join("open"), "secret\n").unwrap();
    for (args, told) in [
        (&["--rule", "goood"][..], "did you mean `good`?"),
        (&["--framework", "cis_dmo"], "did you mean `cis_demo`?"),
        (&["--framework", "hipaa"], "frameworks of this corpus: cis_demo"),
        (&["--severity", "urgent"], "critical, high, medium or low"),
        (&["--severity", "high"], "none of the rules asked for is high"),
        (&["--var", "x"], "KEY=VALUE"),
        (&["--var", "ssh_max_auth_trys=3"], "`ssh_max_auth_tries`"),
        (&["--var", "ssh_max_auth_tries=three"], "ssh_max_auth_tries"),
        (&["--capability", "atp=true"], "`apt`"),
        (&["--host-key", "SHA256:short"], "43 characters"),
        (&["--host-key", "yes"], "tofu, require-known"),
        (&["--lanes", "9"], "1..=4"),
        (&["-i", "missing"], "cannot be used multiple times"),
        (&["--sudo-password-file", "open"], "chmod 600"),
        (&["--sudo-password-file", "missing"], "cannot read missing"),
        (&["--nonsense"], "--nonsense"),
    ] {
        let (code, _, stderr) = desk.check(args).run().await;
        assert!(code == Some(64) && stderr.contains(told), "{args:?}: {code:?} {stderr}");
    }
    let host = format!("{}@127.0.0.1", desk.sshd.user());
    let with_port = format!("{host}:{}", desk.sshd.port());
    for (args, told) in [
        (&["check", "127.0.0.1", "-i", "key"][..], "USER@HOST"),
        (&["check", &with_port, "-i", "key"], "give the port with -p"),
        (&["check", &host], "-i FILE"),
        (&["check", &host, "-i", "missing"], "cannot read key missing"),
        (&["check", &host, "-i", "key.pub"], "public half"),
        (&["check", &host, "-i", "key", "--rules", "nowhere"], "nowhere"),
        (&["rules", "show", "tmp-stiky"], "did you mean `tmp-sticky`?"),
        (&["rules", "plan", "--platform", "12"], "os-release"),
    ] {
        let (code, _, stderr) = desk.openwatch(args).run().await;
        assert!(code == Some(64) && stderr.contains(told), "{args:?}: {code:?} {stderr}");
    }
    assert_eq!(desk.accepted(), before, "{}", desk.sshd.log());
}

// @spec check
// @ac AC-04
#[tokio::test]
async fn a_terminal_obeys_nothing_that_a_target_says() {
    println!("@spec check");
    println!("@ac AC-04");
    let script = r"printf '\033]0;owned\007\033[31mred\302\233 2J\r\342\200\256 over\n'; exit 1";
    let desk = Desk::new().rule("evil", script);
    for format in [&["--host-key", "tofu"][..], &["--json"]] {
        let (code, stdout, stderr) = desk.check(format).run().await;
        assert!(code == Some(1) && stdout.contains("owned"), "{stdout}{stderr}");
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!stdout.contains(obeyed) && !stderr.contains(obeyed), "{stdout:?} {stderr:?}");
    }
    // A login banner of the target that ends up in an error.
    let sshd = Options::new().force_command(r"printf '\033[2Jgo away\n'; exit 1").start();
    let (port, host) = (sshd.port().to_string(), format!("{}@127.0.0.1", sshd.user()));
    fs::write(desk.path().join("key2"), sshd.private_key()).unwrap();
    let args = ["check", &host, "-p", &port, "-i", "key2", "--host-key", "tofu"];
    let (code, _, stderr) = desk.openwatch(&args).run().await;
    assert!(code == Some(69) && stderr.contains("go away") && !stderr.contains('\u{1b}'), "{stderr:?}");
}

// @spec check
// @ac AC-05
#[tokio::test]
async fn an_interrupted_check_leaves_nothing_behind() {
    println!("@spec check");
    println!("@ac AC-05");
    let mark = format!("98{}", std::process::id());
    let desk = Desk::new().rule("slow", &format!("sleep {mark}.1 & sleep {mark}.2"));
    let mut check = desk.check(&["--host-key", "tofu"]).spawn();
    eventually("the command runs on the target", async || (sleeping(&mark) == 2).then_some(())).await;
    check.hears_interrupts().await;
    check.signal(Signal::INT);
    let status = tokio::time::timeout(Duration::from_secs(20), check.wait()).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", check.stderr());
    // Well before its own time limit of ten seconds would have ended it.
    let begun = std::time::Instant::now();
    eventually("nothing of it is left", async || (sleeping(&mark) == 0).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    let line = format!("{} rules list | head -n 1", openwatch_tests::program::openwatch().display());
    let (code, stdout, stderr) = Program::other("/bin/sh", ["-c", &line]).run().await;
    assert!(code == Some(0) && stdout.lines().count() == 1 && stderr.is_empty(), "{stdout}{stderr}");
}

/// Processes of this machine, which is the target, that sleep for our own odd time.
fn sleeping(mark: &str) -> usize {
    let is_ours = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(mark)
    };
    fs::read_dir("/proc").unwrap().flatten().map(is_ours).filter(|ours| *ours).count()
}

// @spec check
// @ac AC-06
#[tokio::test]
async fn lint_tells_the_place_the_code_and_the_remedy() {
    println!("@spec check");
    println!("@ac AC-06");
    let desk = Desk::new().rule("good", "test -e /etc/passwd");
    let lint = async |args: &[&str]| desk.openwatch(&[&["rules", "lint"], args].concat()).run().await;
    let (code, stdout, _) = lint(&["rules"]).await;
    assert!(code == Some(0) && stdout.contains("1 file, 0 errors, 0 pieces of advice"), "{stdout}");
    let good = fs::read_to_string(desk.path().join("rules/demo/good.yml")).unwrap();
    fs::write(desk.path().join("rules/demo/good.yml"), good.replace("references", "refrences")).unwrap();
    let (code, stdout, _) = lint(&["rules"]).await;
    assert_eq!(code, Some(0), "advice alone: {stdout}");
    assert!(
        stdout.contains("rules/demo/good.yml:7:1: advice W105") && stdout.contains("references?"),
        "{stdout}"
    );
    fs::write(desk.path().join("rules/demo/good.yml"), good.replace("method: command", "method: comand"))
        .unwrap();
    for path in ["rules", "rules/demo/good.yml"] {
        let (code, stdout, _) = lint(&[path, "--json"]).await;
        let found: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &found[0]["code"], &found[0]["level"]), (Some(1), &"E010".into(), &"error".into()));
        assert_eq!(
            (&found[0]["path"], &found[0]["line"]),
            (&"rules/demo/good.yml".into(), &11.into()),
            "{stdout}"
        );
        assert!(found[0]["hint"].as_str().unwrap().contains("command"), "{stdout}");
    }
    let (code, _, stderr) = lint(&["nowhere"]).await;
    assert!(code == Some(64) && stderr.contains("nowhere"), "{stderr}");
}

// @spec check
// @ac AC-07
#[tokio::test]
async fn rules_are_listed_shown_and_planned() {
    println!("@spec check");
    println!("@ac AC-07");
    let desk = Desk::new();
    let json = async |args: &[&str]| {
        let (code, stdout, stderr) = desk.openwatch(&[args, &["--json"]].concat()).run().await;
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    let length = |value: &Value| value.as_array().unwrap().len();
    let all = json(&["rules", "list"]).await;
    assert!(length(&all) >= 60);
    for filter in [
        &["--framework", "cis"][..],
        &["--severity", "critical"],
        &["--category", "ssh"],
        &["--tag", "brute-force"],
        &["--platform", "rhel 9"],
    ] {
        let some = json(&[&["rules", "list"], filter].concat()).await;
        assert!(length(&some) > 0 && length(&some) < length(&all), "{filter:?}: {}", length(&some));
    }
    let (_, shown, _) = desk.openwatch(&["rules", "show", "tmp-sticky"]).run().await;
    assert!(shown.contains("file_permission") && shown.contains("path: /tmp"), "{shown}");

    let plan = json(&["rules", "plan", "--platform", "debian 12", "--capability", "apt"]).await;
    let counts = &plan["counts"];
    let number = |key: &str| counts[key].as_u64().unwrap();
    assert_eq!(number("checks") - number("commands"), number("saved"));
    assert!(number("saved") > 0, "{counts}");
    let audit = plan["commands"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["command"].as_str().unwrap().contains("auditctl -l"));
    assert!(length(&audit.unwrap()["rules"]) > 1, "{audit:?}");
    let (_, text, _) = desk.openwatch(&["rules", "plan", "--platform", "beos"]).run().await;
    assert!(text.contains("nothing would run") && text.contains("not for this platform"), "{text}");
}

/// Six rules, each with a variable that one tier more has a value for.
// @spec check
// @ac AC-08
#[tokio::test]
async fn a_sites_values_count_tier_by_tier() {
    println!("@spec check");
    println!("@ac AC-08");
    let desk = Desk::new();
    let tiers = ["builtin", "corpus", "directory", "fragment", "group", "host", "command"];
    let variables: Vec<String> = tiers.iter().map(|tier| format!("v_{tier}")).collect();
    let script = variables.iter().map(|v| format!("{{{{ {v} }}}}")).collect::<Vec<_>>().join(" ");
    let desk = desk.rule("values", &format!("echo {{{{ ssh_max_auth_tries }}}} {script}"));
    // A tier has values for itself and everything above it, so that the right one is the last to say its name.
    let write = |path: &str, tier: usize| {
        let path = desk.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines: Vec<String> =
            variables[tier..].iter().map(|v| format!("  {v}: {}\n", tiers[tier])).collect();
        fs::write(path, format!("variables:\n{}", lines.concat())).unwrap();
    };
    write("rules/defaults.yml", 0);
    let found = async |args: &[&str], dir: Option<(&str, &str)>| {
        let mut program = desk.check(&[&["--host-key", "tofu", "--json"], args].concat());
        if let Some((name, dir)) = dir {
            program = program.env(name, desk.path().join(dir));
        }
        let (code, stdout, stderr) = program.run().await;
        assert_eq!(code, Some(0), "{stderr}");
        let object: Value = serde_json::from_str(&stdout).unwrap();
        object["outcomes"][0]["evidence"]["checks"][0]["stdout"].as_str().unwrap().trim().to_owned()
    };
    let say = |last: &[&str]| {
        let words = tiers.iter().map(|tier| if last.contains(tier) { tier } else { last.last().unwrap() });
        format!("4 {}", words.copied().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(found(&[], None).await, say(&["builtin"]));
    write("rules/defaults.yml", 1);
    for (number, (path, tier)) in [
        ("site/defaults.yml", 2),
        ("site/conf.d/50-site.yml", 3),
        ("site/groups/web.yml", 4),
        ("site/hosts/127.0.0.1.yml", 5),
    ]
    .into_iter()
    .enumerate()
    {
        write(path, tier);
        let group: &[&str] = if number >= 2 { &["--group", "web"] } else { &[] };
        let args = [&["--config", "site", "--var", "v_builtin=builtin"], group].concat();
        assert_eq!(found(&args, None).await, say(&tiers[..=tier]), "{path}");
    }
    let all = ["--group", "web", "--var", "v_builtin=builtin", "--var", "v_command=command"];
    assert_eq!(found(&all, Some(("KENSA_CONFIG_DIR", "site"))).await, say(&tiers));
    fs::create_dir_all(desk.path().join("home/.config")).unwrap();
    fs::rename(desk.path().join("site"), desk.path().join("home/.config/kensa")).unwrap();
    assert_eq!(found(&all, None).await, say(&tiers), "found at home");
    assert_eq!(found(&all, Some(("XDG_CONFIG_HOME", "home/.config"))).await, say(&tiers));

    fs::write(
        desk.path().join("home/.config/kensa/conf.d/99.yml"),
        "variables:\n  ssh_max_auth_tries: many\n",
    )
    .unwrap();
    for (args, told) in [
        (&[][..], "99.yml:2:"),
        (&["--config", "gone"], "there is no directory gone"),
        (&["--group", "gone"], "for the group `gone`"),
    ] {
        let (code, _, stderr) = desk.check(args).run().await;
        assert!(code == Some(64) && stderr.contains(told), "{args:?}: {code:?} {stderr}");
    }
}
