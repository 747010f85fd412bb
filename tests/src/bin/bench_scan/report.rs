//! Numbers for people.

use std::io::Write as _;
use std::time::Duration;

use crate::floor::{LEAST_TRIPS, TODAYS_TRIPS};
use crate::{Size, gauge};

/// One distance.
pub(crate) struct Row {
    pub(crate) round_trip: Duration,
    /// Median time of a bare TCP connect: the round trip there really was.
    pub(crate) connect: Duration,
    pub(crate) baseline: Duration,
    pub(crate) baseline_runs: usize,
    pub(crate) baseline_cpu: Option<Duration>,
    pub(crate) ways: Vec<Way>,
    pub(crate) same_answers: usize,
    pub(crate) slowest: Vec<(Duration, String)>,
}

/// One number of lanes.
pub(crate) struct Way {
    pub(crate) lanes: u8,
    /// The checks alone, in as many local shells.
    pub(crate) checks: Duration,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Row {
    /// What the executor does.
    fn usual(&self) -> &Way {
        self.ways.iter().find(|way| way.lanes == USUAL).unwrap_or(&self.ways[0])
    }

    fn ratio(&self, way: &Way) -> f64 {
        self.baseline.as_secs_f64() / way.wall.as_secs_f64()
    }

    /// How near a way is to the floor of that many round trips, in percent.
    fn reach(&self, way: &Way, trips: u32) -> f64 {
        100.0 * (way.checks + self.round_trip * trips).as_secs_f64() / way.wall.as_secs_f64()
    }
}

/// Lanes of the executor.
const USUAL: u8 = 2;
/// What is to be reached: at this round trip in ms, this many times as fast.
const RATIOS: [(u64, f64); 3] = [(0, 4.0), (20, 35.0), (100, 60.0)];
const REACH: f64 = 85.0;
const CPU: Duration = Duration::from_millis(25);
const HELD: u64 = 64 << 10;

pub(crate) fn line(text: &str) {
    // Nobody left to read it is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(crate) fn head(size: &Size, plain_shell: bool) {
    let (cores, load) = (gauge::cores(), gauge::load());
    line(&format!(
        "{} checks on one host, a real sshd on this machine; {cores} cores shared by both ends, load {load:.1}; \
         medians of {}",
        size.checks, size.runs
    ));
    if load > 1.0 {
        line("the machine is busy with something else: repeat when it is not");
    }
    if !plain_shell {
        line("as the current user: what its shell reads at its start counts for every execution");
    }
    line("");
}

pub(crate) fn row(row: &Row) {
    line(&format!(
        "{} ms round trip (a TCP connect takes {:.1} ms)",
        row.round_trip.as_millis(),
        row.connect.as_secs_f64() * 1000.0
    ));
    let once = if row.baseline_runs == 1 { "  measured once" } else { "" };
    let cpu = row.baseline_cpu.map_or("-".to_owned(), |cpu| format!("{:.0} ms", cpu.as_secs_f64() * 1000.0));
    line(
        "                            seconds   times as fast   client CPU   checks alone   of the floor   of 6 trips",
    );
    line(&format!(
        "  one execution per check  {:8.2}               1   {cpu:>10}{once}",
        seconds(row.baseline)
    ));
    for way in &row.ways {
        line(&format!(
            "  ours, {} {:<14} {:8.2}   {:13.1}   {:>7.0} ms   {:10.2} s   {:10.0} %   {:8.0} %",
            way.lanes,
            if way.lanes == 1 { "lane" } else { "lanes" },
            seconds(way.wall),
            row.ratio(way),
            way.cpu.as_secs_f64() * 1000.0,
            seconds(way.checks),
            row.reach(way, TODAYS_TRIPS),
            row.reach(way, LEAST_TRIPS)
        ));
    }
    line(&format!("  {} answers were the same both ways\n", row.same_answers));
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

pub(crate) fn verdict(rows: &[Row], held: u64, size: &Size, took: Duration) {
    line("slowest checks of the last scan, as recorded with each answer:");
    for (time, script) in rows.iter().flat_map(|row| &row.slowest) {
        line(&format!("  {:4} ms  {script}", time.as_millis()));
    }
    line(&format!("\ntargets, with {USUAL} lanes:"));
    for (ms, wanted) in RATIOS {
        let Some(row) = rows.iter().find(|row| row.round_trip == Duration::from_millis(ms)) else {
            line(&format!("  not measured  at least {wanted} times as fast at {ms} ms"));
            continue;
        };
        let way = row.usual();
        let (ratio, reach) = (row.ratio(way), row.reach(way, TODAYS_TRIPS));
        judge(ratio >= wanted, &format!("at least {wanted} times as fast at {ms} ms: {ratio:.1}"));
        judge(reach >= REACH, &format!("at least {REACH} % of the practical floor at {ms} ms: {reach:.0} %"));
    }
    if let Some(cpu) = rows.iter().map(|row| row.usual().cpu).max() {
        let ms = cpu.as_secs_f64() * 1000.0;
        judge(cpu <= CPU, &format!("at most {} ms CPU here per host: {ms:.0} ms", CPU.as_millis()));
    }
    let text = format!("at most {} KiB per idle connection: {} KiB", HELD >> 10, held >> 10);
    judge(held <= HELD, &text);
    line(&format!(
        "\nfloor: {TODAYS_TRIPS} round trips, which is what today's SSH library and server need ({LEAST_TRIPS} is the least the protocol allows), plus\n\
         the checks alone in as many local shells, at most one per core. Took {:.0} s; load is now {:.1}.\n\
         again: scripts/bench bench_scan --checks {} --runs {} --round-trips {}",
        seconds(took),
        gauge::load(),
        size.checks,
        size.runs,
        size.round_trips.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
    ));
}

fn judge(reached: bool, text: &str) {
    line(&format!("  {}  {text}", if reached { "reached" } else { "MISSED " }));
}
