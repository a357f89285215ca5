//! Makes a failure smaller: whatever can be left out, is.

use std::collections::BTreeSet;

use crate::testing::Finding;
use crate::testing::failure::Failure;
use crate::testing::run::{Outcome, Without, run};
use crate::testing::scenario::Scenario;

/// More runs are not worth a shorter story.
const TRIES: usize = 400;

struct Search<'a> {
    seed: u64,
    fill: &'a dyn Fn(&mut Scenario),
    /// The failure that is to stay.
    like: Finding,
    without: Without,
    best: Outcome,
    tries: usize,
}

/// The same failure with as few faults and messages as possible.
pub(crate) fn shrink(seed: u64, fill: &dyn Fn(&mut Scenario), outcome: Outcome) -> Failure {
    let none = || Finding::new("none", None, 0, "nothing was found");
    let like = outcome.findings.first().cloned().unwrap_or_else(none);
    let (faults, sends) = (outcome.faults.len(), outcome.sends);
    let mut search = Search { seed, fill, like, without: Without::default(), best: outcome, tries: 0 };
    for fault in 0..faults {
        let mut without = search.without.clone();
        without.faults.insert(fault);
        search.attempt(without);
    }
    let mut size = sends.div_ceil(2);
    while size > 0 {
        for begin in (0..sends).step_by(size) {
            let mut without = search.without.clone();
            let before = without.sends.len();
            without.sends.extend(begin..(begin + size).min(sends));
            if without.sends.len() > before {
                search.attempt(without);
            }
        }
        size /= 2;
    }
    // With fewer messages even fewer faults may do.
    let left: BTreeSet<usize> = (0..faults).filter(|fault| !search.without.faults.contains(fault)).collect();
    for fault in left {
        let mut without = search.without.clone();
        without.faults.insert(fault);
        search.attempt(without);
    }
    let Search { without, best, like, .. } = search;
    let finding = best.findings.iter().find(|finding| alike(finding, &like)).cloned().unwrap_or(like);
    Failure::new(seed, best, finding, (without.faults.len(), without.sends.len()))
}

/// The same promise, and for one of the user's own the same words: numbers and ids may differ.
fn alike(one: &Finding, other: &Finding) -> bool {
    let words = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_digit()).collect() };
    one.rule == other.rule && (one.rule != "invariant" || words(&one.text) == words(&other.text))
}

impl Search<'_> {
    /// Keeps what was left out when it fails all the same.
    fn attempt(&mut self, without: Without) {
        self.tries += 1;
        if self.tries > TRIES {
            return;
        }
        let outcome = run(self.seed, self.fill, &without);
        if outcome.findings.iter().any(|finding| alike(finding, &self.like)) {
            (self.without, self.best) = (without, outcome);
        }
    }
}
