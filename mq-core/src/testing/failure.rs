//! A failure, told from its cause.

use std::collections::BTreeSet;
use std::fmt;

use crate::testing::fault::Planned;
use crate::testing::history::{Event, Life, What};
use crate::testing::judge::Finding;
use crate::testing::run::Outcome;

/// A run in which a promise was broken, as small as it could be made.
#[derive(Clone)]
pub struct Failure {
    seed: u64,
    finding: Finding,
    faults: Vec<Planned>,
    dropped: (usize, usize),
    story: Vec<Event>,
}

/// More of a story nobody reads.
const LONGEST: usize = 120;

impl Failure {
    /// `dropped`: how many faults and messages the failure does not need.
    pub(crate) fn new(seed: u64, outcome: Outcome, finding: Finding, dropped: (usize, usize)) -> Self {
        let story = story(&outcome.events, &finding);
        Self { seed, finding, faults: outcome.faults, dropped, story }
    }

    /// The seed that leads to it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Which promise was broken, in a word or two.
    pub fn rule(&self) -> &str {
        self.finding.rule
    }

    /// What was found.
    pub fn finding(&self) -> &Finding {
        &self.finding
    }

    /// The faults it needs.
    pub fn faults(&self) -> &[Planned] {
        &self.faults
    }

    /// What happened to the message, and around it.
    pub fn story(&self) -> &[Event] {
        &self.story
    }
}

/// The events about the message, and about the processes that had to do with it.
fn story(events: &[Event], finding: &Finding) -> Vec<Event> {
    let words: BTreeSet<&str> = finding.text.split(|c: char| c.is_whitespace() || "`'\",;:()[]".contains(c)).collect();
    let about = |what: &What| {
        id_of(what).is_some_and(|id| words.contains(id) || finding.message.as_ref().is_some_and(|known| *known == id))
    };
    let told: Vec<Event> = if finding.message.is_none() {
        events.iter().filter(|event| id_of(&event.what).is_none()).cloned().collect()
    } else {
        let lives: BTreeSet<Life> =
            events.iter().filter(|event| about(&event.what)).filter_map(|event| event.life).collect();
        let end = finding.event.saturating_add(1).min(events.len());
        let last = events.iter().rposition(|event| about(&event.what)).map_or(end, |last| last + 1);
        let near = |event: &&Event| {
            about(&event.what) || (id_of(&event.what).is_none() && event.life.is_none_or(|life| lives.contains(&life)))
        };
        events.iter().take(end.max(last)).filter(near).cloned().collect()
    };
    let skip = told.len().saturating_sub(LONGEST);
    told.into_iter().skip(skip).collect()
}

fn id_of(what: &What) -> Option<&str> {
    match what {
        What::Sending { id, .. }
        | What::Confirmed { id, .. }
        | What::SendFailed { id, .. }
        | What::GivenUp { id }
        | What::Redriven { id, .. }
        | What::Running { id, .. }
        | What::RanTo { id, .. }
        | What::Settling { id, .. }
        | What::Settled { id, .. }
        | What::Claimed { id, .. }
        | What::Completing { id, .. }
        | What::Completed { id, .. } => Some(id),
        What::Delivered(delivered) => Some(&delivered.id),
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.finding.rule, self.finding.text)?;
        writeln!(f, "seed {}; {} faults and {} messages were not needed", self.seed, self.dropped.0, self.dropped.1)?;
        writeln!(f, "\nfaults:")?;
        if self.faults.is_empty() {
            writeln!(f, "    none")?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        writeln!(f, "\nwhat happened:")?;
        for event in &self.story {
            writeln!(f, "{event}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}
