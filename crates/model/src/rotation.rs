//! Rotating the data-encryption key: what comes next, and who is waited for. No key is in sight here, only ids.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Processes that must be there and hold the next key before it is switched. Workers come and go: those that are there
/// must hold it, but there may be none.
const NEEDED: [&str; 4] = ["api", "scheduler", "vault", "writer"];

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Somebody asked for it.
    Requested,
    /// The next key exists and is given to everybody.
    Issued,
    /// New things are made with the next key; the old one still verifies and decrypts.
    Switched,
    /// The old key is gone.
    Done,
}

impl Phase {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Issued => "issued",
            Self::Switched => "switched",
            Self::Done => "done",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Requested, Self::Issued, Self::Switched, Self::Done].into_iter().find(|it| it.as_str() == text)
    }
}

/// A process and the ids of the keys that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `scheduler`, `vault`, `executor`, `writer` or `api`.
    pub role: String,
    /// Which of them.
    pub process: String,
    /// The key that it makes new things with.
    pub current: String,
    /// All keys that it understands.
    pub key_ids: Vec<String>,
}

/// What is known when the next step is chosen.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// How far it is.
    pub phase: Phase,
    /// Id of the next key, once there is one.
    pub next: Option<&'a str>,
    /// Processes heard of lately.
    pub holders: &'a [Holder],
    /// Credentials that are not encrypted with the next key yet.
    pub left: u64,
    /// Since the switch.
    pub switched_for: Duration,
    /// How long the old key is kept after it.
    pub retire_after: Duration,
}

/// The next step of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the next key and give it to everybody.
    Issue,
    /// Make new things with it.
    Switch,
    /// Take the old key away.
    Retire,
    /// Nothing yet; for whom or what.
    Wait(Vec<String>),
}

/// Decides. Every step may be repeated: a crash between doing it and noting it does it once more.
pub fn next_step(known: &Known<'_>) -> Step {
    let next = known.next.unwrap_or_default();
    let all = |held: fn(&Holder, &str) -> bool, step: Step| {
        let behind = behind(known.holders, |it| held(it, next));
        if behind.is_empty() { step } else { Step::Wait(behind) }
    };
    match known.phase {
        Phase::Requested => Step::Issue,
        Phase::Issued => all(|it, next| it.key_ids.iter().any(|id| id == next), Step::Switch),
        Phase::Switched if known.left > 0 => Step::Wait(vec![format!("{} credentials", known.left)]),
        Phase::Switched if known.switched_for < known.retire_after => Step::Wait(vec!["its time".to_owned()]),
        Phase::Switched => all(|it, next| it.current == next, Step::Retire),
        Phase::Done => Step::Wait(Vec::new()),
    }
}

/// Who has not come as far: processes by role and name, and roles of which nobody was heard.
pub fn behind(holders: &[Holder], is_there: impl Fn(&Holder) -> bool) -> Vec<String> {
    let late = holders.iter().filter(|it| !is_there(it)).map(|it| format!("{} {}", it.role, it.process));
    let silent = NEEDED.iter().filter(|role| !holders.iter().any(|it| it.role == **role));
    late.chain(silent.map(|role| (*role).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(role: &str, current: &str, ids: &[&str]) -> Holder {
        Holder {
            role: role.to_owned(),
            process: "1".to_owned(),
            current: current.to_owned(),
            key_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn everybody(current: &str, ids: &[&str]) -> Vec<Holder> {
        ["api", "executor", "scheduler", "vault", "writer"].map(|role| holder(role, current, ids)).into()
    }

    fn step(phase: Phase, holders: &[Holder], left: u64, hours: u64) -> Step {
        next_step(&Known {
            phase,
            next: Some("b"),
            holders,
            left,
            switched_for: Duration::from_secs(hours * 3600),
            retire_after: Duration::from_secs(24 * 3600),
        })
    }

    #[test]
    fn a_key_is_switched_when_everybody_holds_it_and_retired_when_nobody_needs_the_old_one() {
        assert_eq!(step(Phase::Requested, &[], 0, 0), Step::Issue);
        let (old, both, new) =
            (everybody("a", &["a"]), everybody("a", &["a", "b"]), everybody("b", &["a", "b"]));
        assert_eq!(step(Phase::Issued, &both, 9, 0), Step::Switch);
        let Step::Wait(who) = step(Phase::Issued, &old, 0, 0) else { panic!("nobody holds it") };
        assert_eq!(who.len(), 5);
        for role in 0..5 {
            let mut mixed = both.clone();
            mixed[role] = old[role].clone();
            let late = format!("{} 1", old[role].role);
            assert_eq!(step(Phase::Issued, &mixed, 0, 0), Step::Wait(vec![late]));
            mixed.remove(role);
            let silent = if role == 1 { Step::Switch } else { Step::Wait(vec![old[role].role.clone()]) };
            assert_eq!(step(Phase::Issued, &mixed, 0, 0), silent, "only workers may be absent");
        }
        assert_eq!(step(Phase::Switched, &new, 0, 25), Step::Retire);
        assert!(matches!(step(Phase::Switched, &new, 0, 23), Step::Wait(_)), "too early");
        assert!(matches!(step(Phase::Switched, &new, 1, 25), Step::Wait(_)), "a credential needs it");
        assert!(matches!(step(Phase::Switched, &both, 0, 25), Step::Wait(_)), "somebody signs with it");
    }
}
