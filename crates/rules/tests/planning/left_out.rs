//! Rules that are not measured: each still has an outcome that says why.

use openwatch_model::outcome::{Severity, Status};
use openwatch_model::scan::Selection;
use openwatch_rules::CorpusFile;

use super::{done, load, outcomes, rhel, rule};

#[test]
fn nothing_is_dropped_without_an_outcome() {
    let check = "method: command, cmd: x";
    let files = [
        rule("a-claims", "supersedes: [b-old]", check),
        rule("b-old", "", check),
        rule("c-loop", "depends_on: [d-loop]", check),
        rule("d-loop", "depends_on: [c-loop]", check),
        rule("e-hangs-on", "depends_on: [c-loop]", check),
        rule("f-twice", "depends_on: [a-claims, a-claims]", check),
        rule("g-undefined", "", "method: command, cmd: '{{ nobody }} {{ another }}'"),
        CorpusFile {
            path: "demo/h-broken.yml".into(),
            text: "id: h-broken\nseverity: low\ntags: [\n".into(),
        },
        CorpusFile { path: "demo/i-empty.yml".into(), text: String::new() },
        CorpusFile { path: "demo/j-bytes.yml".into(), text: "id: j-bytes\ntitle: \u{fffd}\n".into() },
    ];
    let corpus = load(&files);
    let all = outcomes(&files, &[("x", done(0, ""))]);
    let status = |id: &str| all[id].status.as_str();
    let statuses: Vec<_> = all.keys().map(|id| (id.as_str(), status(id))).collect();
    assert_eq!(
        statuses,
        [
            ("a-claims", "pass"),
            ("b-old", "skipped"),
            ("c-loop", "skipped"),
            ("d-loop", "skipped"),
            ("e-hangs-on", "skipped"),
            ("f-twice", "pass"),
            ("g-undefined", "skipped"),
            ("h-broken", "skipped"),
            ("i-empty", "skipped"),
            ("j-bytes", "skipped"),
        ]
    );
    assert_eq!(all["b-old"].detail, "superseded by a-claims");
    assert_eq!(all["g-undefined"].detail, "no value for the variables another, nobody");
    assert_eq!(all["g-undefined"].framework_refs.len(), 1);
    assert_eq!(all["h-broken"].severity, Some(Severity::Low));
    assert!(all.values().all(|o| (o.status == Status::Skipped) == o.skip_reason.is_some()));
    let problems: Vec<_> = corpus.problems().iter().map(|p| (p.path.as_str(), p.line)).collect();
    assert_eq!(
        problems,
        [
            ("demo/g-undefined.yml", 8),
            ("demo/h-broken.yml", 3),
            ("demo/i-empty.yml", 1),
            ("demo/j-bytes.yml", 2)
        ]
    );
}

#[test]
fn of_two_rules_with_one_id_the_last_file_counts_and_the_other_is_told() {
    let mut other = rule("r", "", "method: command, cmd: second");
    other.path = "z/r.yml".into();
    let corpus = load(&[other, rule("r", "", "method: command, cmd: first")]);
    assert_eq!(corpus.rule("r").unwrap().path, "z/r.yml");
    assert_eq!(corpus.problems()[0].path, "demo/r.yml");
    assert_eq!(corpus.plan(&rhel(), &Selection::full()).rules().len(), 1);
}
