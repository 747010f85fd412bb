//! The far end: a server in a network namespace of its own. It ends with its standard input.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use openwatch_tests::sshd::{Options, Sshd, TempUser};

use crate::Door;

/// A private server with an account that has a plain shell and nothing in its home, where one can be made.
pub(crate) struct Server {
    sshd: Sshd,
    // After the server, which may still have its sessions.
    user: Option<TempUser>,
}

impl Server {
    pub(crate) fn start(options: Options) -> Self {
        let user = TempUser::create();
        let options = match &user {
            Some(user) => options.user(user),
            None => options,
        };
        Self { sshd: options.start(), user }
    }

    pub(crate) fn door(&self) -> Door {
        Door {
            address: "127.0.0.1".to_owned(),
            port: self.sshd.port(),
            user: self.sshd.user().to_owned(),
            host_key: self.sshd.host_keys()[0].clone(),
            private_key: self.sshd.private_key().to_owned(),
        }
    }

    /// Whether the account's shell does nothing but what it is told.
    pub(crate) fn has_plain_shell(&self) -> bool {
        self.user.is_some()
    }
}

/// Any free port will do: nobody else is in this namespace.
const PORT: u16 = 22022;

/// Serves, and takes the devices it is given: each line names one and its address.
pub(crate) async fn serve() -> anyhow::Result<()> {
    // Ctrl-C is for the near end, which then closes our input.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    ip(&["link", "set", "lo", "up"])?;
    let server = Server::start(Options::new().config(format!("ListenAddress 0.0.0.0:{PORT}")));
    say(&serde_json::to_string(&Door { port: PORT, ..server.door() })?)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (device, address) = line.split_once(' ').context("device and address")?;
        raise(device, address)?;
        say("up")?;
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Gives a device its address and switches it on.
pub(crate) fn raise(device: &str, address: &str) -> anyhow::Result<()> {
    ip(&["addr", "add", address, "dev", device])?;
    ip(&["link", "set", device, "up"])
}

pub(crate) fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    anyhow::ensure!(output.status.success(), "ip {}: {said}", args.join(" "));
    Ok(())
}

/// The far end, as seen from the near one.
pub(crate) struct Far {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) door: Door,
}

impl Far {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe()?)
            .arg("--far")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("its output")?).lines();
        let door = serde_json::from_str(&output.next().context("the far end did not start")??)?;
        Ok(Self { child, input, output, door })
    }

    /// Process in whose namespace it lives.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Hands it a device that has already been moved there.
    pub(crate) fn raise(&mut self, device: &str, address: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("its input")?;
        writeln!(input, "{device} {address}")?;
        self.output.next().context("the far end has ended")??;
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It takes down its server and its account when it hears no more.
        self.input = None;
        let _ = self.child.wait();
    }
}
