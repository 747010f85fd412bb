//! All measurements, in order. What is compared with each other is measured in turns, so that a busy moment of the
//! machine hits all of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use openwatch_model::plan::Plan;
use openwatch_tests::sshd::Options;

use crate::far::{Far, Server, ip};
use crate::gauge::{cores, median};
use crate::link::Link;
use crate::ours::{Answer, Run};
use crate::report::{self, Row, Way};
use crate::{Door, Size, baseline, checks, floor, memory, ours};

/// Executions at the same time that are tried. The second is what the executor does.
pub(crate) const LANES: [u8; 3] = [1, 2, 4];

pub(crate) async fn all(size: Size, no_distance: Option<String>) -> anyhow::Result<()> {
    let since = Instant::now();
    let dir = tempfile::Builder::new().prefix("ow-bench-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let plan = checks::prepare(dir.path(), size.checks)?;
    if no_distance.is_none() {
        ip(&["link", "set", "lo", "up"])?;
    }
    let near = Server::start(Options::new());
    report::head(&size, near.has_plain_shell());
    let mut rows = vec![at_hand(&near.door(), &plan, &size, dir.path()).await?];
    report::row(&rows[0]);
    match no_distance {
        Some(why) => report::line(&format!("only without delay, because {why}\n")),
        None => {
            for row in at_a_distance(&plan, &size, dir.path()).await? {
                report::row(&row);
                rows.push(row);
            }
        }
    }
    let held = memory::per_connection(&near.door())?;
    report::verdict(&rows, held, &size, since.elapsed());
    Ok(())
}

/// No delay: everything in turns, as often as asked for.
async fn at_hand(door: &Door, plan: &Plan, size: &Size, dir: &Path) -> anyhow::Result<Row> {
    let mut before = Vec::new();
    let mut series = Series::new(Duration::ZERO);
    for _ in 0..size.runs {
        before.push(baseline::scan(door, plan).await?);
        series.run(door, plan, dir).await?;
    }
    let mut row = series.row(median(before.iter().map(|run| run.wall).collect()));
    row.baseline_runs = size.runs;
    row.baseline_cpu = Some(median(before.iter().map(|run| run.cpu).collect()));
    row.same_answers = before.first().map_or(0, |run| same(&run.answers, &series.answers));
    row.slowest = series.slowest;
    Ok(row)
}

/// With delays. One execution per check takes minutes there, so it runs once, for all distances at the same time: it
/// mostly waits.
async fn at_a_distance(plan: &Plan, size: &Size, dir: &Path) -> anyhow::Result<Vec<Row>> {
    let mut far = Far::start()?;
    let mut links = Vec::new();
    let round_trips: Vec<_> = size.round_trips.iter().copied().map(Duration::from_millis).collect();
    for (number, &round_trip) in (1..).zip(&round_trips) {
        links.push(Link::new(&mut far, number, round_trip)?);
    }
    let doors: Vec<Door> =
        links.iter().map(|link| Door { address: link.address.clone(), ..far.door.clone() }).collect();
    report::line("measuring one execution per check over both links ...\n");
    let before = futures::future::try_join_all(doors.iter().map(|door| baseline::scan(door, plan))).await?;
    let mut rows = Vec::new();
    for ((door, round_trip), before) in doors.iter().zip(round_trips).zip(before) {
        let mut series = Series::new(round_trip);
        for _ in 0..size.runs {
            series.run(door, plan, dir).await?;
        }
        let mut row = series.row(before.wall);
        row.same_answers = same(&before.answers, &series.answers);
        rows.push(row);
    }
    Ok(rows)
}

fn same(before: &[Answer], ours: &[Answer]) -> usize {
    before.iter().zip(ours).filter(|(a, b)| a == b).count()
}

/// Our side of one distance.
struct Series {
    round_trip: Duration,
    connects: Vec<Duration>,
    ways: Vec<(Vec<Duration>, Vec<Duration>, Vec<Duration>)>,
    answers: Vec<Answer>,
    slowest: Vec<(Duration, String)>,
}

impl Series {
    fn new(round_trip: Duration) -> Self {
        let ways = LANES.map(|_| Default::default()).into();
        Self { round_trip, connects: Vec::new(), ways, answers: Vec::new(), slowest: Vec::new() }
    }

    async fn run(&mut self, door: &Door, plan: &Plan, dir: &Path) -> anyhow::Result<()> {
        for (lanes, way) in LANES.into_iter().zip(&mut self.ways) {
            let since = Instant::now();
            drop(tokio::net::TcpStream::connect((door.address.as_str(), door.port)).await?);
            self.connects.push(since.elapsed());
            // The server forgets that connection meanwhile.
            way.0.push(floor::local(plan, usize::from(lanes).min(cores()), dir)?);
            let Run { wall, cpu, answers, slowest } = ours::scan(door, plan, lanes).await?;
            way.1.push(wall);
            way.2.push(cpu);
            (self.answers, self.slowest) = (answers, slowest);
        }
        Ok(())
    }

    fn row(&mut self, baseline: Duration) -> Row {
        let ways =
            LANES.into_iter().zip(std::mem::take(&mut self.ways)).map(|(lanes, (checks, wall, cpu))| Way {
                lanes,
                checks: median(checks),
                wall: median(wall),
                cpu: median(cpu),
            });
        Row {
            round_trip: self.round_trip,
            connect: median(std::mem::take(&mut self.connects)),
            baseline,
            baseline_runs: 1,
            baseline_cpu: None,
            ways: ways.collect(),
            same_answers: 0,
            slowest: Vec::new(),
        }
    }
}
