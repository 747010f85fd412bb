//! An SSH server in this process that does what a test tells it: for targets that no real server would be.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use openwatch_model::host::KnownKey;
use russh::keys::{PublicKeyBase64 as _, decode_secret_key};
use russh::server::{self, Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::sshd::generate_key;

/// What happens on a channel: it was opened, or a command is to be executed on it.
#[derive(Debug)]
pub struct Act {
    /// The connection, to say something on it.
    pub handle: Handle,
    /// The channel.
    pub channel: ChannelId,
    /// The command; none when the channel was only opened.
    pub command: Option<String>,
    /// What the client sends on this channel; nothing more once it ends.
    pub input: UnboundedReceiver<Vec<u8>>,
}

type Script = dyn Fn(Act) -> BoxFuture<'static, ()> + Send + Sync;

/// A scripted server. Ends with this value.
#[derive(Debug)]
pub struct Scripted {
    port: u16,
    key: KnownKey,
    task: JoinHandle<()>,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Starts one that lets everybody in and leaves channels and commands to `script`.
    ///
    /// # Panics
    /// When there is no port or no `ssh-keygen`.
    pub async fn start<F, R>(configure: impl FnOnce(&mut Config), script: F) -> Self
    where
        F: Fn(Act) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let dir = TempDir::with_prefix("ow-scripted-").expect("a temporary directory");
        let key = generate_key(&dir.path().join("host"), "ed25519");
        let text = std::fs::read_to_string(dir.path().join("host")).expect("a host key");
        let private = decode_secret_key(&text, None).expect("a host key");
        assert_eq!(private.public_key().public_key_base64(), key.key);
        let mut config = Config { keys: vec![private], nodelay: true, ..Config::default() };
        configure(&mut config);
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(move |act| Box::pin(script(act)));
        let seen = Arc::clone(&commands);
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let peer =
                    Peer { script: Arc::clone(&script), commands: Arc::clone(&seen), inputs: HashMap::new() };
                let config = Arc::clone(&config);
                sessions.spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, peer).await {
                        // However it ends, it was the client's end of it that counts.
                        let _ = session.await;
                    }
                });
            }
        });
        Self { port, key, task, commands }
    }

    /// Loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its host key.
    #[must_use]
    pub fn host_key(&self) -> &KnownKey {
        &self.key
    }

    /// Commands it was asked to execute so far.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("no session panics").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Act {
    /// Says something on standard output. A client that is gone has not heard it.
    pub async fn out(&self, text: impl Into<Vec<u8>>) {
        let _ = self.handle.data(self.channel, text.into()).await;
    }

    /// Says something on standard error.
    pub async fn err(&self, text: impl Into<Vec<u8>>) {
        let _ = self.handle.extended_data(self.channel, 1, text.into()).await;
    }

    /// Reads input up to the nonce of a lane. `None` when the client ends before.
    pub async fn nonce(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            text.push_str(&String::from_utf8_lossy(&self.input.recv().await?));
            let found = text.split_once("_kn=").and_then(|(_, rest)| rest.get(..32));
            if let Some(nonce) = found {
                return Some(nonce.to_owned());
            }
        }
    }

    /// The nonce, and hello on both streams. `None` when the client ends before.
    pub async fn hello(&mut self) -> Option<String> {
        let nonce = self.nonce().await?;
        self.out(format!("\n{nonce} H 1 - t\n")).await;
        self.err(format!("\n{nonce} H\n")).await;
        Some(nonce)
    }

    /// Takes all input and says nothing, until the client goes.
    pub async fn listen(&mut self) {
        while self.input.recv().await.is_some() {}
    }

    /// Behaves: runs the command in a shell.
    ///
    /// # Panics
    /// When there is no shell.
    pub async fn behave(mut self) {
        let Some(command) = self.command.take() else { return };
        let mut child = tokio::process::Command::new("sh");
        child.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.kill_on_drop(true).spawn().expect("a shell");
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (handle, channel) = (self.handle.clone(), self.channel);
        let feed = async {
            while let (Some(bytes), Some(stdin)) = (self.input.recv().await, stdin.as_mut()) {
                if stdin.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            stdin.take();
            std::future::pending::<()>().await;
        };
        let carry = async {
            let (mut out, mut err) = ([0; 4096], [0; 4096]);
            let (mut out_open, mut err_open) = (stdout.is_some(), stderr.is_some());
            while out_open || err_open {
                tokio::select! {
                    read = read(&mut stdout, &mut out), if out_open => {
                        out_open = read > 0;
                        let _ = handle.data(channel, out[..read].to_vec()).await;
                    }
                    read = read(&mut stderr, &mut err), if err_open => {
                        err_open = read > 0;
                        let _ = handle.extended_data(channel, 1, err[..read].to_vec()).await;
                    }
                }
            }
        };
        tokio::select! {
            () = feed => {}
            () = carry => {}
        }
        let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(255);
        let _ = handle.exit_status_request(channel, u32::try_from(code).unwrap_or(255)).await;
        let _ = handle.close(channel).await;
    }
}

async fn read(from: &mut Option<impl tokio::io::AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match from {
        Some(from) => from.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

struct Peer {
    script: Arc<Script>,
    commands: Arc<Mutex<Vec<String>>>,
    inputs: HashMap<ChannelId, UnboundedSender<Vec<u8>>>,
}

impl Peer {
    fn begin(&mut self, channel: ChannelId, command: Option<String>, handle: Handle) {
        let (sender, input) = unbounded_channel();
        self.inputs.insert(channel, sender);
        // In a task of its own: the session has to go on to carry what it says.
        tokio::spawn((self.script)(Act { handle, channel, command, input }));
    }
}

impl Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        self.begin(channel.id(), None, session.handle());
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let command = String::from_utf8_lossy(command).into_owned();
        self.commands.lock().expect("no session panics").push(command.clone());
        session.channel_success(channel)?;
        self.begin(channel, Some(command), session.handle());
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        if let Some(input) = self.inputs.get(&channel) {
            // A script that is over does not listen.
            let _ = input.send(data.to_vec());
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut server::Session) -> Result<(), russh::Error> {
        self.inputs.remove(&channel);
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        self.inputs.remove(&channel);
        Ok(())
    }
}
