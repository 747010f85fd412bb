//! `openwatch check` against hosts that cannot be trusted: whose key it takes, what it shows, what it writes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use openwatch_remote::fingerprint;
use openwatch_remote::known_hosts::render;
use openwatch_tests::program::Running;
use openwatch_tests::sshd::{KeyKind, TempUser, can_remake, generate_key};
use openwatch_tests::{Program, Proxy, eventually_within, openwatch};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

type Ended = (Option<i32>, String, String);

/// A user's home and a few rules: id and command, each passes when its command does.
struct Desk(TempDir);

impl Desk {
    fn new(rules: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("ow-desk-").expect("a directory");
        std::fs::create_dir(dir.path().join("rules")).expect("a directory");
        for (id, run) in rules {
            let run = Value::from(*run);
            let text = format!(
                "id: {id}\ntitle: {id}\ndescription: a test\nseverity: medium\ncategory: test\nimplementations:\n  - \
                 default: true\n    check:\n      method: command\n      run: {run}\n      expected_stdout: fine\n"
            );
            std::fs::write(dir.path().join(format!("rules/{id}.yml")), text).expect("a rule");
        }
        Self(dir)
    }

    fn known_hosts(&self) -> PathBuf {
        std::fs::create_dir_all(self.0.path().join(".ssh")).expect("a directory");
        self.0.path().join(".ssh/known_hosts")
    }

    fn trusts(self, text: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.known_hosts(), text).expect("known hosts");
        self
    }

    fn args(&self, port: u16, user: &str, key: &Path, more: &[&str]) -> Vec<String> {
        let (key, rules) = (key.display().to_string(), self.0.path().join("rules").display().to_string());
        let (host, port) = (format!("{user}@127.0.0.1"), port.to_string());
        let common = ["check", &host, "-p", &port, "-i", &key, "--rules", &rules];
        common.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn program(&self, sshd: &Sshd, more: &[&str]) -> Program {
        let key = sshd.dir().join("client");
        Program::new(self.args(sshd.port(), sshd.user(), &key, more)).env("HOME", self.0.path())
    }

    async fn check(&self, sshd: &Sshd, more: &[&str]) -> Ended {
        end_of(&mut self.program(sshd, more).spawn()).await
    }
}

/// Longer than a program is usually given: one execution per probe takes its time on a busy machine.
const LONG: Duration = Duration::from_secs(180);

async fn end_of(check: &mut Running) -> Ended {
    eventually_within(LONG, "the end of the check", || std::future::ready(check.try_wait())).await;
    let status = check.wait().await;
    (status.code(), check.stdout(), check.stderr())
}

fn one_rule() -> Desk {
    Desk::new(&[("one", "echo fine")])
}

fn line(sshd: &Sshd, at: usize) -> String {
    render("127.0.0.1", sshd.port(), &sshd.host_keys()[at])
}

fn no_login(sshd: &Sshd) {
    let log = sshd.log();
    assert!(!log.contains("Accepted") && !log.contains("Failed"), "somebody tried to log in: {log}");
}

// @spec remote-session
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn what_known_hosts_says_is_followed() {
    proves("AC-08");
    let sshd = Options::new().host_key(KeyKind::Ed25519).host_key(KeyKind::Ecdsa).start();
    let swapped = Options::new().start();
    let (ours, ecdsa) = (line(&sshd, 0), line(&sshd, 1));
    let dir = tempfile::tempdir().expect("a directory");
    let other = render("127.0.0.1", sshd.port(), &generate_key(&dir.path().join("other"), "ed25519"));
    let of_swapped = render("127.0.0.1", swapped.port(), &sshd.host_keys()[1]);
    let (ours, ecdsa, other) = (ours.trim_end(), ecdsa.trim_end(), other.trim_end());
    let key = ours.split_once(' ').expect("host and key").1;
    let port = sshd.port();
    let rows = [
        ("plain", ours.to_owned(), 0, ""),
        (
            "tabs, comments and bad lines",
            format!("# mine\nrubbish\n\t{} me@here\n", ours.replace(' ', "\t")),
            0,
            "line 2",
        ),
        ("no newline at the end, another first", format!("{other}\n{ours}"), 0, ""),
        ("another kind of key on record as well", format!("{ecdsa}\n"), 0, ""),
        ("a pattern", format!("[127.0.0.*]:{port} {key}\n"), 0, ""),
        (
            "a negated pattern",
            format!("[127.0.0.*]:{port},![127.0.0.1]:{port} {key}\n"),
            69,
            "no host key on record",
        ),
        ("another port", format!("127.0.0.1 {key}\n"), 69, "no host key on record"),
        ("nothing", String::new(), 69, "no host key on record"),
        ("another key", format!("{other}\n"), 69, "not on record"),
        ("revoked", format!("{ours}\n@revoked {ours}\n"), 69, "is revoked"),
        ("revoked by a pattern", format!("{ours}\n@revoked * {key}\n"), 69, "is revoked"),
        ("an authority", format!("@cert-authority {ours}\n"), 69, "certificate authority"),
        ("another marker", format!("@unheard-of {ours}\n"), 69, "no host key on record"),
        ("not text", "\u{0}\u{fffd}\n".to_owned(), 69, "no host key on record"),
    ];
    for (what, text, code, words) in rows {
        let (ended, _, stderr) = one_rule().trusts(text).check(&sshd, &[]).await;
        assert_eq!(ended, Some(code), "{what}: {stderr}");
        assert!(stderr.contains(words), "{what}: {stderr}");
    }
    // First contact is only where nothing at all is on record.
    let rows = [
        ("another key", format!("{other}\n"), "not on record"),
        ("revoked", format!("@revoked {ours}\n@revoked {ecdsa}\n"), "is revoked"),
        ("an authority", format!("@cert-authority {ours}\n"), "certificate authority"),
    ];
    for (what, text, words) in rows {
        let (code, _, stderr) = one_rule().trusts(text).check(&sshd, &["--host-key", "tofu"]).await;
        assert!(code == Some(69) && stderr.contains(words), "{what}: {stderr}");
    }
    // Only the kind of key has changed.
    let desk = one_rule().trusts(of_swapped);
    for mode in ["tofu", "require-known"] {
        let (code, _, stderr) = desk.check(&swapped, &["--host-key", mode]).await;
        assert!(code == Some(69) && stderr.contains("of another kind"), "{mode}: {stderr}");
    }
    no_login(&swapped);
    // A file that cannot be read may revoke the very key.
    let desk = one_rule();
    std::fs::create_dir(desk.known_hosts()).expect("a directory in its place");
    let (code, _, stderr) = desk.check(&sshd, &[]).await;
    assert!(code == Some(64) && stderr.contains("known_hosts"), "{stderr}");
}

// @spec remote-session
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn hashed_names_and_the_machines_own_file() {
    proves("AC-08");
    let sshd = Options::new().start();
    let desk = one_rule().trusts(line(&sshd, 0));
    let mut hash = Process::new("ssh-keygen");
    let hash = hash.args(["-q", "-H", "-f"]).arg(desk.known_hosts()).stderr(Stdio::null()).status();
    assert!(hash.expect("ssh-keygen runs").success());
    assert!(std::fs::read_to_string(desk.known_hosts()).expect("readable").starts_with("|1|"));
    let (code, _, stderr) = desk.check(&sshd, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    if !can_remake() {
        return;
    }
    // What an administrator has revoked stays revoked.
    for (text, code) in [(format!("@revoked {}", line(&sshd, 0)), 69), (line(&sshd, 0), 0)] {
        let file = sshd.dir().join("ssh_known_hosts");
        std::fs::write(&file, text).expect("a file");
        let mounts =
            format!("mount -t tmpfs none /etc/ssh && cp {} /etc/ssh/ && exec \"$@\"", file.display());
        let args = ["--mount", "--propagation", "private", "sh", "-ec", &mounts, "sh"].map(str::to_owned);
        let check = desk.args(sshd.port(), sshd.user(), &sshd.dir().join("client"), &[]);
        let args = args.into_iter().chain([openwatch().display().to_string()]).chain(check);
        let home = if code == 69 { desk.0.path().to_owned() } else { sshd.dir().to_owned() };
        let (ended, _, stderr) = Program::other("unshare", args).env("HOME", home).run().await;
        assert_eq!(ended, Some(code), "{stderr}");
    }
}

// @spec remote-session
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_first_contact_is_remembered_and_a_pin_is_a_pin() {
    proves("AC-08");
    let sshd = Options::new().start();
    let before = "# somebody's editor left this line open";
    let desk = one_rule().trusts(before);
    let (code, _, stderr) = desk.check(&sshd, &["--host-key", "tofu"]).await;
    assert!(code == Some(0) && stderr.contains("now held to the key"), "{stderr}");
    let text = std::fs::read_to_string(desk.known_hosts()).expect("readable");
    assert_eq!(text, format!("{before}\n{}\n", line(&sshd, 0).trim_end()));
    for mode in ["tofu", "require-known"] {
        let (code, _, stderr) = desk.check(&sshd, &["--host-key", mode]).await;
        assert!(code == Some(0) && !stderr.contains("now held"), "{stderr}");
    }
    let pin = fingerprint(&sshd.host_keys()[0]).expect("a fingerprint");
    let (code, _, stderr) = one_rule().check(&sshd, &["--host-key", &pin]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let wrong = pin.replace(&pin[7..9], if pin[7..9] == *"AA" { "BB" } else { "AA" });
    let (code, _, stderr) = desk.check(&sshd, &["--host-key", &wrong]).await;
    assert!(code == Some(69) && stderr.contains(&pin), "a pin overrules the file: {stderr}");
    let (code, _, stderr) = desk.check(&sshd, &["--host-key", "accept-all"]).await;
    assert!(code == Some(64) && stderr.contains("accept-all"), "{stderr}");
}

// @spec remote-session
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn first_contacts_at_the_same_time_agree() {
    proves("AC-08");
    // The same name and port with two keys, as behind a bad load balancer: one of them gets there first.
    let first = Options::new().start();
    let second = Options::new().start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let ports = [first.port(), second.port()];
    tokio::spawn(async move {
        let mut count = 0;
        let mut held = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let to = ports[count % 2];
            count += 1;
            held.push(tokio::spawn(async move {
                if let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            }));
        }
    });
    // Both keys let the same client in.
    let authorized = std::fs::read(first.dir().join("authorized_keys")).expect("readable");
    std::fs::write(second.dir().join("authorized_keys"), authorized).expect("writable");
    let desk = one_rule();
    let args = desk.args(port, first.user(), &first.dir().join("client"), &["--host-key", "tofu"]);
    let program = Program::new(args).env("HOME", desk.0.path());
    let runs = (0..6).map(|_| program.run());
    let ended = futures::future::join_all(runs).await;
    let codes: Vec<_> = ended.iter().map(|(code, ..)| code.unwrap_or(-1)).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 69].contains(code)), "{ended:?}");
    let text = std::fs::read_to_string(desk.known_hosts()).expect("readable");
    assert_eq!(text.lines().count(), 1, "one key, whoever came first: {text}");
    // Whoever had seen the other key did not log in with it.
    let won = if text.contains(&first.host_keys()[0].key) { &second } else { &first };
    no_login(won);
}

// @spec remote-session
// @ac AC-11
#[tokio::test(flavor = "multi_thread")]
async fn escape_sequences_reach_no_terminal() {
    proves("AC-11");
    // Titles, colours, the 8-bit introducer, carriage returns and a line that reads backwards.
    let evil = "printf '\\033]0;owned\\007\\033[31mfi\\rne\\302\\233 2J \\342\\200\\256lives'";
    let desk = Desk::new(&[("evil", evil), ("evil-err", &format!("{evil} >&2; exit 3"))]);
    let release = "mount --bind \"$OW_DIR/os-release\" /etc/os-release";
    let named = "mkdir -p \"$OW_DIR\"; printf 'NAME=\"a\\033[2Jb\\302\\233\"\\nPRETTY_NAME=\"a\\033[2Jb\"\\nID=x\\n' >\"$OW_DIR/os-release\"";
    let mut options = Options::new();
    if can_remake() {
        options = options.machine(format!("{named}\n{release}"));
    }
    let sshd = options.start();
    let desk = desk.trusts(line(&sshd, 0));
    let tame = |text: &str, what: &str| {
        let bad: Vec<char> =
            text.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
        assert!(bad.is_empty(), "{what}: {bad:?} in {text:?}");
    };
    let (code, table, stderr) = desk.check(&sshd, &[]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(table.contains("evil"), "{table}");
    tame(&table, "table");
    tame(&stderr, "errors");
    let (_, json, _) = desk.check(&sshd, &["--json"]).await;
    tame(&json, "json");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let kept = json["outcomes"][0]["evidence"].to_string();
    assert!(kept.contains("owned") && kept.contains('\u{9b}'), "evidence stays what it was: {kept}");
    // In place of a shell, and in place of a handshake.
    let sshd = Options::new().force_command("printf '\\033[2Jgo \\302\\233 away\\n'").start();
    let (code, _, stderr) = one_rule().trusts(line(&sshd, 0)).check(&sshd, &[]).await;
    assert!(code == Some(69) && stderr.contains("away"), "{stderr}");
    tame(&stderr, "no shell");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&super::scripted::offer_of("ssh-\x1b[2Jx")).await;
            held.push(stream);
        }
    });
    let args = desk.args(port, "root", &sshd.dir().join("client"), &["--host-key", "tofu"]);
    let (code, _, stderr) = Program::new(args).env("HOME", desk.0.path()).run().await;
    assert!(code == Some(69), "{stderr}");
    tame(&stderr, "an offer of keys");
}

// @spec remote-session
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_is_shown() {
    proves("AC-05");
    let sshd = Options::new().force_command("exec sh -c \"$SSH_ORIGINAL_COMMAND\" </dev/null").start();
    let desk = one_rule().trusts(line(&sshd, 0));
    let (code, table, stderr) = desk.check(&sshd, &[]).await;
    assert!(code == Some(0) && table.contains("slower than usual"), "{table}{stderr}");
    let (_, json, _) = desk.check(&sshd, &["--json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["fallback"].as_str().is_some_and(|why| !why.is_empty()), "{json}");
}

// @spec remote-session
// @ac AC-04
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_check_is_an_error_and_many_are_no_scan() {
    proves("AC-04");
    let fatal = "kill -9 $(ps -o ppid= -p $(ps -o ppid= -p $$)) $(ps -o ppid= -p $PPID)";
    let sshd = Options::new().start();
    let names: Vec<String> = (0..12).map(|n| format!("rule-{n:02}")).collect();
    let mut rules: Vec<_> = names.iter().map(|name| (name.as_str(), "echo fine")).collect();
    rules[5].1 = fatal;
    let (code, json, stderr) = Desk::new(&rules).trusts(line(&sshd, 0)).check(&sshd, &["--json"]).await;
    assert_eq!(code, Some(2), "{stderr}");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    for outcome in json["outcomes"].as_array().expect("outcomes") {
        let want = if outcome["rule"] == "rule-05" { "error" } else { "pass" };
        assert_eq!(outcome["status"], want, "{outcome}");
    }
    // And where the host goes in the middle and does not come back.
    let begun = sshd.dir().join("begun");
    let slow: Vec<String> =
        (0..12).map(|n| format!("touch {}; sleep 1; echo fine {n}", begun.display())).collect();
    let rules: Vec<_> = names.iter().zip(&slow).map(|(name, run)| (name.as_str(), run.as_str())).collect();
    let proxy = Proxy::to(sshd.port()).await;
    let desk = Desk::new(&rules).trusts(render("127.0.0.1", proxy.port(), &sshd.host_keys()[0]));
    let args = desk.args(proxy.port(), sshd.user(), &sshd.dir().join("client"), &["--json"]);
    let mut check = Program::new(args).env("HOME", desk.0.path()).spawn();
    eventually_within(LONG, "the first rule", || async { begun.exists().then_some(()) }).await;
    proxy.cut();
    let (code, out, stderr) = end_of(&mut check).await;
    assert!(code == Some(69) && stderr.contains("lost on the way"), "{out}{stderr}");
}

// @spec remote-session
// @ac AC-12
#[tokio::test(flavor = "multi_thread")]
async fn a_check_writes_no_file_and_no_secret() {
    proves("AC-12");
    let Some(strace) = find("strace") else {
        println!("skipped: needs strace");
        return;
    };
    let Some(user) = TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) ALL")) else { return };
    let sshd = Options::new().user(&user).start();
    let desk = Desk::new(&[("root", "id -un | sed s/root/fine/"), ("much", "seq 1 20000; echo fine")]);
    let desk = desk.trusts(line(&sshd, 0));
    let (password, trace) = (sshd.dir().join("password"), sshd.dir().join("trace"));
    std::fs::write(&password, format!("{}\n", user.password)).expect("a file");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    let password = password.display().to_string();
    let calls = "trace=%file,?write,?pwrite64,?writev,?pwritev,?pwritev2,?sendto,?sendmsg,?sendmmsg,?sendfile,?splice,\
                 ?copy_file_range,?ftruncate,?fallocate,memfd_create,mmap";
    let mut args: Vec<String> =
        ["-f", "-qq", "-y", "-s", "100000", "-e", "signal=none", "-e", calls, "-o"].map(str::to_owned).into();
    args.extend([trace.display().to_string(), openwatch().display().to_string()]);
    let more = ["--sudo-password-file", &password, "--json"];
    args.extend(desk.args(sshd.port(), sshd.user(), &sshd.dir().join("client"), &more));
    let (code, out, stderr) = Program::other(strace, args).env("HOME", desk.0.path()).run().await;
    assert!(code == Some(0) && out.contains("\"pass\": 2"), "{out}{stderr}");
    let trace = std::fs::read_to_string(&trace).expect("a trace");
    assert!(trace.contains("sendto(") || trace.contains("write("), "strace saw nothing of it");
    let made: Vec<&str> = trace
        .lines()
        .filter(|line| {
            let opens =
                line.contains("open") && ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|m| line.contains(m));
            let makes = [
                "creat(",
                "mkdir",
                "rename",
                "link(",
                "linkat(",
                "unlink",
                "mknod",
                "truncate(",
                "memfd_create",
            ];
            let shares = line.contains("mmap(") && line.contains("PROT_WRITE") && line.contains("MAP_SHARED");
            (opens || shares || makes.iter().any(|call| line.contains(call))) && !line.contains("/dev/null")
        })
        .collect();
    assert!(made.is_empty(), "{made:#?}");
    let body = sshd.private_key().lines().nth(2).expect("the middle of a key");
    for secret in [user.password.as_str(), &body[..40], "BEGIN OPENSSH"] {
        let told: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains(secret) && !line.contains("read(") && !line.contains("execve"))
            .collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}
