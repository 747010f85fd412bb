//! Results that are not applied.

use openwatch_bus::message::result::{BlobRef, INLINE_MOST, Part, encode_final, encode_stored};
use openwatch_bus::{Outgoing, User, subject};
use openwatch_model::outcome::EVIDENCE_RULE_CAP;
use openwatch_model::scan::Job;
use openwatch_tests::stages::{headers, measured};
use uuid::Uuid;

use super::*;

/// Reasons of the dead letters, oldest first, once there are that many.
async fn letters(stages: &Stages, count: usize) -> Vec<String> {
    eventually(&format!("{count} dead letters"), || async {
        let letters = stages.admin.dead_letters(1, 100).await.ok()?;
        (letters.len() >= count).then(|| letters.into_iter().map(|filed| filed.letter.reason).collect())
    })
    .await
}

async fn state(stages: &Stages, job: &Job) -> String {
    let query =
        format!("select state || coalesce(' ' || failure_reason, '') from scan where id = '{}'", job.scan);
    stages.texts(&query).await.remove(0)
}

// @spec transaction-log-writer
// @ac AC-17
#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_of_the_attempt_proves_outcomes() {
    proves("AC-17");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let part = Part::Final.as_str();
    let (subject, payload) =
        (subject::result(Part::Final, host, job.scan), encode_final(&measured(&job, &outcomes(5, 0))));
    let vault = stages.vault_keys();
    let worker = stages.keys().executor().unwrap().sign_result(part, &subject, &payload);
    let next_attempt = vault.result_key(job.scan, 2).sign(part, &subject, &payload);
    let other_scan = vault.result_key(ScanId(Uuid::new_v4()), 1).sign(part, &subject, &payload);
    // A key of attempt 2 that says so, around outcomes of attempt 1.
    let forged = [
        ("1.1.final", headers(&worker, "executor")),
        ("1.2.final", headers(&worker, "attempt")),
        ("1.3.final", headers(&next_attempt, "attempt")),
        ("2.4.final", headers(&next_attempt, "attempt")),
        ("1.5.final", headers(&other_scan, "attempt")),
        ("1.6.final", Vec::new()),
    ];
    let honest = stages.result(&job, &outcomes(5, 0));
    for (end, headers) in &forged {
        let mut message = honest.clone();
        message.message_id = format!("{}.{end}", job.scan);
        message.headers.clone_from(headers);
        message.payload = payload.clone();
        stages.send(&message).await;
    }
    let reasons = letters(&stages, forged.len()).await;
    assert_eq!(reasons.len(), forged.len(), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("key of its attempt")), "{reasons:?}");
    assert_eq!(state(&stages, &job).await, "queued");
    assert_eq!(stages.number("select count(*) from transactions").await, 0);
    assert_eq!(stages.audited("message.dead_lettered").await, 6);
    // The scan is still open for the one who may speak, under an id that the forgers have not used up.
    let honest = Outgoing { message_id: format!("{}.1.7.final", job.scan), ..honest };
    stages.send(&honest).await;
    assert_eq!(stages.ended(job.scan).await, "completed");
}

// @spec transaction-log-writer
// @ac AC-14
// @ac AC-15
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_whole() {
    proves("AC-14");
    println!("@ac AC-15");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let mut oversize = outcomes(5, 0);
    oversize[3].evidence.checks[0].stdout = "x".repeat(EVIDENCE_RULE_CAP + 1);
    let mut twice = outcomes(5, 0);
    twice.push(twice[2].clone());
    let cases = [
        (oversize, "evidence_oversize", "rule-0003", "failed evidence_oversize"),
        (twice, "duplicate_rule", "rule-0002", "failed invalid_result"),
    ];
    for (number, (outcomes, reason, rule, ends)) in cases.into_iter().enumerate() {
        let host = stages.host(&format!("web-{number}"), 22).await;
        let (job, _) = stages.job(host, |_| ()).await;
        stages.send(&stages.result(&job, &outcomes)).await;
        assert_eq!(stages.ended(job.scan).await, "failed");
        assert_eq!(state(&stages, &job).await, ends);
        let audited = stages
            .texts(&format!(
                "select concat_ws(' ', detail->>'reason', detail->>'offending_rule_id', detail->>'rule_count_attempted')
                 from audit_event where action = 'writer.apply.failed' and detail->>'scan_id' = '{}'",
                job.scan
            ))
            .await;
        assert_eq!(audited, [format!("{reason} {rule} {}", outcomes.len())]);
        let letters = letters(&stages, number + 1).await;
        assert!(letters.last().unwrap().contains(rule), "{letters:?}");
    }
    // A scan that the database does not know, of a host that it does not know.
    let host = stages.host("web", 22).await;
    let (mut job, _) = stages.job(host, |_| ()).await;
    (job.scan, job.host) = (ScanId(Uuid::new_v4()), HostId(Uuid::new_v4()));
    stages.send(&stages.result(&job, &outcomes(5, 0))).await;
    let letters = letters(&stages, 3).await;
    assert!(letters.last().unwrap().contains("unknown"), "{letters:?}");
    let reasons = "select detail->>'reason' from audit_event where action = 'writer.apply.failed' order by occurred_at desc";
    assert_eq!(stages.texts(reasons).await[0], "scan_id_conflict");
    for table in ["transactions", "evidence", "rule_state"] {
        assert_eq!(stages.number(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
}

// @spec transaction-log-writer
// @ac AC-15
#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_that_is_refused_is_kept_beside_its_letter() {
    proves("AC-15");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let mut large = outcomes(12, 0);
    for outcome in &mut large {
        let noise = (0..6000).map(|_| Uuid::new_v4().simple().to_string());
        outcome.evidence.checks[0].stdout = noise.collect();
    }
    large.push(large[0].clone());
    let bytes = encode_final(&measured(&job, &large));
    assert!(bytes.len() > INLINE_MOST, "{}", bytes.len());
    let name = format!("{}.1.large", job.scan);
    let worker = stages.world.bus(User::Executor).await;
    worker.put_object(subject::BUCKET_RESULTS, &name, bytes.clone()).await.unwrap();
    let payload = encode_stored(&BlobRef::of(subject::BUCKET_RESULTS, name, &bytes));
    let message = stages.result(&job, &[]);
    let key = stages.vault_keys().result_key(job.scan, 1);
    let signed = key.sign(Part::Final.as_str(), &message.subject, &payload);
    stages.send(&Outgoing { payload, headers: headers(&signed, "attempt"), ..message }).await;
    assert_eq!(stages.ended(job.scan).await, "failed");
    assert!(letters(&stages, 1).await[0].contains("rule-0000"));
    let (mut kept, mut from) = (Vec::new(), 1);
    while let Some(part) =
        stages.admin.next_message(subject::DLQ, from, "ow.v1.dlq.writer.blob").await.unwrap()
    {
        from = part.sequence + 1;
        kept.extend_from_slice(&part.payload);
    }
    assert!(kept == bytes, "{} of {} bytes were kept", kept.len(), bytes.len());
}
