//! Servers that break the protocol. Each costs bounded time and memory, and none of them makes a verdict.

use std::sync::Arc;
use std::time::Instant;

use openwatch_model::credential::SudoMode;
use openwatch_model::plan::Lost;
use openwatch_model::scan::FailureReason;
use openwatch_tests::scripted::{Act, Scripted};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

fn secret() -> Secret {
    let mut secret = Secret::default();
    secret.password = Some("anything".into());
    secret
}

async fn enter(server: &Scripted) -> Result<Session, RemoteError> {
    let policy = HostKeyPolicy::new(HostKeyMode::RequireKnown, vec![server.host_key().clone()]);
    let second = Duration::from_secs(1);
    let limits = Limits { login: 3 * second, hello: 2 * second, ..Limits::default() };
    let target = target(server.port(), "someone");
    connect(&target, &policy, &limits, &CancellationToken::new()).await?.login(&secret()).await
}

/// Ten commands of a second each, within five seconds and the ten that clearing away may take.
async fn measure(server: &Scripted) -> Result<(Vec<Observation>, RunReport), RemoteError> {
    let mut plan = plan(&["echo x"; 10]);
    plan.commands.iter_mut().for_each(|c| c.limit = Duration::from_secs(1));
    let since = Instant::now();
    let options = RunOptions::within(Duration::from_secs(5));
    let result = enter(server).await?.run(&plan, &options, &secret()).await;
    assert!(since.elapsed() < Duration::from_secs(20), "took {:?}", since.elapsed());
    result
}

fn all_lost(result: Result<(Vec<Observation>, RunReport), RemoteError>, what: &str) {
    let (observations, _) = result.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(observations.iter().all(|o| matches!(o, Observation::Lost(_))), "{what}: {observations:?}");
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn odd_windows_and_packets() {
    proves("AC-10");
    // Everything a byte or two at a time, or as if memory were endless: slow at worst.
    for (window, packet) in [(u32::MAX, u32::MAX), (3, 1), (1 << 20, 7)] {
        let odd = move |config: &mut russh::server::Config| {
            (config.window_size, config.maximum_packet_size) = (window, packet);
        };
        let server = Scripted::start(odd, Act::behave).await;
        let options = RunOptions::within(Duration::from_secs(60));
        let mut session = enter(&server).await.expect("logs in");
        let (observations, report) =
            session.run(&plan(&["echo a", "exit 4"]), &options, &secret()).await.expect("runs");
        assert_eq!((out(&observations[0]).as_str(), done(&observations[1]).exit), ("a\n", 4));
        assert_eq!(report.fallback, None, "window {window}, packet {packet}");
    }
    // No room for a single byte.
    for (window, packet) in [(0, 32768), (1 << 20, 0)] {
        let none = move |config: &mut russh::server::Config| {
            (config.window_size, config.maximum_packet_size) = (window, packet);
        };
        let server = Scripted::start(none, |mut act: Act| async move { act.listen().await }).await;
        match measure(&server).await {
            Err(error) => assert_eq!(error.reason(), FailureReason::NoShell, "{error}"),
            lost => all_lost(lost, "no window"),
        }
    }
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn new_keys_all_the_time() {
    proves("AC-10");
    let storm = |config: &mut russh::server::Config| {
        config.limits.rekey_write_limit = 1;
        config.limits.rekey_read_limit = 1;
    };
    let server = Scripted::start(storm, Act::behave).await;
    match measure(&server).await {
        Ok((observations, _)) => {
            for observation in &observations {
                assert!(matches!(observation, Observation::Lost(_)) || out(observation) == "x\n");
            }
        }
        Err(error) => assert_eq!(error.reason(), FailureReason::NoShell, "{error}"),
    }
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn output_before_it_is_asked_for() {
    proves("AC-10");
    let server = Scripted::start(
        |_| {},
        |act: Act| async move {
            if act.command.is_none() {
                act.out("\n00000000000000000000000000000000 H 1 - t\nearly\n").await;
                act.err("early\n").await;
            } else {
                act.behave().await;
            }
        },
    )
    .await;
    let (observations, report) = measure(&server).await.expect("runs");
    assert!(observations.iter().all(|o| out(o) == "x\n" && done(o).stderr.is_empty()));
    assert_eq!(report.fallback, None);
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn ends_without_answers() {
    proves("AC-10");
    // Before a hello: no shell. After it: answers lost.
    for hello in [false, true] {
        let server = Scripted::start(
            |_| {},
            move |mut act: Act| async move {
                if act.command.is_none() || (hello && act.hello().await.is_none()) {
                    return;
                }
                let _ = act.handle.exit_status_request(act.channel, 0).await;
                let _ = act.handle.eof(act.channel).await;
                let _ = act.handle.close(act.channel).await;
            },
        )
        .await;
        match (measure(&server).await, hello) {
            (Err(error), false) => assert_eq!(error.reason(), FailureReason::NoShell, "{error}"),
            (result, _) => all_lost(result, "exit without output"),
        }
        assert!(server.commands().len() < 60, "{} executions", server.commands().len());
    }
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn channels_that_never_close_and_say_nothing_more() {
    proves("AC-10");
    let lines: [fn(&str) -> String; 2] =
        [|_| String::new(), |nonce| format!("\n{nonce} B 0 -\nhalf an answ")];
    for line in lines {
        let server = Scripted::start(
            |_| {},
            move |mut act: Act| async move {
                if let (Some(_), Some(nonce)) = (&act.command.clone(), act.hello().await) {
                    act.out(line(&nonce)).await;
                    act.listen().await;
                    // Nor does it react to being closed.
                    std::future::pending::<()>().await;
                }
            },
        )
        .await;
        all_lost(measure(&server).await, "never closes");
    }
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn frames_out_of_place_with_the_right_nonce() {
    proves("AC-10");
    // What a hostile root can do: it knows the nonce.
    let forgeries: [fn(&str) -> String; 9] = [
        |n| format!("\n{n} E 0 0 -\n"),
        |n| format!("\n{n} B 7 -\nx\n\n{n} E 7 0 -\n"),
        |n| format!("\n{n} Z 10\n"),
        |n| format!("\n{n} H 1 1 t\n"),
        |n| format!("\n{n} B 0 -\n\n{n} E 0 99999999999999999999 -\n"),
        |n| format!("\n{n} B 0 -\n\n{n} B 0 -\n"),
        |n| format!("\n{n} B 0 {}\n", "9".repeat(4000)),
        |n| format!("\n{n} B \u{9b} -\n"),
        |n| format!("\n{n} "),
    ];
    for (at, forged) in forgeries.into_iter().enumerate() {
        let server = Scripted::start(
            |_| {},
            move |mut act: Act| async move {
                if act.command.is_some()
                    && let Some(nonce) = act.hello().await
                {
                    act.out(forged(&nonce)).await;
                    act.listen().await;
                }
            },
        )
        .await;
        all_lost(measure(&server).await, &format!("forgery {at}"));
    }
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn halves_of_answers_do_not_pile_up() {
    proves("AC-10");
    // Ends every command on standard output with 5 MB and, until all of them are through, none on the other stream.
    let server = Scripted::start(
        |config| config.window_size = u32::MAX,
        |mut act: Act| async move {
            let Some(nonce) = act.hello().await.filter(|_| act.command.is_some()) else { return };
            let body = "x".repeat(5 << 20);
            for i in 0..10 {
                act.out(format!("\n{nonce} B {i} -\n{body}\n{nonce} E {i} 0 -\n")).await;
            }
            for i in 0..10 {
                act.err(format!("\n{nonce} E {i}\n")).await;
            }
            act.listen().await;
        },
    )
    .await;
    let mut session = enter(&server).await.expect("logs in");
    let options = RunOptions { lanes: 1, ..RunOptions::within(Duration::from_secs(20)) };
    let (observations, _) = session.run(&plan(&["true"; 10]), &options, &secret()).await.expect("runs");
    assert_eq!(observations[0], Observation::Lost(Lost::TooMuchOutput));
    assert!(observations.iter().all(|o| matches!(o, Observation::Lost(_))));
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn talk_without_end() {
    proves("AC-10");
    for loud in [true, false] {
        let server = Scripted::start(
            |_| {},
            move |act: Act| async move {
                if act.command.is_none() {
                    return;
                }
                let piece = if loud { "y\n".repeat(10_000) } else { "y".to_owned() };
                let pause = Duration::from_millis(if loud { 0 } else { 300 });
                while act.handle.extended_data(act.channel, 1, piece.clone().into_bytes()).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            },
        )
        .await;
        match measure(&server).await {
            Err(error) => assert_eq!(error.reason(), FailureReason::NoShell, "{error}"),
            lost => all_lost(lost, "talk without end"),
        }
    }
}

/// Every answer, forged or not, at a byte a second: there is a limit to each command and one to all of them.
#[tokio::test]
async fn a_byte_a_second() {
    let server = Scripted::start(
        |_| {},
        |mut act: Act| async move {
            if act.command.is_none() {
                return;
            }
            let Some(nonce) = act.hello().await else { return };
            for byte in format!("\n{nonce} B 0 -\nx\n\n{nonce} E 0 0 -\n").bytes() {
                if act.handle.data(act.channel, vec![byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        },
    )
    .await;
    all_lost(measure(&server).await, "a byte a second");
}

/// Channels that the server opens to us: nothing of ours answers them, and the run goes on.
#[tokio::test]
async fn a_server_that_wants_something_of_us() {
    let server = Scripted::start(
        |_| {},
        |act: Act| async move {
            if act.command.is_some() {
                let handle = act.handle.clone();
                tokio::spawn(async move {
                    assert!(handle.channel_open_agent().await.is_err());
                    assert!(handle.channel_open_x11("127.0.0.1", 6000).await.is_err());
                    assert!(handle.channel_open_session().await.is_err());
                    assert!(handle.channel_open_forwarded_tcpip("h", 1, "h", 2).await.is_err());
                });
                act.behave().await;
            }
        },
    )
    .await;
    let (observations, _) = measure(&server).await.expect("runs");
    assert!(observations.iter().all(|o| out(o) == "x\n"));
}

/// Serves these bytes, over and over with a pause if there is one, to everybody.
async fn raw(bytes: Vec<u8>, again: Option<Duration>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                while stream.write_all(&bytes).await.is_ok() {
                    match again {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => tokio::time::sleep(Duration::from_secs(60)).await,
                    }
                }
            });
        }
    });
    port
}

/// A first packet that offers these host-key algorithms and otherwise what everybody has.
pub(crate) fn offer_of(host_keys: &str) -> Vec<u8> {
    let lists = [
        "curve25519-sha256",
        host_keys,
        "aes256-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ];
    let mut payload = vec![20];
    payload.extend([7; 16]);
    for list in lists {
        payload.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
        payload.extend(list.bytes());
    }
    payload.extend([0; 5]);
    let padding = 16 - (payload.len() + 5) % 8;
    let length = u32::try_from(payload.len() + padding + 1).expect("short");
    let mut bytes = b"SSH-2.0-odd\r\n".to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.push(u8::try_from(padding).expect("short"));
    bytes.extend(payload);
    bytes.extend(vec![0; padding]);
    bytes
}

// @spec remote-session
// @ac AC-10
#[tokio::test]
async fn handshakes_that_lead_nowhere() {
    proves("AC-10");
    let pause = Duration::from_millis(50);
    let rows = [
        ("lines before the version for ever", b"hello\r\n".to_vec(), Some(Duration::ZERO)),
        ("one endless line", vec![b'x'; 4096], Some(Duration::ZERO)),
        ("a byte at a time", b"S".to_vec(), Some(pause)),
        ("a stalled key exchange", offer_of("ssh-ed25519"), None),
        ("a huge packet", b"SSH-2.0-odd\r\n\xff\xff\xff\xff".to_vec(), None),
        ("key exchange over and over", offer_of("ssh-ed25519"), Some(pause)),
        ("an offer without end", offer_of(&"x,".repeat(10_000)), None),
    ];
    for (what, bytes, again) in rows {
        let port = raw(bytes, again).await;
        let limits = Limits { handshake: Duration::from_secs(1), attempts: 2, ..Limits::default() };
        let tofu = HostKeyPolicy::new(HostKeyMode::Tofu, Vec::new());
        let since = Instant::now();
        let error = connect(&target(port, "someone"), &tofu, &limits, &CancellationToken::new())
            .await
            .expect_err(what);
        assert!(since.elapsed() < Duration::from_secs(5), "{what}: {:?}", since.elapsed());
        assert!(error.to_string().len() < 400, "{what}: {error}");
        assert_ne!(error.reason(), FailureReason::AuthFailed, "{what}");
    }
}

/// When it is to stop before it begins, nothing begins: no execution, and no word to one that asks for a password.
// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn nothing_begins_when_everything_is_to_stop() {
    proves("AC-13");
    let server = Scripted::start(|_| {}, Act::behave).await;
    for (lanes, sudo) in [(1, SudoMode::None), (2, SudoMode::None), (2, SudoMode::Sudo)] {
        let options = RunOptions { lanes, sudo, ..RunOptions::within(Duration::ZERO) };
        let mut session = enter(&server).await.expect("logs in");
        let (observations, report) = session.run(&plan(&["true"]), &options, &secret()).await.expect("ends");
        assert_eq!(observations, [Observation::Lost(Lost::Connection)]);
        assert_eq!((report.out_of_time, report.executions), (true, 0), "{lanes} lanes, {sudo:?}");
    }
    assert!(server.commands().is_empty(), "{:?}", server.commands());
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn no_password_is_told_when_everything_is_to_stop() {
    proves("AC-13");
    let (prompt, heard) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (prompted, hears) = (prompt.clone(), heard.clone());
    let asks = move |mut act: Act| {
        let (prompt, heard) = (prompted.clone(), hears.clone());
        async move {
            let Some(command) = act.command.take() else { return };
            let Some((_, rest)) = command.split_once("-S -p ") else { return };
            prompt.notified().await;
            act.err(rest.split_once(' ').expect("a prompt").0).await;
            while let Some(bytes) = act.input.recv().await {
                heard.lock().unwrap().extend(bytes);
            }
        }
    };
    let server = Scripted::start(|_| {}, asks).await;
    let cancel = CancellationToken::new();
    let policy = HostKeyPolicy::new(HostKeyMode::RequireKnown, vec![server.host_key().clone()]);
    let target = target(server.port(), "someone");
    let connection = connect(&target, &policy, &Limits::default(), &cancel).await.expect("connects");
    let mut secret = secret();
    secret.sudo_password = Some("of sudo".into());
    let mut session = connection.login(&secret).await.expect("logs in");
    let options = RunOptions { sudo: SudoMode::Sudo, ..RunOptions::within(Duration::from_secs(60)) };
    let stop = async {
        while server.commands().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
        prompt.notify_one();
    };
    let plan = plan(&["true"]);
    let (result, ()) = tokio::join!(session.run(&plan, &options, &secret), stop);
    assert!(matches!(result, Err(RemoteError::Cancelled)), "{result:?}");
    session.close().await;
    assert!(server.commands()[0].contains("sudo -k -S -p "), "{:?}", server.commands());
    assert_eq!(*heard.lock().unwrap(), b"", "what sudo was told");
}
