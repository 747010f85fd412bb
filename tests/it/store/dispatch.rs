//! Hosts fall due and become jobs: once each, whoever looks.

use std::collections::BTreeSet;
use std::time::Duration;

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::policy::Maintenance;
use openwatch_model::scan::{Lane, ScanState, Selection};
use openwatch_model::schedule::DueReason;
use openwatch_model::score::Score;
use openwatch_model::{HostId, ScanId};
use openwatch_store::scan::{self, Issued, NewScan, Queued};
use openwatch_store::schedule::{self, Dispatch, Part, Reschedule};
use openwatch_store::{Store, Tx};
use uuid::Uuid;

use super::{Rig, nothing, outcome};

fn nobody() -> Maintenance {
    Maintenance::default()
}

async fn dispatch_all(tx: &mut Tx<'_>, maintenance: &Maintenance, limit: u32) -> Vec<(HostId, ScanId)> {
    let due = schedule::claim_due(tx, maintenance, limit, &[], Part::ALL).await.unwrap();
    let next_at = tx.now() + Duration::from_secs(3600);
    let hosts: Vec<_> = due.iter().map(|d| d.host).collect();
    let numbered = scan::number(tx, &hosts).await.unwrap();
    assert_eq!(numbered.iter().map(|n| n.number).collect::<Vec<_>>(), vec![1; hosts.len()]);
    let wanted: Vec<_> = due
        .into_iter()
        .map(|due| Dispatch {
            due,
            scan: ScanId(Uuid::new_v4()),
            number: 1,
            job: None,
            next_at,
            interval_minutes: 60,
        })
        .collect();
    let done = schedule::dispatch(tx, wanted, "1.0.0").await.unwrap();
    done.iter().for_each(|d| {
        assert_eq!((d.prior.current_interval_minutes, d.new.current_interval_minutes), (1440, 60));
        assert!(d.new.next_scheduled_scan > d.prior.next_scheduled_scan);
    });
    done.into_iter().map(|d| (d.host, d.scan)).collect()
}

async fn pass(store: &Store, maintenance: &Maintenance, limit: u32) -> Vec<HostId> {
    let mut tx = store.begin().await.unwrap();
    let done = dispatch_all(&mut tx, maintenance, limit).await;
    tx.commit().await.unwrap();
    done.into_iter().map(|(host, _)| host).collect()
}

#[tokio::test]
async fn each_due_host_is_in_one_of_two_halves() {
    let rig = Rig::new().await;
    for n in 0..12 {
        rig.host(&format!("web-{n}")).await;
    }
    let mut tx = rig.scheduler.begin().await.unwrap();
    let mut hosts = Vec::new();
    for part in [Part::EVEN, Part::ODD, Part::ALL] {
        let due = schedule::claim_due(&mut tx, &nobody(), 100, &[], part).await.unwrap();
        hosts.push(due.into_iter().map(|due| due.host).collect::<BTreeSet<_>>());
    }
    assert!(hosts[0].is_disjoint(&hosts[1]));
    assert_eq!(&hosts[0] | &hosts[1], hosts[2]);
    assert_eq!(hosts[2].len(), 12);
}

#[tokio::test]
async fn two_schedulers_share_twelve_due_hosts() {
    let rig = Rig::new().await;
    let mut hosts = BTreeSet::new();
    for n in 0..12 {
        hosts.insert(rig.host(&format!("web-{n}")).await);
    }
    let mut one = rig.scheduler.begin().await.unwrap();
    let mut two = rig.scheduler.begin().await.unwrap();
    let first = dispatch_all(&mut one, &nobody(), 7).await;
    // The first has not committed: the second must take others, without waiting.
    let second = dispatch_all(&mut two, &nobody(), 100).await;
    one.commit().await.unwrap();
    two.commit().await.unwrap();
    assert_eq!((first.len(), second.len()), (7, 5));
    let all: BTreeSet<_> = first.into_iter().chain(second).map(|(host, _)| host).collect();
    assert_eq!(all, hosts);
    assert!(pass(&rig.scheduler, &nobody(), 100).await.is_empty(), "nothing is due at once again");
}

#[tokio::test]
async fn maintenance_backoff_open_scans_and_removed_hosts_are_left_alone() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    let names = ["own-flag", "by-policy", "backoff", "open-scan", "removed", "free"];
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(rig.host(name).await);
    }
    sqlx::query(
        "update host_compliance_schedule set maintenance_mode = true, maintenance_until = now() + interval '1 minute'
         where host_id = $1",
    )
    .bind(hosts[0].0)
    .execute(&mut look)
    .await
    .unwrap();
    sqlx::query("insert into host_backoff_state (host_id, consecutive_failures, suppress_until) values ($1, 3, now() + interval '1 hour')")
        .bind(hosts[2].0)
        .execute(&mut look)
        .await
        .unwrap();
    rig.queued(hosts[3], Selection::full()).await;
    let mut tx = rig.api.begin().await.unwrap();
    openwatch_store::host::remove(&mut tx, hosts[4]).await.unwrap();
    tx.commit().await.unwrap();

    let maintenance = Maintenance { all: false, hosts: vec!["by-policy".into()] };
    let mut tx = rig.scheduler.begin().await.unwrap();
    schedule::sweep(&mut tx).await.unwrap();
    let counts = schedule::counts(&mut tx, &maintenance).await.unwrap();
    assert_eq!((counts.due, counts.maintenance, counts.backoff), (5, 2, 1));
    tx.commit().await.unwrap();
    assert_eq!(pass(&rig.scheduler, &maintenance, 100).await, [hosts[5]]);
    assert!(pass(&rig.scheduler, &Maintenance { all: true, hosts: vec![] }, 100).await.is_empty());

    // Maintenance whose time is up ends with the next sweep, and the host is due.
    sqlx::query("update host_compliance_schedule set maintenance_until = now() where maintenance_mode")
        .execute(&mut look)
        .await
        .unwrap();
    let mut tx = rig.scheduler.begin().await.unwrap();
    let cleared = schedule::sweep(&mut tx).await.unwrap();
    assert_eq!(cleared.iter().map(|(host, ..)| *host).collect::<Vec<_>>(), [hosts[0]]);
    tx.commit().await.unwrap();
    assert_eq!(pass(&rig.scheduler, &maintenance, 100).await, [hosts[0]]);
}

#[tokio::test]
async fn a_critical_host_goes_before_a_new_fleet() {
    let rig = Rig::new().await;
    for n in 0..20 {
        rig.host(&format!("new-{n}")).await;
    }
    let old = rig.host("old").await;
    let (moment, seen, prior) = schedule::look(&rig.scheduler, old, 1).await.unwrap().unwrap();
    assert_eq!((prior.compliance_score, prior.compliance_state.as_str()), (None, "unknown"));
    let new = ScheduleFacts {
        compliance_state: "critical".to_owned(),
        compliance_score: Score { pass: 1, fail: 2 }.percent(),
        has_critical_findings: true,
        current_interval_minutes: 60,
        next_scheduled_scan: moment.now(),
        next_reason: DueReason::Interval.as_str().to_owned(),
        policy_version_at_last_scan: Some("1.0.0".to_owned()),
        ..prior
    };
    let change = Reschedule { host: old, number: 1, seen, new, completed_at: Some(moment.now()) };
    let moved = async |change: &Reschedule| {
        schedule::update_after_scan(&rig.scheduler, moment, change, &nothing()).await.unwrap()
    };
    // Somebody changed the row since, or does while the statement waits: what was decided from it moves nothing.
    let on = "update host_compliance_schedule set maintenance_mode = true";
    assert!(!rig.meanwhile(on, moved(&change)).await);
    assert!(!moved(&change).await);
    let off = "update host_compliance_schedule set maintenance_mode = false";
    sqlx::query(off).execute(&mut rig.look().await).await.unwrap();
    assert!(!moved(&change).await, "it is what it was, and not the same");
    let (_, seen, _) = schedule::look(&rig.scheduler, old, 1).await.unwrap().unwrap();
    let change = Reschedule { seen, ..change };
    assert!(moved(&change).await);
    // The same message again, and an older one, move nothing.
    assert!(!moved(&change).await);
    assert!(schedule::look(&rig.scheduler, old, 1).await.unwrap().is_none());
    let (_, _, now) = schedule::look(&rig.scheduler, old, 2).await.unwrap().unwrap();
    assert_eq!(now, change.new, "what is told is what is stored");
    let mut tx = rig.scheduler.begin().await.unwrap();
    assert_eq!(schedule::claim_due(&mut tx, &nobody(), 1, &[], Part::ALL).await.unwrap()[0].host, old);
}

#[tokio::test]
async fn of_two_who_ask_at_once_one_gets_the_others_scan() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let ask = || async {
        let scan = ScanId(Uuid::new_v4());
        let mut tx = rig.api.begin().await.unwrap();
        let new = NewScan {
            scan,
            host,
            selection: Selection::full(),
            actor: "tester",
            policy_version: None,
            correlation: None,
        };
        let queued = scan::queue(&mut tx, &new).await.unwrap();
        tx.commit().await.unwrap();
        (scan, queued)
    };
    let (a, b) = tokio::join!(ask(), ask());
    let (new, open) = if matches!(a.1, Queued::New { .. }) { (a, b) } else { (b, a) };
    assert!(matches!(new.1, Queued::New { .. }), "{new:?}");
    assert!(
        matches!(open.1, Queued::AlreadyOpen { scan, state: ScanState::Queued, lane: Lane::Manual, .. } if scan == new.0),
        "{open:?}"
    );
    // The schedule does not know of it: a scan by hand touches no schedule row, and a due host with one open waits.
    assert!(pass(&rig.scheduler, &nobody(), 10).await.is_empty());
    assert_eq!(
        rig.number("select count(*) from host_compliance_schedule where updated_at = created_at").await,
        1
    );
}

#[tokio::test]
async fn a_job_order_says_all_that_a_job_needs_and_promotion_makes_the_old_job_stale() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let mut tx = rig.api.begin().await.unwrap();
    let key = openwatch_model::host::KnownKey { algorithm: "ssh-ed25519".into(), key: "AAAA".into() };
    openwatch_store::known_key::accept(&mut tx, "192.0.2.7", 22, &key, "SHA256:x", "tester").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = rig.scheduler.begin().await.unwrap();
    let scan = dispatch_all(&mut tx, &nobody(), 10).await[0].1;
    let orders = scan::unissued(&mut tx, 10).await.unwrap();
    assert_eq!(orders.len(), 1);
    let order = &orders[0];
    assert_eq!((order.scan, order.attempt, order.lane, order.host_number), (scan, 1, Lane::Scheduled, 1));
    let target = &order.target;
    assert_eq!((target.name.as_str(), target.user.as_deref(), target.port), ("web-1", Some("scan"), 22));
    assert_eq!((target.labels["env"].as_str(), target.known_keys.as_slice()), ("prod", &[key][..]));
    let job = |attempt| Issued {
        scan,
        attempt,
        tag: [1; 32],
        key_id: "k".into(),
        timeout_sec: 600,
        policy_version: "1.0.0".into(),
        corpus: "c0".into(),
    };
    assert_eq!(scan::issue(&mut tx, &[job(1)]).await.unwrap(), [scan]);
    assert!(scan::issue(&mut tx, &[job(1)]).await.unwrap().is_empty(), "once per attempt");
    tx.commit().await.unwrap();

    let mut tx = rig.api.begin().await.unwrap();
    assert!(scan::promote(&mut tx, scan).await.unwrap());
    assert!(!scan::promote(&mut tx, scan).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = rig.scheduler.begin().await.unwrap();
    let orders = scan::unissued(&mut tx, 10).await.unwrap();
    assert_eq!((orders[0].lane, orders[0].attempt), (Lane::Manual, 2));
    scan::issue(&mut tx, &[job(2)]).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!rig.run(scan, host, 1).await, "the first job is stale");
    let (moment, _) = scan::queued(&rig.writer, scan, host, 2).await.unwrap().unwrap();
    let running = async || scan::mark_running(&rig.writer, moment, scan, 2, "w", &nothing()).await.unwrap();
    let both = tokio::join!(running(), running());
    assert!(both.0 != both.1, "of two who have seen it queued, one begins it");
    assert!(!rig.run(scan, host, 2).await);
    rig.apply(scan, host, &[outcome("r", openwatch_model::Status::Pass)]).await.unwrap();
}

#[tokio::test]
async fn a_failing_part_is_undone_alone() {
    let rig = Rig::new().await;
    rig.host("web-1").await;
    let mut tx = rig.scheduler.begin().await.unwrap();
    {
        let mut part = tx.savepoint().await.unwrap();
        assert_eq!(dispatch_all(&mut part, &nobody(), 10).await.len(), 1);
    }
    assert_eq!(dispatch_all(&mut tx, &nobody(), 10).await.len(), 1);
    tx.commit().await.unwrap();
}
