//! One measurement of one host: probe, plan, run, judge. Shared by the executor and `openwatch check`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::host::Platform;
use openwatch_model::outcome::OUTPUT_RULE_CAP;
use openwatch_model::plan::{Observation, Plan, RunReport};
use openwatch_model::scan::{Failure, FailureReason, Measurement, RuleTiming, Selection};
use openwatch_remote::{Caps, RemoteError, RunOptions, Session};
use openwatch_rules::{CheckPlan, Judged};

use crate::loaded::Loaded;

/// How to measure.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// Shells that run side by side on the target.
    pub lanes: u8,
    /// How to become root.
    pub sudo: SudoMode,
    /// When the whole of it must be over.
    pub deadline: Instant,
    /// What to measure.
    pub selection: Selection,
    /// Capabilities that replace what the probes find.
    pub capabilities: BTreeMap<String, bool>,
    /// Whether a measurement that ran out of time, or met a rule that floods, fails as a whole. Else the rules without an
    /// answer are errors and the others keep theirs.
    pub whole: bool,
}

/// How far it is: commands answered, and commands in all once they are known.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// What measures a host: [`engine`], and in tests something that breaks.
pub type Engine = for<'a> fn(
    &'a mut Session,
    &'a Loaded,
    &'a Secret,
    &'a MeasureOptions,
) -> BoxFuture<'a, Result<Measurement, Failure>>;

/// [`measure`] without anybody who watches.
pub fn engine<'a>(
    session: &'a mut Session,
    corpus: &'a Loaded,
    secret: &'a Secret,
    options: &'a MeasureOptions,
) -> BoxFuture<'a, Result<Measurement, Failure>> {
    Box::pin(measure(session, corpus, secret, options, &|_, _| ()))
}

/// Measures a host over a session that is logged in.
///
/// # Errors
/// A [`Failure`] with the reason that `scan.failed` reports.
pub async fn measure(
    session: &mut Session,
    corpus: &Loaded,
    secret: &Secret,
    options: &MeasureOptions,
    progress: Progress<'_>,
) -> Result<Measurement, Failure> {
    // One lane: the probes are few and quick, and each lane is one more line in the target's sudo log.
    let probes = corpus.corpus().probe_plan();
    let (answers, probe_report) =
        run(session, &probes, secret, options, 1, &|done, _| progress(done, 0)).await?;
    if probe_report.out_of_time {
        return Err(out_of_time());
    }
    let facts = corpus.corpus().facts(&answers, &options.capabilities);
    let checks = corpus.plan(&facts, &options.selection);
    let begun = Instant::now();
    let (observations, report) = run(session, &checks.plan, secret, options, options.lanes, progress).await?;
    tracing::debug!(
        commands = observations.len(),
        elapsed_ms = begun.elapsed().as_millis() as u64,
        "checks ran"
    );
    let judged = checks.judge(&observations);
    if options.whole && report.out_of_time {
        return Err(out_of_time());
    }
    if let Some(rule) = judged.oversize.clone().filter(|_| options.whole) {
        let detail = format!("rule {rule} printed more than {} MiB", OUTPUT_RULE_CAP >> 20);
        return Err(Failure { reason: FailureReason::EvidenceOversize, detail, rule: Some(rule) });
    }
    let measurement =
        collect(facts.platform, facts.capabilities, &checks, judged, &observations, &probe_report, &report);
    if measurement.transport_lost() {
        let detail = format!(
            "{} of {} checks were lost on the way; more than a fifth is too many to trust the rest",
            measurement.lost_checks, measurement.planned_checks
        );
        return Err(Failure { reason: FailureReason::TransportLost, detail, rule: None });
    }
    Ok(measurement)
}

fn out_of_time() -> Failure {
    Failure::new(FailureReason::Timeout, "not finished within its time limit")
}

async fn run(
    session: &mut Session,
    plan: &Plan,
    secret: &Secret,
    options: &MeasureOptions,
    lanes: u8,
    progress: Progress<'_>,
) -> Result<(Vec<Observation>, RunReport), Failure> {
    let total = plan.commands.len();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let count = |_: usize, _: &Observation| {
        progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, total);
    };
    let run = RunOptions {
        lanes,
        sudo: options.sudo,
        deadline: options.deadline,
        caps: Caps::default(),
        on_progress: Some(&count),
    };
    session.run(plan, &run, secret).await.map_err(|error| failure(&error))
}

/// The failure that a scan reports for an error of the connection.
pub fn failure(error: &RemoteError) -> Failure {
    Failure { reason: error.reason(), detail: error.to_string(), rule: None }
}

fn collect(
    platform: Platform,
    capabilities: BTreeMap<String, bool>,
    checks: &CheckPlan,
    judged: Judged,
    observations: &[Observation],
    probe_report: &RunReport,
    report: &RunReport,
) -> Measurement {
    let lost = |o: &&Observation| matches!(o, Observation::Lost(lost) if lost.is_transport());
    Measurement {
        platform,
        capabilities,
        timings: timings(&judged, observations),
        outcomes: judged.outcomes,
        lost_checks: observations.iter().filter(lost).count() as u32,
        planned_checks: checks.plan.commands.len() as u32,
        fallback: report.fallback.clone().or_else(|| probe_report.fallback.clone()),
        executions: probe_report.executions + report.executions,
    }
}

/// Time per rule: the sum of its observations. A shared observation counts in full for each rule that needs it, since
/// each would have taken that long alone.
fn timings(judged: &Judged, observations: &[Observation]) -> Vec<RuleTiming> {
    let done = |index: &usize| match observations.get(*index) {
        Some(Observation::Done(done)) => Some(done),
        _ => None,
    };
    let timing = |(rule, used): &(String, Vec<usize>)| {
        let duration: Duration = used.iter().filter_map(done).map(|d| d.duration).sum();
        let lane = used.iter().find_map(done)?.lane;
        Some(RuleTiming { rule: rule.clone(), duration_ms: duration.as_millis() as u64, lane })
    };
    judged.rule_observations.iter().filter_map(timing).collect()
}
