//! One attempt at one scan, from the dial to the result.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use openwatch_bus::message::result::Started;
use openwatch_bus::message::vault::{Reply, Request};
use openwatch_bus::message::{KEY_ID, MAC};
use openwatch_bus::subject::VAULT_RELEASE;
use openwatch_bus::{BusError, Message, Next};
use openwatch_model::credential::Secret;
use openwatch_model::host::KnownKey;
use openwatch_model::scan::{Failure, FailureReason, Job, Jump, Measurement, ScanResult, Verdict, slowest};
use openwatch_model::{HostId, Timestamp};
use openwatch_remote::{CLEARING, Connection, HostKeyPolicy, Limits, Target, connect, connect_through};
use openwatch_rules::ENGINE_VERSION;
use openwatch_trust::seal::{EphemeralKey, SealError};
use openwatch_trust::{ResultKey, Tag};

use super::{Worker, send};
use crate::corpus::CorpusError;
use crate::measure::{MeasureOptions, failure};
use crate::release::unframe;

/// Longest wait for the vault.
const VAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a job waits when the vault or the corpus is away.
const AWAY: Duration = Duration::from_secs(5);
/// What a measurement may take beyond the scan's time, to leave nothing behind on the target.
const OVERTIME: Duration = CLEARING.saturating_add(Duration::from_secs(1));

/// How an attempt leaves the normal path.
enum Stop {
    /// The world is not ready: the same job again, later.
    Later(Duration),
    /// It ended without outcomes.
    Failed(Failure),
    /// The scan has ended or moved on meanwhile: nothing to report.
    Stale(String),
}

/// What an attempt leaves behind, whatever came of it.
#[derive(Default)]
struct Trace {
    learned_key: Option<KnownKey>,
    learned_jump_key: Option<(HostId, KnownKey)>,
    shown_key: Option<KnownKey>,
    result_key: Option<ResultKey>,
}

pub(super) async fn run(worker: &Worker, message: &Message, job: &Job, tag: Tag) -> Next {
    let begun = Instant::now();
    let started_at = Timestamp::now_utc();
    let mut trace = Trace::default();
    // What one host does to this code must not take the other hosts in hand down with it.
    let performed = AssertUnwindSafe(perform(worker, message, job, tag, begun, &mut trace)).catch_unwind();
    let performed = performed.await.unwrap_or_else(|_| {
        tracing::error!(scan.id = %job.scan, host.id = %job.host, "the worker broke while it measured a host");
        Err(fail(FailureReason::WorkerPanic, "the worker broke while it measured this host; its log says where"))
    });
    let verdict = match performed {
        Ok(mut measurement) => {
            // They differ from scan to scan, which what a quiet host sends otherwise hardly does.
            measurement.timings = slowest(measurement.timings);
            Verdict::Completed(measurement)
        }
        Err(Stop::Later(after)) => {
            return Next::Retry { after: patience(after, message.deliveries) };
        }
        Err(Stop::Stale(code)) => {
            tracing::info!(scan.id = %job.scan, attempt = job.attempt, code, "a stale job was let go");
            metrics::counter!("openwatch_jobs_stale_total").increment(1);
            return Next::Done;
        }
        Err(Stop::Failed(failure)) => {
            if message.deliveries < failure.reason.consequence().deliveries {
                return give_back(message, job, &failure);
            }
            Verdict::Failed(failure)
        }
    };
    let result = ScanResult {
        scan: job.scan,
        attempt: job.attempt,
        host: job.host,
        host_number: job.host_number,
        worker: worker.name.clone(),
        started_at,
        finished_at: Timestamp::now_utc(),
        engine: ENGINE_VERSION.to_owned(),
        corpus: job.corpus.clone(),
        learned_key: trace.learned_key,
        learned_jump_key: trace.learned_jump_key,
        shown_key: trace.shown_key,
        verdict,
    };
    let outcome = match &result.verdict {
        Verdict::Completed(_) => "completed",
        Verdict::Failed(failure) => failure.reason.as_str(),
    };
    metrics::counter!("openwatch_scans_measured_total", "outcome" => outcome).increment(1);
    metrics::histogram!("openwatch_scan_seconds").record(begun.elapsed().as_secs_f64());
    tracing::info!(scan.id = %job.scan, host.id = %job.host, outcome, duration_ms = begun.elapsed().as_millis() as u64, "attempt over");
    match send::last(worker, message, result, trace.result_key.as_ref()).await {
        Ok(()) => Next::Done,
        Err(error) => {
            tracing::error!(%error, scan.id = %job.scan, "the result could not be handed over; the scan is done again");
            Next::Retry { after: AWAY }
        }
    }
}

/// It may have passed by the next delivery. A worker that is told to stop keeps the next one no moment longer than needed.
fn give_back(message: &Message, job: &Job, failure: &Failure) -> Next {
    let reason = failure.reason.as_str();
    tracing::warn!(scan.id = %job.scan, host.id = %job.host, reason, detail = failure.detail, "trying again");
    metrics::counter!("openwatch_jobs_given_back_total", "reason" => reason).increment(1);
    let after = match failure.reason {
        FailureReason::Cancelled => Duration::ZERO,
        _ => Duration::from_secs(2u64.pow(message.deliveries as u32)),
    };
    Next::Retry { after }
}

/// What is away for long is asked less often: with twenty deliveries a job outlasts a quarter of an hour, and the
/// rescuer gives it two more lives after that.
fn patience(after: Duration, deliveries: u64) -> Duration {
    let doublings = deliveries.saturating_sub(1).min(4) as u32;
    (after * 2u32.pow(doublings)).min(Duration::from_secs(60))
}

async fn perform(
    worker: &Worker,
    message: &Message,
    job: &Job,
    tag: Tag,
    begun: Instant,
    trace: &mut Trace,
) -> Result<Measurement, Stop> {
    let deadline = begun + job.timeout;
    let corpus = match worker.corpora.get(&job.corpus, &job.variables).await {
        Ok(corpus) => corpus,
        Err(CorpusError::Bus(error)) if error.is_outage() => return Err(Stop::Later(AWAY)),
        Err(error) => return Err(fail(FailureReason::CorpusUnavailable, error.to_string())),
    };
    let connection = until(deadline, job, reach(worker, job, tag, trace)).await?;
    trace.learned_key = connection.is_first_contact().then(|| connection.host_key().clone());
    let (secret, result_key) = ask_vault(worker, job, tag).await?;
    trace.result_key = Some(result_key);
    let started = Started {
        scan: job.scan,
        attempt: job.attempt,
        host: job.host,
        worker: worker.name.clone(),
        at: Timestamp::now_utc(),
    };
    if let Err(error) = send::started(worker, message, &started).await {
        tracing::warn!(%error, "a scan cannot begin while the bus is away");
        return Err(Stop::Later(AWAY));
    }
    let login = async { connection.login(&secret).await.map_err(|error| ended(failure(&error))) };
    let mut session = until(deadline, job, login).await?;
    let options = MeasureOptions {
        whole: true,
        lanes: worker.lanes,
        sudo: job.sudo,
        deadline,
        selection: job.selection.clone(),
        capabilities: BTreeMap::new(),
    };
    // The engine keeps the time itself, and clears the target afterwards; this is for one that does not.
    let measuring = (worker.engine)(&mut session, &corpus, &secret, &options);
    let measured = until(deadline + OVERTIME, job, async { measuring.await.map_err(ended) }).await;
    session.close().await;
    measured.and_then(|measurement| unambiguous(measurement).map_err(Stop::Failed))
}

/// Does something within the scan's time.
async fn until<T>(
    deadline: Instant,
    job: &Job,
    work: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| {
        Err(fail(FailureReason::Timeout, format!("not finished within {} s", job.timeout.as_secs())))
    })
}

/// One outcome for each rule, or the engine contradicts itself (EXE-34).
fn unambiguous(measurement: Measurement) -> Result<Measurement, Failure> {
    let mut seen = BTreeSet::new();
    let twice = measurement.outcomes.iter().find(|outcome| !seen.insert(outcome.rule.as_str()));
    let Some(twice) = twice.map(|outcome| outcome.rule.clone()) else { return Ok(measurement) };
    let detail = format!("the engine judged rule {twice} twice");
    Err(Failure { reason: FailureReason::KensaError, detail, rule: Some(twice) })
}

/// A connection to the host whose key has been verified; through its jump host, where it has one. The order holds on
/// both: first the host's key, then its secret.
async fn reach(worker: &Worker, job: &Job, tag: Tag, trace: &mut Trace) -> Result<Connection, Stop> {
    let target = Target { address: job.address.clone(), port: job.port, user: job.user.clone() };
    let policy = HostKeyPolicy::new(job.host_key_mode, job.known_keys.clone());
    let (limits, hurry) = (Limits::default(), &worker.hurry);
    let reached = match &job.jump {
        None => connect(&target, &policy, &limits, hurry).await,
        Some(it) => {
            let first = Target { address: it.address.clone(), port: it.port, user: it.user.clone() };
            let known = HostKeyPolicy::new(job.host_key_mode, it.known_keys.clone());
            let connection = connect(&first, &known, &limits, hurry)
                .await
                .map_err(|error| Stop::Failed(failure(&error.at_jump())))?;
            let secret = ask_for_jump(worker, job, it, tag).await?;
            trace.learned_jump_key =
                connection.is_first_contact().then(|| (it.host, connection.host_key().clone()));
            match connection.into_jump(secret).await {
                Ok(jump) => connect_through(&jump, &target, &policy, &limits, hurry).await,
                Err(error) => Err(error),
            }
        }
    };
    reached.map_err(|error| {
        trace.shown_key = error.shown_key().cloned();
        Stop::Failed(failure(&error))
    })
}

async fn ask_vault(worker: &Worker, job: &Job, tag: Tag) -> Result<(Secret, ResultKey), Stop> {
    let (key, sealed) = question(worker, job, tag, None).await?;
    key.open_release(&sealed, job.scan, job.attempt).map_err(|error| unopened(&error))
}

async fn ask_for_jump(worker: &Worker, job: &Job, jump: &Jump, tag: Tag) -> Result<Secret, Stop> {
    let (key, sealed) = question(worker, job, tag, Some(jump.host)).await.map_err(|stop| match stop {
        Stop::Failed(it) => Stop::Failed(Failure { detail: format!("the jump host: {}", it.detail), ..it }),
        other => other,
    })?;
    key.open_jump(&sealed, job.scan, job.attempt, jump.host).map_err(|error| unopened(&error))
}

fn unopened(error: &SealError) -> Stop {
    let detail = format!("the released secret cannot be opened: {error}");
    fail(FailureReason::CredentialDecryptionFailed, detail)
}

/// Asks the vault, with a key made for this question alone.
async fn question(
    worker: &Worker,
    job: &Job,
    tag: Tag,
    jump: Option<HostId>,
) -> Result<(EphemeralKey, Vec<u8>), Stop> {
    let key = EphemeralKey::generate();
    let request = Request {
        scan: job.scan,
        attempt: job.attempt,
        tag: tag.to_string(),
        public_key: key.public().to_vec(),
        worker: worker.name.clone(),
        jump,
    }
    .encode();
    let signed = worker.keys.borrow().sign_request(&request);
    let headers = [(KEY_ID.to_owned(), signed.kid.to_string()), (MAC.to_owned(), signed.tag.to_string())];
    let answer = match worker.bus.request(VAULT_RELEASE, &headers, request.clone(), VAULT_TIMEOUT).await {
        Ok(answer) => answer,
        // A vault that is away is no failure of the host.
        Err(BusError::Denied { user, subject }) => {
            return Err(fail(FailureReason::KensaError, format!("{user} may not ask {subject}")));
        }
        Err(error) => {
            tracing::warn!(%error, scan.id = %job.scan, "the vault does not answer; the job waits");
            return Err(Stop::Later(AWAY));
        }
    };
    let reply = unframe(&answer)
        .filter(|(signed, reply)| worker.keys.borrow().verify_answer(&request, reply, signed).is_ok())
        .and_then(|(_, reply)| Reply::decode(reply).ok());
    match reply {
        Some(Reply::Sealed { sealed }) => Ok((key, sealed)),
        Some(Reply::Refused { code }) => Err(refused(&code)),
        None => {
            tracing::error!(scan.id = %job.scan, "an answer in the vault's place is not the vault's; the job waits");
            Err(Stop::Later(AWAY))
        }
    }
}

fn refused(code: &str) -> Stop {
    match code {
        "no_credential" => fail(
            FailureReason::NoCredential,
            "the host has no credential and there is no default one; `openwatch credential add` stores one",
        ),
        "credential_decryption_failed" => {
            fail(FailureReason::CredentialDecryptionFailed, "the stored credential cannot be decrypted")
        }
        "unavailable" => Stop::Later(AWAY),
        // Closed, promoted, rescued, removed: somebody else answers for this scan.
        _ => Stop::Stale(code.to_owned()),
    }
}

fn fail(reason: FailureReason, detail: impl Into<String>) -> Stop {
    Stop::Failed(Failure::new(reason, detail))
}

/// A failure after the account was used.
fn ended(mut failure: Failure) -> Stop {
    failure.reason = failure.reason.after_login();
    Stop::Failed(failure)
}
