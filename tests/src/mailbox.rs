//! A mail server that takes every mail and keeps it: enough SMTP for one client, in the clear, on loopback.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The server. Ends with this value.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl MailServer {
    /// Starts on a loopback port.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a mail server");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let _ = serve(stream, &kept).await;
                });
            }
        });
        Self { port, mails, task }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Mails taken so far, headers and all, each after the lines that named its sender and readers.
    ///
    /// # Panics
    /// Never in practice: a connection would have to panic.
    #[must_use]
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().expect("no connection panics").clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 test ESMTP\r\n").await?;
    let (mut mail, mut in_data) = (String::new(), false);
    while let Some(line) = lines.next_line().await? {
        let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = if in_data {
            if line != "." {
                mail.push_str(&line);
                mail.push('\n');
                continue;
            }
            in_data = false;
            kept.lock().expect("no connection panics").push(std::mem::take(&mut mail));
            b"250 2.0.0 kept\r\n"
        } else {
            match word.as_str() {
                "EHLO" => b"250-test\r\n250 8BITMIME\r\n",
                "MAIL" | "RCPT" => {
                    mail.push_str(&line);
                    mail.push('\n');
                    b"250 ok\r\n"
                }
                "DATA" => {
                    in_data = true;
                    b"354 go on\r\n"
                }
                "QUIT" => {
                    write.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"250 ok\r\n",
            }
        };
        write.write_all(answer).await?;
    }
    Ok(())
}
