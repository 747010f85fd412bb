//! Scans without a job get a signed one: those that people asked for, second attempts, and what was due while no corpus was
//! published. This is the only place that signs jobs.

use std::collections::BTreeMap;

use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC, job};
use openwatch_bus::trace::Traceparent;
use openwatch_bus::{Outgoing, subject};
use openwatch_model::Timestamp;
use openwatch_model::policy::Policy;
use openwatch_model::scan::Job;
use openwatch_store::scan::{self, Issued, JobOrder};
use openwatch_store::{StoreError, Tx, corpus};
use uuid::Uuid;

use super::{BATCH, STAGE, Scheduler};
use crate::StageError;
use crate::out::Out;

/// Signs a job for every scan without one. Whether some could not be issued yet.
pub(super) async fn issue_all(it: &Scheduler, policy: &Policy) -> Result<bool, StageError> {
    loop {
        let mut tx = it.store.begin().await?;
        let orders = scan::unissued(&mut tx, BATCH).await?;
        if orders.is_empty() {
            return Ok(false);
        }
        let Some(newest) = corpus_for(&mut tx, policy).await? else {
            tracing::warn!(
                scans = orders.len(),
                "no corpus is published; `openwatch rules publish` makes one known"
            );
            return Ok(true);
        };
        let mut out = Out::new(STAGE, Uuid::new_v4().to_string()).under(&policy.version);
        let mut jobs = BTreeMap::new();
        let mut issued = Vec::new();
        for order in orders {
            let (note, message) = sign(it, &to_job(order, policy, &newest, tx.now()));
            jobs.insert(note.scan, message);
            issued.push(note);
        }
        for scan in scan::issue(&mut tx, &issued).await? {
            if let Some(message) = jobs.remove(&scan) {
                out.send(message);
            }
        }
        out.commit(tx).await?;
        metrics::counter!("openwatch_jobs_issued_total").increment(issued.len() as u64);
    }
}

/// `schedule_to_job`. A host without a credential has no user; the vault will say so.
pub(super) fn to_job(order: JobOrder, policy: &Policy, corpus: &str, now: Timestamp) -> Job {
    let target = order.target;
    Job {
        scan: order.scan,
        attempt: order.attempt,
        host: target.host,
        host_number: order.host_number,
        selection: order.selection,
        policy_version: policy.version.clone(),
        enqueued_at_ns: i64::try_from(now.unix_timestamp_nanos()).unwrap_or(i64::MAX),
        lane: order.lane,
        actor: order.actor,
        variables: policy.variables_for(&target.name, &target.labels),
        address: target.address,
        port: target.port,
        user: target.user.unwrap_or_default(),
        sudo: target.sudo,
        timeout: policy.timeout,
        host_key_mode: policy.host_key_mode,
        known_keys: target.known_keys,
        jump: target.jump,
        corpus: order.corpus.unwrap_or_else(|| corpus.to_owned()),
    }
}

/// The signed job, and what is to be noted of it. Both in one `tx`, or neither.
pub(super) fn sign(it: &Scheduler, job: &Job) -> (Issued, Outgoing) {
    let payload = job::encode(job);
    let signed = it.keys.borrow().sign_job(job.lane.as_str(), &payload);
    let headers = vec![
        (KEY_ID.to_owned(), signed.kid.to_string()),
        (MAC.to_owned(), signed.tag.to_string()),
        (KEY_KIND.to_owned(), "queue".to_owned()),
        (Traceparent::HEADER.to_owned(), Traceparent::new_root().to_string()),
    ];
    let message = Outgoing {
        subject: subject::job(job.lane, job.host),
        message_id: job::message_id(job.scan, job.attempt),
        headers,
        payload,
    };
    let note = Issued {
        scan: job.scan,
        attempt: job.attempt,
        tag: *signed.tag.as_bytes(),
        key_id: signed.kid.to_string(),
        timeout_sec: job.timeout.as_secs() as u32,
        policy_version: job.policy_version.clone(),
        corpus: job.corpus.clone(),
    };
    (note, message)
}

/// The corpus that jobs name: the policy's, failing that the newest publication.
pub(super) async fn corpus_for(tx: &mut Tx<'_>, policy: &Policy) -> Result<Option<String>, StoreError> {
    match &policy.corpus {
        Some(digest) => Ok(Some(digest.clone())),
        None => Ok(corpus::newest(tx).await?.map(|c| c.digest)),
    }
}
