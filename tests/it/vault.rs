//! The vault's promises, kept by the real program.

use std::path::Path;
use std::time::Duration;

use openwatch_bus::message::result::{Final, decode_final};
use openwatch_bus::message::vault::{Reply, Request};
use openwatch_bus::message::{KEY_ID, MAC};
use openwatch_bus::subject::VAULT_RELEASE;
use openwatch_bus::{Bus, User};
use openwatch_model::ScanId;
use openwatch_tests::{Stack, eventually, sshd};
use openwatch_trust::seal::EphemeralKey;
use openwatch_trust::{Dek, Deks, ExecutorKeys, keyring};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::trunk::base64;
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{self, count, execute, texts};

pub(crate) type Bytes = Vec<u8>;

/// The forms in which a text may lie around: as it is, hex and base64 of it (each alignment), and without its line ends.
pub(crate) fn forms(secret: &str) -> Vec<Bytes> {
    let mut forms = vec![secret.as_bytes().to_vec(), hex::encode(secret).into_bytes()];
    for skipped in 0..3 {
        // Whole groups only: the edges depend on what stands beside.
        let middle = &secret.as_bytes()[skipped..];
        let middle = &middle[..middle.len() / 3 * 3];
        forms.push(base64(middle).into_bytes());
    }
    forms
}

pub(crate) fn holds(haystack: &[u8], forms: &[Bytes]) -> bool {
    forms.iter().any(|form| haystack.windows(form.len()).any(|part| part == form.as_slice()))
}

/// Every file below, except those with that name.
pub(crate) fn files_with(dir: &Path, forms: &[Bytes], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_with(&path, forms, found);
        } else if holds(&std::fs::read(&path).unwrap_or_default(), forms) {
            found.push(path.display().to_string());
        }
    }
}

/// Columns of all tables that hold it, in whatever type.
pub(crate) async fn columns_with(db: &mut PgConnection, forms: &[Bytes]) -> Vec<String> {
    let tables = texts(db, "select table_name::text from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'").await;
    assert!(tables.len() > 15, "{tables:?}");
    let mut found = Vec::new();
    for table in tables {
        for row in texts(db, &format!("select to_jsonb(t)::text from \"{table}\" t")).await {
            if holds(row.as_bytes(), forms) {
                found.push(format!("{table}: {row}"));
            }
        }
    }
    found
}

/// Every message of every stream, results taken out of their compression.
pub(crate) async fn messages_with(admin: &Bus, forms: &[Bytes]) -> Vec<String> {
    let mut found = Vec::new();
    for stream in [
        "OW_JOBS",
        "OW_RESULTS",
        "OW_EVENTS",
        "OW_EVENTS_PUBLIC",
        "OW_AUDIT",
        "OW_DLQ",
        "OBJ_ow-results",
        "OBJ_ow-corpora",
    ] {
        let info = admin.stream_info(stream).await.unwrap();
        for sequence in info.first_sequence..=info.last_sequence {
            let Ok(Some(stored)) = admin.message_at(stream, sequence).await else { continue };
            let headers = format!("{:?}", stored.headers);
            if holds(&stored.payload, forms) || holds(headers.as_bytes(), forms) {
                found.push(format!("{stream} {sequence}"));
            }
            let Ok(Final::Whole(unread)) = decode_final(&stored.payload) else { continue };
            if holds(format!("{:?} {:?}", unread.head(), unread.outcomes().unwrap()).as_bytes(), forms) {
                found.push(format!("{stream} {sequence}, unpacked"));
            }
        }
    }
    found
}

// @spec vault
// @ac AC-01
#[tokio::test]
async fn a_stored_secret_works_and_lies_nowhere_in_the_clear() {
    println!("@spec vault");
    println!("@ac AC-01");
    let (ground, sshd) = (Ground::new(2), sshd::Options::new().start());
    let mut stack = Stack::with(&["--rules", &ground.rules_arg(), "--log", "debug"]).await;
    let rest = Rest::of(&stack.client());
    // The middle of the key's text, and a password nobody else has.
    let canary = sshd.private_key().lines().nth(3).unwrap().to_owned();
    let password = format!("canary-{}", uuid::Uuid::new_v4().simple());
    let made = rest
        .post(
            "/credentials",
            json!({ "name": "key", "username": sshd.user(), "private_key": sshd.private_key(), "sudo_password": password, "default": true }),
        )
        .await;
    assert!(!holds(made.to_string().as_bytes(), &forms(&canary)), "{made}");
    rest.post("/hosts", json!({ "name": "web-1", "address": "127.0.0.1", "port": sshd.port() })).await;
    let scans = stack.ended_scans("web-1", 1).await;
    assert_eq!(scans[0]["state"], "completed", "the secret opens the door: {scans:?}");

    let data = stack.data_dir();
    let mut db = tables::private_db(&data).await;
    eventually("the secret encrypted", || async {
        let mut db = tables::private_db(&data).await;
        (count(&mut db, "select count(*) from credential where sealed is null and ciphertext is not null")
            .await
            == 1)
            .then_some(())
    })
    .await;
    let admin = tables::bus(&stack.client().nats_url, &data.join("keys"), User::Admin).await;
    tables::quiet(&tables::private_url(&data), &admin, Duration::from_secs(20)).await;
    // PostgreSQL's files must hold what its tables do before they are read.
    execute(&mut db, "checkpoint").await;
    for secret in [&canary, &password] {
        let forms = forms(secret);
        assert_eq!(columns_with(&mut db, &forms).await, Vec::<String>::new());
        assert_eq!(messages_with(&admin, &forms).await, Vec::<String>::new());
        let mut files = Vec::new();
        files_with(&data, &forms, &mut files);
        assert_eq!(
            files,
            Vec::<String>::new(),
            "the whole data directory: tables, write-ahead log, streams, logs"
        );
        let log = format!("{}{}", stack.up().stdout(), stack.up().stderr());
        assert!(log.contains("DEBUG"), "everything is logged");
        assert!(!holds(log.as_bytes(), &forms), "no log line holds it");
        let pid = stack.up().process_id();
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!holds(&text, &forms), "{file}");
        }
        let listed = rest.get("/credentials").await;
        assert!(!holds(listed.to_string().as_bytes(), &forms), "{listed}");
    }
    // The search finds what is there: the rules' ids are in every one of these places.
    let there = vec![b"file-0".to_vec()];
    assert!(
        !columns_with(&mut db, &there).await.is_empty() && !messages_with(&admin, &there).await.is_empty()
    );
    let released =
        texts(&mut db, "select detail::text from audit_event where action = 'credential.released'").await;
    assert_eq!(released.len(), 1, "{released:?}");
}

/// One question to the vault, and what it answered; nothing when it kept silent.
async fn ask(
    bus: &Bus,
    keys: &ExecutorKeys,
    request: &Request,
    key: &EphemeralKey,
) -> Option<Result<String, String>> {
    let payload = request.encode();
    let signed = keys.sign_request(&payload);
    let headers = [(KEY_ID.to_owned(), signed.kid.to_string()), (MAC.to_owned(), signed.tag.to_string())];
    let answer = bus.request(VAULT_RELEASE, &headers, payload, Duration::from_secs(3)).await.ok()?;
    // The signature of the answer stands on a line before it.
    let end = answer.iter().position(|byte| *byte == b'\n').unwrap();
    Some(match Reply::decode(&answer[end + 1..]).unwrap() {
        Reply::Sealed { sealed } => {
            let (secret, _) = key.open_release(&sealed, request.scan, request.attempt).unwrap();
            Ok(secret.private_key.clone().unwrap_or_default())
        }
        Reply::Refused { code } => Err(code),
    })
}

async fn refusals(fleet: &Fleet) -> Vec<String> {
    let sql = "select detail ->> 'reason' from audit_event where action = 'credential.refused' order by occurred_at, id";
    texts(&mut fleet.db().await, sql).await
}

// @spec vault
// @ac AC-02
#[tokio::test]
async fn only_the_current_attempt_of_an_open_scan_is_answered() {
    println!("@spec vault");
    println!("@ac AC-02");
    let (ground, sshd) = (Ground::new(1), sshd::Options::new().start());
    // No executor: the test is the one.
    let mut fleet = Fleet::prepare(&ground.rules()).await;
    for stage in ["api", "vault", "scheduler"] {
        fleet.spawn(stage);
    }
    fleet.all_running().await;
    fleet.add_hosts(1, &sshd).await;
    let (scan, tag) = eventually("an issued job", || async {
        let rows = texts(
            &mut fleet.db().await,
            "select id || ' ' || encode(tag, 'hex') from scan where tag is not null",
        )
        .await;
        let (scan, tag) = rows.first()?.split_once(' ')?;
        Some((scan.to_owned(), tag.to_owned()))
    })
    .await;
    let bus = fleet.bus(User::Executor).await;
    let keys = ExecutorKeys::load(&fleet.keys("executor").join("executor.json")).unwrap();
    let key = EphemeralKey::generate();
    let scan = ScanId(scan.parse().unwrap());
    let public_key = key.public().to_vec();
    let good = Request { scan, attempt: 1, tag, public_key, worker: "test".into(), jump: None };

    let other_tag = Request { tag: "00".repeat(32), ..good.clone() };
    let no_tag = Request { tag: "not hex".into(), ..good.clone() };
    let other_attempt = Request { attempt: 2, ..good.clone() };
    let other_scan = Request { scan: ScanId(uuid::Uuid::new_v4()), ..good.clone() };
    let no_key = Request { public_key: vec![1, 2, 3], ..good.clone() };
    for (request, code) in [
        (&other_tag, "tag_mismatch"),
        (&no_tag, "tag_mismatch"),
        (&other_attempt, "stale_attempt"),
        (&other_scan, "unknown_scan"),
        (&no_key, "bad_request"),
    ] {
        let before = refusals(&fleet).await;
        assert_eq!(ask(&bus, &keys, request, &key).await, Some(Err(code.to_owned())));
        let after = refusals(&fleet).await;
        assert_eq!(after[before.len()..], [code.to_owned()], "each is audited");
    }
    // Signed by a stranger: silence, and an audit row all the same.
    let stranger = keyring::issue_executor(&Deks::single(Dek::generate()));
    assert_eq!(ask(&bus, &stranger, &good, &key).await, None);
    let unsigned = bus.request(VAULT_RELEASE, &[], good.encode(), Duration::from_secs(2)).await;
    assert!(unsigned.is_err(), "silence");
    // Taken off the wire, with another public key in the place of the worker's.
    let (thief, honest) = (EphemeralKey::generate(), keys.sign_request(&good.encode()));
    let swapped = Request { public_key: thief.public().to_vec(), ..good.clone() };
    let headers = [(KEY_ID.to_owned(), honest.kid.to_string()), (MAC.to_owned(), honest.tag.to_string())];
    let answer = bus.request(VAULT_RELEASE, &headers, swapped.encode(), Duration::from_secs(2)).await;
    assert!(answer.is_err(), "silence");
    let told = refusals(&fleet).await;
    assert_eq!(told[told.len() - 3..], ["bad_signature"; 3], "{told:?}");
    assert_eq!(
        count(&mut fleet.db().await, "select sum(grants)::bigint from scan").await,
        0,
        "no secret left"
    );

    // The right question is answered, to this key and nobody else's.
    assert_eq!(ask(&bus, &keys, &good, &key).await, Some(Ok(sshd.private_key().to_owned())));
    assert_eq!(count(&mut fleet.db().await, "select sum(grants)::bigint from scan").await, 1);
    let released: Vec<Value> = texts(
        &mut fleet.db().await,
        "select detail::text from audit_event where action = 'credential.released'",
    )
    .await
    .iter()
    .map(|text| serde_json::from_str(text).unwrap())
    .collect();
    assert_eq!((released.len(), &released[0]["worker"]), (1, &json!("test")));

    // The same words after the end of the scan open nothing.
    let end = format!(
        "update scan set state = 'failed', finished_at = now(), failure_reason = 'lost' where id = '{}'",
        good.scan
    );
    execute(&mut fleet.db().await, &end).await;
    assert_eq!(ask(&bus, &keys, &good, &key).await, Some(Err("scan_closed".to_owned())));
    assert_eq!(refusals(&fleet).await.last().map(String::as_str), Some("scan_closed"));
    assert_eq!(count(&mut fleet.db().await, "select sum(grants)::bigint from scan").await, 1);
}

// @spec vault
// @ac AC-04
#[tokio::test]
async fn a_secret_that_was_moved_to_another_row_opens_nothing() {
    println!("@spec vault");
    println!("@ac AC-04");
    let (ground, sshd) = (Ground::new(1), sshd::Options::new().start());
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let rest = Rest::of(&stack.client());
    for (name, default) in [("good", true), ("other", false)] {
        let body = json!({ "name": name, "username": sshd.user(), "private_key": sshd.private_key(), "default": default });
        rest.post("/credentials", body).await;
    }
    let data = stack.data_dir();
    let encrypted = "select count(*) from credential where ciphertext is not null and sealed is null";
    eventually("both encrypted", || async {
        (count(&mut tables::private_db(&data).await, encrypted).await == 2).then_some(())
    })
    .await;
    // Both hold the same key, so only the row that it was encrypted for can tell them apart.
    let swap = "update credential c set ciphertext = o.ciphertext from credential o where o.name = 'good' and c.name = 'other'";
    let mut db = tables::private_db(&data).await;
    execute(&mut db, swap).await;
    for (host, credential) in [("web", None), ("swapped", Some("other"))] {
        let body =
            json!({ "name": host, "address": "127.0.0.1", "port": sshd.port(), "credential": credential });
        rest.post("/hosts", body).await;
    }
    assert_eq!(stack.ended_scans("web", 1).await[0]["state"], "completed");
    let scans = stack.ended_scans("swapped", 1).await;
    assert_eq!(scans[0]["failure"], "credential_decryption_failed", "{scans:?}");
    let released = "select count(*) from audit_event where action = 'credential.released'";
    assert_eq!(count(&mut db, released).await, 1, "that of the other host");
}
