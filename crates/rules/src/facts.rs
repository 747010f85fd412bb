//! What has to be known about a host before its rules can be chosen.

use std::collections::BTreeMap;

use openwatch_model::host::Platform;
use openwatch_model::plan::{Command, Lost, Observation, Plan};

use crate::platform::os_release;
use crate::probes::PROBES;

/// What a host is and can do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// From os-release; empty where unknown, and then no rule is left out for its platform.
    pub platform: Platform,
    /// Every capability that was probed or said by an operator.
    pub capabilities: BTreeMap<String, bool>,
    /// Why os-release has no answer: rules that name platforms end in error.
    pub platform_lost: Option<Lost>,
    /// Capabilities without an answer: rules whose implementation depends on one end in error.
    pub unknown: BTreeMap<String, Lost>,
}

/// What to run first: os-release, then one command per capability.
pub fn probe_plan() -> Plan {
    let os_release = Command::new("cat /etc/os-release 2>/dev/null");
    let probes = PROBES.iter().map(|(_, script)| Command::new(*script));
    Plan { commands: std::iter::once(os_release).chain(probes).collect() }
}

/// Reads the answers to [`probe_plan`]; `overrides` replace what was found.
pub fn facts(observations: &[Observation], overrides: &BTreeMap<String, bool>) -> Facts {
    let mut facts = Facts::default();
    let lost = Observation::Lost(Lost::Connection);
    let answer = |i: usize| observations.get(i).unwrap_or(&lost);
    match answer(0) {
        Observation::Done(done) if done.exit == 0 => {
            facts.platform = os_release(&String::from_utf8_lossy(&done.stdout));
        }
        Observation::Done(_) => {}
        Observation::Lost(lost) => facts.platform_lost = Some(*lost),
    }
    for (i, (name, _)) in PROBES.iter().enumerate() {
        match answer(i + 1) {
            Observation::Done(done) => _ = facts.capabilities.insert((*name).to_owned(), done.exit == 0),
            Observation::Lost(lost) => _ = facts.unknown.insert((*name).to_owned(), *lost),
        }
    }
    for (name, value) in overrides {
        facts.unknown.remove(name);
        facts.capabilities.insert(name.clone(), *value);
    }
    facts
}

#[cfg(test)]
mod tests {
    use openwatch_model::plan::Done;

    use super::*;

    #[test]
    fn answers_become_facts() {
        let mut observations = vec![Observation::Done(Done { exit: 1, ..Done::default() }); 40];
        observations[0] = Observation::Done(Done {
            stdout: b"ID=ubuntu\nVERSION_ID=\"22.04\"\n".to_vec(),
            ..Done::default()
        });
        observations[3] = Observation::Done(Done::default());
        observations[4] = Observation::Lost(Lost::Timeout);
        let overrides = BTreeMap::from([("gdm".to_owned(), true), ("site_thing".to_owned(), true)]);
        let facts = facts(&observations, &overrides);
        assert_eq!(facts.platform.family, "ubuntu");
        assert!(facts.capabilities["apt"] && facts.capabilities["gdm"] && facts.capabilities["site_thing"]);
        assert!(!facts.capabilities["aide"]);
        assert_eq!(
            facts.unknown.into_iter().collect::<Vec<_>>(),
            [("apt_unattended_upgrades".to_owned(), Lost::Timeout)]
        );
        assert_eq!(probe_plan().commands.len(), 40);
    }

    #[test]
    fn missing_answers_are_lost_and_a_failing_cat_is_an_unknown_system() {
        let nothing = facts(&[], &BTreeMap::from([("apt".to_owned(), false)]));
        assert_eq!(nothing.platform_lost, Some(Lost::Connection));
        assert_eq!((nothing.unknown.len(), nothing.capabilities.len()), (38, 1));
        let failed = facts(&[Observation::Done(Done { exit: 1, ..Done::default() })], &BTreeMap::new());
        assert_eq!((failed.platform_lost, failed.platform.family.as_str()), (None, ""));
    }
}
