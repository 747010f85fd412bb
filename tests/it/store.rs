//! The store on a real PostgreSQL, through the roles that the stages have.

mod alerts;
mod dispatch;
mod ends;
mod grants;
pub(crate) mod history;
mod inventory;
mod open;
mod plumbing;
mod results;

use std::collections::BTreeMap;

use openwatch_model::credential::SudoMode;
use openwatch_model::drift::{Summary, summarise};
use openwatch_model::host::Platform;
use openwatch_model::outcome::CheckEvidence;
use openwatch_model::scan::Selection;
use openwatch_model::score::{Bands, Score};
use openwatch_model::transaction::{Change, change};
use openwatch_model::{Evidence, HostId, Outcome, ScanId, Severity, Status};
use openwatch_store::apply::{self, Completion};
use openwatch_store::audit::Columns;
use openwatch_store::end::{self, Ending, Found, OpenScan, Source};
use openwatch_store::finding::{self, Finding, RawOutcome};
use openwatch_store::host::{self, NewHost};
use openwatch_store::outbox::Told;
use openwatch_store::scan::{self, Issued, NewScan, Queued};
use openwatch_store::{Role, Store, StoreError};
use openwatch_tests::{Database, eventually};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

/// A database and the stages' ways into it.
struct Rig {
    database: Database,
    api: Store,
    scheduler: Store,
    writer: Store,
}

/// What became of a result.
#[derive(Debug, PartialEq)]
enum Applied {
    /// It was applied and made these changes; whether the digest said that nothing differs.
    Done {
        changes: Vec<Change>,
        summary: Summary,
        fast: bool,
    },
    Replay,
    OtherHost,
    Superseded,
}

fn new_host(name: &str) -> NewHost {
    NewHost {
        name: name.into(),
        address: "192.0.2.7".into(),
        port: 22,
        username: Some("scan".into()),
        sudo: SudoMode::Sudo,
        credential: None,
        jump: None,
        labels: BTreeMap::from([("env".into(), "prod".into())]),
    }
}

impl Rig {
    async fn new() -> Self {
        let database = Database::new().await;
        let api = database.store(Role::Api).await;
        let scheduler = database.store(Role::Scheduler).await;
        let writer = database.store(Role::Writer).await;
        Self { database, api, scheduler, writer }
    }

    async fn host(&self, name: &str) -> HostId {
        let mut tx = self.api.begin().await.unwrap();
        let host = host::add(&mut tx, &new_host(name), "tester").await.unwrap();
        tx.commit().await.unwrap();
        host
    }

    /// Asks for a scan and issues its job.
    async fn queued(&self, host: HostId, selection: Selection) -> ScanId {
        let scan = ScanId(Uuid::new_v4());
        let mut tx = self.api.begin().await.unwrap();
        let new = NewScan {
            scan,
            host,
            selection,
            actor: "tester",
            policy_version: Some("1.0.0"),
            correlation: None,
        };
        let queued = scan::queue(&mut tx, &new).await.unwrap();
        assert!(matches!(queued, Queued::New { .. }), "{queued:?}");
        tx.commit().await.unwrap();
        let mut tx = self.scheduler.begin().await.unwrap();
        let job = Issued {
            scan,
            attempt: 1,
            tag: [7; 32],
            key_id: "k1".into(),
            timeout_sec: 600,
            policy_version: "1.0.0".into(),
            corpus: "c0".into(),
        };
        assert_eq!(scan::issue(&mut tx, &[job]).await.unwrap(), [scan]);
        tx.commit().await.unwrap();
        scan
    }

    /// Asks for a full scan and applies its outcomes.
    async fn scanned(&self, host: HostId, outcomes: &[Outcome]) -> (ScanId, Applied) {
        let scan = self.queued(host, Selection::full()).await;
        (scan, self.apply(scan, host, outcomes).await.unwrap())
    }

    /// What the writer does with a result.
    async fn apply(&self, scan: ScanId, host: HostId, outcomes: &[Outcome]) -> Result<Applied, StoreError> {
        apply_result(&self.writer, scan, host, outcomes).await
    }

    /// What the writer does when a worker has begun: whether the scan runs since then.
    async fn run(&self, scan: ScanId, host: HostId, attempt: u32) -> bool {
        let Some((moment, _)) = scan::queued(&self.writer, scan, host, attempt).await.unwrap() else {
            return false;
        };
        scan::mark_running(&self.writer, moment, scan, attempt, "w", &nothing()).await.unwrap()
    }

    /// Does the work while somebody else moves something and commits only when the work's statement waits for it.
    async fn meanwhile<T>(&self, moved: &'static str, work: impl Future<Output = T>) -> T {
        let mut other = self.look().await;
        sqlx::raw_sql("begin").execute(&mut other).await.unwrap();
        sqlx::raw_sql(moved).execute(&mut other).await.unwrap();
        let commit = async {
            eventually("the statement waits", || async {
                let waits = "select count(*) from pg_stat_activity where datname = current_database()
                             and wait_event_type = 'Lock' and query like 'with done as%'";
                (self.number(waits).await > 0).then_some(())
            })
            .await;
            sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
        };
        tokio::join!(work, commit).0
    }

    async fn look(&self) -> PgConnection {
        self.database.connect().await
    }

    async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.look().await).await.unwrap()
    }
}

/// Outcomes as a message brings them: their evidence is text.
fn as_sent(outcomes: &[Outcome]) -> Vec<RawOutcome> {
    serde_json::from_str(&serde_json::to_string(outcomes).unwrap()).unwrap()
}

/// The writer's work, as the pipeline does it.
async fn apply_result(
    writer: &Store,
    scan: ScanId,
    host: HostId,
    outcomes: &[Outcome],
) -> Result<Applied, StoreError> {
    let said = as_sent(outcomes);
    let findings = finding::prepare(said).unwrap();
    let text = serde_json::to_vec(outcomes).unwrap();
    let digest = finding::digest(&Sha256::digest(text).into(), "c0", "e1");
    let found = Found::of(&findings);
    let after = Score::of(found.counts);
    let (platform, capabilities) = (Platform::default(), BTreeMap::new());
    let quiet = summarise(after, &[], 0, false);
    let done = |open: &OpenScan, summary| Completion {
        source: Source { attempt: open.attempt, worker: Some("w1".into()), engine: Some("e1".into()) },
        found,
        digest,
        summary,
        state: Bands::default().classify(after, found.critical_failing > 0, open.host_state),
        platform: &platform,
        capabilities: &capabilities,
        timings: &[],
    };
    if let Some((moment, Ending::Open(open))) = end::glance(writer, scan, host).await?
        && open.found_before(&digest)
        && !open.is_superseded()
    {
        // What the host has on record is what this scan found.
        assert_eq!(open.found, found);
        // When somebody was faster, it is asked again under locks, as the writer does.
        if apply::unchanged(writer, &moment, &open, &done(&open, &quiet), &nothing()).await? {
            return Ok(Applied::Done { changes: Vec::new(), summary: quiet, fast: true });
        }
    }
    let mut tx = writer.begin().await?;
    let open = match end::open(&mut tx, scan, Some(host)).await? {
        Ending::Open(open) => open,
        Ending::Ended => return Ok(Applied::Replay),
        Ending::OtherHost(_) => return Ok(Applied::OtherHost),
        Ending::Unknown => panic!("no such scan"),
    };
    if open.is_superseded() {
        let source = Source { attempt: open.attempt, worker: Some("w1".into()), engine: Some("e1".into()) };
        end::supersede(&mut tx, &open, &source, found.counts).await?;
        tx.commit().await?;
        return Ok(Applied::Superseded);
    }
    let comparison =
        apply::compare(&apply::known(&mut tx, &open).await?, open.selection.is_full(), &findings);
    let changes = changes(&comparison, &findings);
    let removed = u32::try_from(comparison.dropped.len()).unwrap();
    let summary = summarise(after, &changes, removed, false);
    apply::write(&mut tx, &open, &done(&open, &summary), &findings, &comparison, &changes).await?;
    tx.commit().await?;
    Ok(Applied::Done { changes, summary, fast: false })
}

/// Told of a scan of which these tests look at other things.
fn nothing() -> Told<'static> {
    Told { sender: "writer", log: Columns::default(), messages: Vec::new() }
}

fn changes(comparison: &apply::Comparison, findings: &[Finding]) -> Vec<Change> {
    let differing = comparison.differences.iter();
    differing.filter_map(|d| change(findings[d.index].rule(), d.prior, findings[d.index].state())).collect()
}

fn outcome(rule: &str, status: Status) -> Outcome {
    with_output(rule, status, "out")
}

fn with_output(rule: &str, status: Status, stdout: &str) -> Outcome {
    let check = CheckEvidence {
        method: "command".into(),
        command: format!("probe {rule}"),
        exit_code: Some(0),
        stdout: stdout.into(),
        ..CheckEvidence::default()
    };
    Outcome {
        rule: rule.into(),
        status,
        severity: Some(Severity::Medium),
        detail: "seen".into(),
        skip_reason: (status == Status::Skipped).then(|| "not here".into()),
        framework_refs: BTreeMap::from([("cis".into(), vec!["1.1".into(), "1.2".into()])]),
        evidence: Evidence { checks: vec![check] },
    }
}

/// `rule-0000` and so on, all passing.
fn passing(rules: usize) -> Vec<Outcome> {
    (0..rules).map(|n| outcome(&format!("rule-{n:04}"), Status::Pass)).collect()
}
