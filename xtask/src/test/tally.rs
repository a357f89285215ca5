//! Counts what a test binary reports: the summary lines of libtest and of libtest-mimic, and what they say of failures.

use std::collections::BTreeMap;

/// How much of what a failed test says is repeated at the end; its log has all of it.
const REASON_LINES: usize = 30;
const REASON_WIDTH: usize = 500;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// How many summary lines there were: a test binary without one has not finished.
    pub(crate) summaries: u64,
    pub(crate) failed_names: Vec<String>,
    pub(crate) ignored_names: Vec<String>,
    /// The first lines of what each failed test says.
    pub(crate) reasons: BTreeMap<String, Vec<String>>,
    /// The test whose words are being read.
    speaking: Option<String>,
}

impl Tally {
    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.speaking = None;
            self.summary(summary);
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            self.speaking = Some(name.strip_suffix(" stdout").unwrap_or(name).to_owned());
        } else if let Some(speaking) = &self.speaking {
            if line == "stack backtrace:" || line == "failures:" {
                self.speaking = None;
            } else if !line.trim().is_empty() {
                let words = self.reasons.entry(speaking.clone()).or_default();
                if words.len() < REASON_LINES {
                    words.push(line.chars().take(REASON_WIDTH).collect());
                }
            }
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            let name = name.trim();
            if outcome.starts_with("FAILED") {
                self.failed_names.push(name.to_owned());
            } else if outcome.starts_with("ignored") {
                self.ignored_names.push(name.to_owned());
            }
        }
    }

    /// `ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.30s`
    fn summary(&mut self, summary: &str) {
        let Some((_, counts)) = summary.split_once(". ") else { return };
        let count = |what: &str| {
            let found = counts.split("; ").find_map(|part| part.strip_suffix(what));
            found.and_then(|number| number.trim().parse::<u64>().ok())
        };
        if let (Some(passed), Some(failed), Some(ignored)) = (count(" passed"), count(" failed"), count(" ignored")) {
            self.passed += passed;
            self.failed += failed;
            self.ignored += ignored;
            self.summaries += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn libtest_and_mimic_are_counted_together() {
        let tally = tally(
            "running 3 tests\n\
             test one::works ... ok\n\
             test two ... FAILED\n\
             test three ... ignored, needs a moon\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.30s\n\
             test loses_nothing      ... ok\n\
             test result: ok. 50 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 12.30s\n",
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored, tally.summaries), (51, 1, 1, 2));
        assert_eq!(tally.failed_names, ["two"]);
        assert_eq!(tally.ignored_names, ["three"]);
    }

    #[test]
    fn failed_tests_have_their_say() {
        let tally = tally(
            "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a stdout ----\n\nthread 'a' panicked at x.rs:1:1:\n\
             assertion failed\nstack backtrace:\n   0: begin\n\n---- b ----\nnothing came in 4 s\n\nfailures:\n    a\n    b\n\n\
             test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(tally.reasons["a"], ["thread 'a' panicked at x.rs:1:1:", "assertion failed"]);
        assert_eq!(tally.reasons["b"], ["nothing came in 4 s"]);
        assert_eq!(tally.failed, 2);
    }

    #[test]
    fn names_of_documentation_tests_hold_spaces() {
        let tally = tally("test mq-core/src/lib.rs - message::Message (line 12) ... ignored\n");
        assert_eq!(tally.ignored_names, ["mq-core/src/lib.rs - message::Message (line 12)"]);
    }

    #[test]
    fn what_only_looks_like_a_summary_is_none() {
        let tally = tally(
            "test result: soon\ntest result: ok. many passed; 0 failed; 0 ignored\nI test result: ok. 1 passed\n",
        );
        assert_eq!(tally, Tally::default());
    }
}
