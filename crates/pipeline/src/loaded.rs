//! A corpus ready to measure with, and the plans that were made of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use openwatch_model::scan::Selection;
use openwatch_rules::{CheckPlan, Corpus, Facts};

/// Plans kept: a fleet is a few platforms, and most scans are full ones.
const PLANS: usize = 8;

/// A corpus with its variables filled in. Hosts that are alike share one plan: with hundreds of scans under way, a plan
/// for each would be most of a worker's memory.
pub struct Loaded {
    corpus: Corpus,
    plans: Mutex<VecDeque<Planned>>,
}

struct Planned {
    facts: Facts,
    selection: Selection,
    plan: Arc<CheckPlan>,
}

impl Loaded {
    /// No plan yet.
    pub fn new(corpus: Corpus) -> Self {
        Self { corpus, plans: Mutex::default() }
    }

    /// The corpus.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// What to run on a host like this.
    pub fn plan(&self, facts: &Facts, selection: &Selection) -> Arc<CheckPlan> {
        // Held while it is made, on purpose: a fleet of one kind makes its plan once.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.iter().find(|it| it.facts == *facts && it.selection == *selection);
        if let Some(known) = known {
            return known.plan.clone();
        }
        let plan = Arc::new(self.corpus.plan(facts, selection));
        if plans.len() == PLANS {
            plans.pop_front();
        }
        plans.push_back(Planned { facts: facts.clone(), selection: selection.clone(), plan: plan.clone() });
        plan
    }
}

#[cfg(test)]
mod tests {
    use openwatch_rules::Variables;

    use super::*;

    #[test]
    fn hosts_that_are_alike_share_a_plan_and_others_do_not() {
        let loaded = Loaded::new(Corpus::load(&[], &Variables::builtin()));
        let (facts, full) = (Facts::default(), Selection::full());
        let first = loaded.plan(&facts, &full);
        assert!(Arc::ptr_eq(&first, &loaded.plan(&facts, &full)));
        let other = Facts { capabilities: [("selinux".to_owned(), true)].into(), ..Facts::default() };
        assert!(!Arc::ptr_eq(&first, &loaded.plan(&other, &full)));
        for number in 0..PLANS {
            let selection = Selection { rules: vec![number.to_string()], ..Selection::full() };
            loaded.plan(&facts, &selection);
        }
        assert!(!Arc::ptr_eq(&first, &loaded.plan(&facts, &full)), "the oldest went");
    }
}
