//! A private OpenSSH server: its own loopback port, its own keys, nothing but a temporary directory.
//!
//! It runs as whoever runs the tests and lets exactly that user in. Run as root it can also let in a [`TempUser`], for
//! what needs a password, sudo, or an account that is not root.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use openwatch_model::credential::Secret;
use openwatch_model::host::KnownKey;
use tempfile::TempDir;

/// Kinds of host key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The default.
    Ed25519,
    /// NIST P-256.
    Ecdsa,
    /// 3072 bits.
    Rsa,
}

impl KeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

/// How a server is to be.
#[derive(Debug, Default)]
pub struct Options {
    host_keys: Vec<KeyKind>,
    config: Vec<String>,
    user: Option<String>,
    machine: Option<String>,
    host_certificate: bool,
}

impl Options {
    /// One ed25519 host key, the current user, no extra configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of `sshd_config`. The first value given for a keyword wins, ours come last.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.config.push(line.into());
        self
    }

    /// Runs every command through this instead of the login shell, which it finds in `$SSH_ORIGINAL_COMMAND`.
    #[must_use]
    pub fn force_command(self, command: &str) -> Self {
        self.config(format!("ForceCommand {command}"))
    }

    /// Pretends that this is the login shell.
    #[must_use]
    pub fn login_shell(self, shell: &str) -> Self {
        self.force_command(&format!("exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""))
    }

    /// One more host key; with none given there is one of ed25519.
    #[must_use]
    pub fn host_key(mut self, kind: KeyKind) -> Self {
        self.host_keys.push(kind);
        self
    }

    /// Gives this server an `/etc/hosts` of its own, which nobody else sees: names that only it can resolve. `None`, with a
    /// printed line, where that is not possible.
    pub fn hosts(mut self, lines: &str) -> Option<Self> {
        let alone = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        if !is_root() || !alone.is_ok_and(|status| status.success()) {
            eprintln!(
                "skipped: needs root and a mount namespace for a name that only one server can resolve"
            );
            return None;
        }
        let script =
            format!("printf '%s' '{lines}' >\"$OW_DIR/hosts\"\nmount --bind \"$OW_DIR/hosts\" /etc/hosts");
        self.machine = Some(script);
        Some(self)
    }

    /// Lets this account in instead of the current user. Needs root.
    #[must_use]
    pub fn user(mut self, user: &TempUser) -> Self {
        self.user = Some(user.name.clone());
        self
    }

    /// Lets it run on a machine of its own making: a shell script of mounts that only the server and its sessions see, run
    /// as root before it starts. `$OW_DIR` is the server's directory, which lies outside of `/tmp`. See [`can_remake`].
    #[must_use]
    pub fn machine(mut self, script: impl Into<String>) -> Self {
        self.machine = Some(script.into());
        self
    }

    /// Another program as `/bin/sh`.
    #[must_use]
    pub fn bin_sh(self, shell: &Path) -> Self {
        self.machine(format!("mount --bind {} \"$(readlink -f /bin/sh)\"", shell.display()))
    }

    /// Offers its host key only inside a certificate.
    #[must_use]
    pub fn host_certificate_only(mut self) -> Self {
        self.host_certificate = true;
        self.config("HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com")
    }

    /// Starts it.
    pub fn start(self) -> Sshd {
        Sshd::start(self)
    }
}

/// A running server. Dropping it stops it and everything that was logged in.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    child: Child,
    port: u16,
    user: String,
    host_keys: Vec<KnownKey>,
    private_key: String,
}

impl Sshd {
    /// Starts one with this configuration.
    ///
    /// # Panics
    /// When there is no sshd to start, or it does not come up; says how to provide it.
    pub fn start(options: Options) -> Self {
        let sshd = find("sshd").unwrap_or_else(|| {
            panic!("no sshd found; install the OpenSSH server (Debian: apt-get install openssh-server; Fedora: dnf install openssh-server); it need not run")
        });
        let mut place = tempfile::Builder::new();
        place.prefix("ow-sshd-");
        let place = if options.machine.is_some() { place.tempdir_in("/var/tmp") } else { place.tempdir() };
        let dir = place.expect("a temporary directory");
        // sshd looks for authorized keys as the user who logs in.
        allow_search(dir.path());
        let kinds = if options.host_keys.is_empty() { vec![KeyKind::Ed25519] } else { options.host_keys };
        let mut host_keys = Vec::new();
        let mut config = String::new();
        for kind in kinds {
            let path = dir.path().join(format!("host_{}", kind.name()));
            host_keys.push(generate_key(&path, kind.name()));
            config.push_str(&format!("HostKey {}\n", path.display()));
        }
        if options.host_certificate {
            config.push_str(&format!("HostCertificate {}\n", certify(dir.path()).display()));
        }
        let client = dir.path().join("client");
        generate_key(&client, "ed25519");
        let authorized = dir.path().join("authorized_keys");
        fs::copy(client.with_extension("pub"), &authorized).expect("authorized keys");
        for line in &options.config {
            config.push_str(line);
            config.push('\n');
        }
        config.push_str(&format!(
            "AuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nPrintMotd no\n\
             LoginGraceTime 30\nMaxStartups 100\n",
            authorized.display()
        ));
        if is_root() {
            // Where the server separates its privileges; the distribution makes it when its own server starts.
            let _ = fs::create_dir_all("/run/sshd");
        }
        let private_key = fs::read_to_string(&client).expect("client key");
        let user = options.user.unwrap_or_else(current_user);
        let (child, port) = launch(&sshd, dir.path(), &config, options.machine.as_deref());
        Self { dir, child, port, user, host_keys, private_key }
    }

    /// Loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The account that may log in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Public host keys, in the order they were asked for.
    pub fn host_keys(&self) -> &[KnownKey] {
        &self.host_keys
    }

    /// The private key that logs in, OpenSSH text.
    pub fn private_key(&self) -> &str {
        &self.private_key
    }

    /// A credential that logs in.
    pub fn secret(&self) -> Secret {
        let mut secret = Secret::default();
        secret.private_key = Some(self.private_key.clone());
        secret
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A directory that lives as long as the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's own process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its own process group: the listener and one process per connection, nobody else.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn launch(sshd: &Path, dir: &Path, config: &str, machine: Option<&str>) -> (Child, u16) {
    for _ in 0..5 {
        // Free a moment ago; should another take it first, the next round finds another.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let path = dir.join("sshd_config");
        fs::write(&path, format!("ListenAddress 127.0.0.1:{port}\n{config}")).expect("sshd_config");
        let mut command = match machine {
            None => Command::new(sshd),
            Some(script) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
                command.arg(format!("{script}\nexec \"$@\"")).arg("sh").arg(sshd).env("OW_DIR", dir);
                command
            }
        };
        let mut child = command
            .args(["-D", "-f"])
            .arg(&path)
            .arg("-E")
            .arg(dir.join("log"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sshd starts");
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (child, port);
            }
            if child.try_wait().expect("sshd's state").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("sshd did not come up: {}", fs::read_to_string(dir.join("log")).unwrap_or_default());
}

/// Signs the server's ed25519 key with an authority made for it.
fn certify(dir: &Path) -> PathBuf {
    let authority = dir.join("authority");
    generate_key(&authority, "ed25519");
    let key = dir.join("host_ed25519.pub");
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-h", "-I", "host", "-n", "127.0.0.1", "-s"]).arg(&authority).arg(&key);
    run(&mut sign);
    dir.join("host_ed25519-cert.pub")
}

/// Whether a server can be given a machine of its own making; prints why not.
pub fn can_remake() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"]);
    let able = is_root() && probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !able {
        eprintln!("skipped: needs root and mount namespaces to change the machine under a server");
    }
    able
}

/// Makes a key pair without passphrase and returns the public half.
///
/// # Panics
/// When `ssh-keygen` is missing or refuses.
pub fn generate_key(path: &Path, kind: &str) -> KnownKey {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-N", "", "-C", "openwatch test", "-t", kind]);
    let status = command.arg("-f").arg(path).stdin(Stdio::null()).status().expect("ssh-keygen runs");
    assert!(status.success(), "ssh-keygen -t {kind} failed");
    let line = fs::read_to_string(path.with_extension("pub")).expect("public key");
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(algorithm), Some(key)) = (words.next(), words.next()) else { panic!("odd public key: {line}") };
    KnownKey { algorithm, key }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn current_user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The full path of a program, administrators' directories included.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/ssh"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(program)).find(|file| file.is_file())
}

fn allow_search(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// An account that exists while this value does. Only root can have one.
#[derive(Debug)]
pub struct TempUser {
    /// Account name.
    pub name: String,
    /// Its password.
    pub password: String,
    sudoers: Option<PathBuf>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl TempUser {
    /// Makes an account with a password. `None`, with a printed line, where that is not possible.
    pub fn create() -> Option<Self> {
        if !is_root() || find("useradd").is_none() || find("chpasswd").is_none() {
            eprintln!("skipped: needs root and useradd to make an account of its own");
            return None;
        }
        let name = format!("ow{}-{}", std::process::id() % 100_000, SERIAL.fetch_add(1, Ordering::Relaxed));
        let password = format!("pw-{name}-Zq7");
        run(Command::new("useradd").args(["-M", "-d", "/nonexistent", "-s", "/bin/sh", &name]));
        let user = Self { name, password, sudoers: None };
        let mut child = Command::new("chpasswd").stdin(Stdio::piped()).spawn().expect("chpasswd runs");
        use std::io::Write as _;
        let line = format!("{}:{}\n", user.name, user.password);
        child.stdin.take().expect("its input").write_all(line.as_bytes()).expect("password");
        assert!(child.wait().expect("chpasswd ends").success());
        Some(user)
    }

    /// Gives it sudo rights; `{}` stands for its name. `None`, with a printed line, where there is no sudo.
    pub fn sudoers(mut self, text: &str) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        if find("sudo").is_none() || !Path::new("/etc/sudoers.d").is_dir() {
            eprintln!("skipped: needs sudo");
            return None;
        }
        let path = PathBuf::from(format!("/etc/sudoers.d/{}", self.name));
        fs::write(&path, text.replace("{}", &self.name) + "\n").expect("sudoers");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).expect("permissions");
        self.sudoers = Some(path);
        Some(self)
    }

    /// Its password as a credential.
    pub fn secret(&self) -> Secret {
        let mut secret = Secret::default();
        secret.password = Some(self.password.clone());
        secret
    }
}

impl Drop for TempUser {
    fn drop(&mut self) {
        if let Some(path) = &self.sudoers {
            let _ = fs::remove_file(path);
        }
        let _ = Command::new("userdel").arg(&self.name).stderr(Stdio::null()).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("command runs");
    assert!(status.success(), "{command:?} failed");
}
