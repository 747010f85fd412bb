//! What each fuzz target does with its input, and what must hold for any input. `tests/it/fuzz.rs` replays the seeds
//! through the same functions, so nothing here may need the fuzzer.

use std::collections::BTreeMap;

use openwatch_model::outcome::Status;
use openwatch_model::plan::{Done, Observation};
use openwatch_model::scan::Selection;
use openwatch_remote::known_hosts::{KnownHosts, render};
use openwatch_rules::{Corpus, CorpusFile, Facts, Variables, lint, site_values};

/// The frames of a lane: two bytes say how the stream is cut up, the rest is the stream.
pub fn frames(data: &[u8]) {
    let [piece, commands, stream @ ..] = data else { return };
    for out in [true, false] {
        let read = |piece: usize| openwatch_remote::read_frames(out, usize::from(*commands), piece, stream);
        let whole = read(stream.len().max(1));
        assert_eq!(whole, read(usize::from(*piece).max(1)), "the pieces make a difference");
    }
}

/// A rule file: it is one rule or one problem, and planning and judging it never fails. As a file of a site's values it has
/// them all, or says what is wrong with some.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let files = [CorpusFile { path: "any/any.yml".into(), text }];
    match site_values(&files[0]) {
        Ok(values) => assert!(Variables::builtin().with(&values).is_ok(), "{values:?}"),
        Err(problems) => assert!(problems.iter().all(|p| p.line >= 1 && p.column >= 1)),
    }
    let corpus = Corpus::load(&files, &Variables::builtin());
    assert_eq!(corpus.rules().count() + corpus.unusable().count(), 1);
    assert_eq!(corpus.unusable().count() == 1, !corpus.problems().is_empty());
    for finding in lint(&files) {
        assert!(finding.line >= 1 && finding.column >= 1, "{finding:?}");
    }
    let plan = corpus.plan(&Facts::default(), &Selection::full());
    let answers: Vec<_> = plan.plan.commands.iter().map(|_| done(data)).collect();
    assert_eq!(plan.judge(&answers).outcomes.len(), 1);
}

/// A wanted rule, a line of two dashes, and what `auditctl -l` says.
pub fn auditctl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (wanted, loaded) = text.split_once("\n--\n").unwrap_or((&text, ""));
    let check = serde_json::json!({ "method": "audit_rule_exists", "rule": wanted });
    let wants = wanted.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
    let Some(status) = verdict(&check, loaded.as_bytes()) else { return };
    if wants && loaded.trim().is_empty() {
        assert_ne!(status, Status::Pass, "nothing is loaded, and {wanted:?} passes");
    }
}

/// What `sshd -T` says.
pub fn sshd(data: &[u8]) {
    let check = serde_json::json!({ "method": "sshd_effective_config", "key": "Port", "expected": "22" });
    let status = verdict(&check, data);
    let says = String::from_utf8_lossy(data).to_lowercase().contains("port ");
    assert!(says || status != Some(Status::Pass), "passes without a word about the port");
}

/// The text of os-release.
pub fn os_release(data: &[u8]) {
    let corpus = Corpus::load(&[], &Variables::builtin());
    let facts = corpus.facts(&[done(data)], &BTreeMap::new());
    assert_eq!(facts.platform.family, facts.platform.family.to_lowercase());
    let file = rule(
        "platforms: [{family: debian, min_version: 12}]",
        &serde_json::json!({ "method": "file_exists", "path": "/a" }),
    );
    let plan = Corpus::load(&[file], &Variables::builtin()).plan(&facts, &Selection::full());
    assert_eq!(plan.rules().len(), 1);
}

/// A known_hosts file: what it has on record is found again when it is written anew.
pub fn known_hosts(data: &[u8]) {
    let hosts = KnownHosts::parse(&String::from_utf8_lossy(data));
    for (name, port) in [("host.example", 22), ("10.0.0.1", 2222), ("::1", 22)] {
        for key in hosts.lookup(name, port).known {
            let again = KnownHosts::parse(&render(name, port, &key)).lookup(name, port);
            assert_eq!(again.known, [key]);
        }
    }
}

fn done(stdout: &[u8]) -> Observation {
    Observation::Done(Done { stdout: stdout.to_vec(), ..Done::default() })
}

fn rule(more: &str, check: &serde_json::Value) -> CorpusFile {
    let text = format!("id: r\n{more}\nimplementations: [{{default: true, check: {check}}}]\n");
    CorpusFile { path: "r.yml".into(), text }
}

/// The verdict of one check whose only command answered this; none when the rule cannot be used.
fn verdict(check: &serde_json::Value, stdout: &[u8]) -> Option<Status> {
    let corpus = Corpus::load(&[rule("severity: low", check)], &Variables::builtin());
    corpus.rule("r")?;
    let plan = corpus.plan(&Facts::default(), &Selection::full());
    let answers: Vec<_> = plan.plan.commands.iter().map(|_| done(stdout)).collect();
    plan.judge(&answers).outcomes.first().map(|outcome| outcome.status)
}
