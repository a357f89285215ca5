//! What a step has shown, and the verdict over all of them.

use std::time::Duration;

use super::allowed::Allowed;
use super::tally::Tally;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) step: String,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) took: Duration,
    /// What failed, by name, with the first lines of what it said.
    pub(crate) failures: Vec<String>,
    /// What a reader must know though it failed nothing: allowed ignores, tools which are not there.
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    /// A check which is one pass or one failure.
    pub(crate) fn of_check(step: &str, took: Duration, result: anyhow::Result<()>) -> Self {
        let failures: Vec<String> = result.err().map(|error| format!("{error:#}")).into_iter().collect();
        let failed = u64::from(!failures.is_empty());
        Self { step: step.to_owned(), passed: 1 - failed, failed, took, failures, ..Self::default() }
    }

    /// Test binaries: what they count, and one failure more for an end that their count does not explain.
    pub(crate) fn of_tests(
        step: &str,
        name: &str,
        took: Duration,
        tally: Tally,
        ended: Ended,
        allowed: &Allowed,
    ) -> Self {
        let mut outcome =
            Self { step: step.to_owned(), passed: tally.passed, failed: tally.failed, took, ..Self::default() };
        outcome.failures.extend(tally.failed_names.iter().map(|test| {
            let words = tally.reasons.get(test).into_iter().flatten();
            words.fold(format!("{name}: {test}"), |text, line| text + "\n      " + line)
        }));
        let unnamed = tally.ignored.saturating_sub(tally.ignored_names.len() as u64);
        for test in tally.ignored_names {
            match allowed.reason(&test) {
                Some(reason) => outcome.notes.push(format!("ignored: {test}: {reason}")),
                None => outcome.fail(format!("{name}: {test} is ignored and not listed in {}", super::allowed::FILE)),
            }
        }
        (0..unnamed).for_each(|_| outcome.fail(format!("{name}: a test is ignored without telling its name")));
        match ended {
            Ended::Well if tally.summaries == 0 => outcome.fail(format!("{name}: ended without a summary")),
            Ended::Badly(how) if tally.failed == 0 || tally.summaries == 0 => outcome.fail(format!("{name}: {how}")),
            Ended::Well | Ended::Badly(_) => {}
        }
        outcome
    }

    fn fail(&mut self, what: String) {
        self.failed += 1;
        self.failures.push(what);
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Well,
    Badly(String),
}

/// Prints the table, what failed and what to know, and as the last line the verdict; true when nothing failed.
pub(crate) fn conclude(outcomes: &[Outcome], took: Duration) -> bool {
    println!("\n{:<14} {:>7} {:>7} {:>9}", "step", "passed", "failed", "seconds");
    for outcome in outcomes {
        let seconds = outcome.took.as_secs_f64();
        println!("{:<14} {:>7} {:>7} {seconds:>9.1}", outcome.step, outcome.passed, outcome.failed);
    }
    println!("{:<14} {:>7} {:>7} {:>9.1}", "whole run", "", "", took.as_secs_f64());
    for (title, pick) in [
        ("to know:", (|outcome| &outcome.notes) as fn(&Outcome) -> &Vec<String>),
        ("failures:", |outcome| &outcome.failures),
    ] {
        if outcomes.iter().any(|outcome| !pick(outcome).is_empty()) {
            println!("\n{title}");
        }
        for outcome in outcomes {
            for line in pick(outcome) {
                println!("  {}: {line}", outcome.step);
            }
        }
    }
    let passed: u64 = outcomes.iter().map(|outcome| outcome.passed).sum();
    let failed: u64 = outcomes.iter().map(|outcome| outcome.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str, ended: Ended) -> (u64, u64) {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        let outcome = Outcome::of_tests("unit", "bin", Duration::ZERO, tally, ended, &Allowed::default());
        (outcome.passed, outcome.failed)
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    const BAD: &str = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
    const SILENT: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

    #[test]
    fn an_end_that_the_count_does_not_explain_is_a_failure() {
        assert_eq!(outcome(OK, Ended::Well), (3, 0));
        assert_eq!(outcome(BAD, Ended::Badly("exit 101".into())), (3, 2));
        assert_eq!(outcome(OK, Ended::Badly("killed".into())), (3, 1));
        assert_eq!(outcome("", Ended::Well), (0, 1));
        assert_eq!(outcome("", Ended::Badly("killed".into())), (0, 1));
    }

    #[test]
    fn an_ignored_test_is_a_failure_named_or_not() {
        assert_eq!(outcome(SILENT, Ended::Well), (3, 1));
        assert_eq!(outcome(&format!("test x ... ignored\n{SILENT}"), Ended::Well), (3, 1));
    }
}
