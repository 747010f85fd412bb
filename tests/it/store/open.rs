//! What is under way: in a table of its own, which says what the scans say.

use openwatch_model::scan::{FailureReason, ScanState, Selection};
use openwatch_model::{HostId, ScanId};
use openwatch_store::end::{self, Ending};
use openwatch_store::read::{self, ScanFilter};
use openwatch_store::scan::{self, Issued, JobOrder, NewScan, Queued};
use openwatch_store::{Page, Role, rescue};
use openwatch_tests::eventually;
use uuid::Uuid;

use super::ends::fail;
use super::{Applied, Rig, passing};

/// Scans that the two tables tell differently.
const FAULTS: &str = "
  select count(*) from open_scan o
  full join (select * from scan where state in ('queued', 'running')) s on s.id = o.scan_id and s.host_id = o.host_id
  where o.scan_id is null or s.id is null or o.unissued <> (s.tag is null)";

async fn ask(rig: &Rig, host: HostId) -> (ScanId, Queued) {
    let mut tx = rig.api.begin().await.unwrap();
    let new = NewScan {
        scan: ScanId(Uuid::new_v4()),
        host,
        selection: Selection::full(),
        actor: "tester",
        policy_version: None,
        correlation: None,
    };
    let queued = scan::queue(&mut tx, &new).await.unwrap();
    tx.commit().await.unwrap();
    (new.scan, queued)
}

fn job(order: &JobOrder) -> Issued {
    Issued {
        scan: order.scan,
        attempt: order.attempt,
        tag: [3; 32],
        key_id: "k".into(),
        timeout_sec: 600,
        policy_version: "1.0.0".into(),
        corpus: "c0".into(),
    }
}

/// What waits for a job, which each then gets.
async fn issue(rig: &Rig) -> Vec<(ScanId, u32)> {
    let mut tx = rig.scheduler.begin().await.unwrap();
    let orders = scan::unissued(&mut tx, 10).await.unwrap();
    let jobs: Vec<_> = orders.iter().map(job).collect();
    assert_eq!(scan::issue(&mut tx, &jobs).await.unwrap().len(), jobs.len());
    tx.commit().await.unwrap();
    orders.iter().map(|order| (order.scan, order.attempt)).collect()
}

async fn listed(rig: &Rig, state: ScanState) -> Vec<ScanId> {
    let mut tx = rig.api.begin_read().await.unwrap();
    let filter = ScanFilter { state: Some(state), ..ScanFilter::default() };
    let rows = read::scans(&mut tx, &filter, &Page::first(10)).await.unwrap().rows;
    rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_scan_is_among_those_under_way_until_it_ends_whatever_comes_between() {
    let rig = Rig::new().await;
    let caretaker = rig.database.store(Role::Caretaker).await;
    let (host, ended) = (rig.host("web-1").await, rig.host("web-2").await);
    rig.scanned(ended, &passing(1)).await;
    let (scan, _) = ask(&rig, host).await;
    let sound = async |step: &str| assert_eq!(rig.number(FAULTS).await, 0, "{step}");
    sound("asked for").await;
    assert_eq!(listed(&rig, ScanState::Queued).await, [scan]);
    assert_eq!(issue(&rig).await, [(scan, 1)]);
    assert_eq!(issue(&rig).await, [], "once");
    sound("issued").await;
    sqlx::query("update scan set lane = 'scheduled' where state = 'queued'")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    let mut tx = rig.api.begin().await.unwrap();
    assert!(scan::promote(&mut tx, scan).await.unwrap());
    tx.commit().await.unwrap();
    sound("promoted").await;
    assert_eq!(issue(&rig).await, [(scan, 2)]);
    assert!(rig.run(scan, host, 2).await);
    sound("begun").await;
    assert_eq!(listed(&rig, ScanState::Running).await, [scan]);
    assert_eq!(listed(&rig, ScanState::Queued).await, []);
    let mut tx = caretaker.begin().await.unwrap();
    let Ending::Open(open) = end::open(&mut tx, scan, None).await.unwrap() else { panic!("it is open") };
    assert_eq!(rescue::retry(&mut tx, &open).await.unwrap(), 3);
    tx.commit().await.unwrap();
    sound("given up").await;
    assert_eq!(issue(&rig).await, [(scan, 3)]);
    assert!(matches!(ask(&rig, host).await.1, Queued::AlreadyOpen { scan: open, .. } if open == scan));
    assert!(matches!(rig.apply(scan, host, &passing(1)).await.unwrap(), Applied::Done { .. }));
    sound("applied").await;
    assert_eq!(rig.number("select count(*) from open_scan").await, 0);
    assert_eq!(listed(&rig, ScanState::Running).await, []);
    assert!(matches!(ask(&rig, host).await.1, Queued::New { .. }));
    sound("asked for again").await;
}

#[tokio::test]
async fn a_scan_that_is_promoted_while_its_job_is_given_out_waits_for_the_next_one() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let (scan, _) = ask(&rig, host).await;
    let mut look = rig.look().await;
    sqlx::query("update scan set lane = 'scheduled'").execute(&mut look).await.unwrap();
    let mut giving = rig.scheduler.begin().await.unwrap();
    let order = scan::unissued(&mut giving, 1).await.unwrap().remove(0);
    assert_eq!(scan::issue(&mut giving, &[job(&order)]).await.unwrap(), [scan]);
    let promote = async {
        let mut tx = rig.api.begin().await.unwrap();
        assert!(scan::promote(&mut tx, scan).await.unwrap());
        tx.commit().await.unwrap();
    };
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let give = async {
        eventually("a promotion that waits", || async { (rig.number(waits).await > 0).then_some(()) }).await;
        giving.commit().await.unwrap();
    };
    tokio::join!(promote, give);
    assert_eq!(rig.number(FAULTS).await, 0);
    assert_eq!(issue(&rig).await, [(scan, 2)]);
}

#[tokio::test]
async fn a_silent_result_a_rescue_and_the_next_wish_at_once_make_one_end_and_no_knot() {
    let rig = Rig::new().await;
    let caretaker = rig.database.store(Role::Caretaker).await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &passing(3)).await;
    let (mut silent, mut lost) = (0, 0);
    for round in 0..40 {
        let (scan, queued) = ask(&rig, host).await;
        assert!(matches!(queued, Queued::New { .. }), "{round}: {queued:?}");
        assert_eq!(issue(&rig).await, [(scan, 1)]);
        sqlx::query("update scan set lane = 'scheduled' where state = 'queued'")
            .execute(&mut rig.look().await)
            .await
            .unwrap();
        let promote = async {
            let mut tx = rig.api.begin().await.unwrap();
            scan::promote(&mut tx, scan).await.unwrap();
            tx.commit().await.unwrap();
        };
        let (applied, again, failed, ()) = tokio::join!(
            quietly(&rig, scan, host),
            quietly(&rig, scan, host),
            fail(&caretaker, scan, FailureReason::Lost),
            promote
        );
        assert_eq!([applied, again, failed].into_iter().filter(|it| *it).count(), 1, "{round}");
        silent += i32::from(applied || again);
        lost += i32::from(failed);
        assert_eq!(rig.number(FAULTS).await, 0, "{round}");
    }
    assert_eq!(rig.number("select count(*) from scan_ledger").await, 41);
    assert!(silent > 0 && lost > 0, "they never met: {silent} silent, {lost} lost");
}

/// Whether this result ended the scan.
async fn quietly(rig: &Rig, scan: ScanId, host: HostId) -> bool {
    matches!(rig.apply(scan, host, &passing(3)).await.unwrap(), Applied::Done { .. })
}
