//! Judges a [`History`](crate::History): each check returns what it found, never what it hoped for.
//!
//! Nothing is deduplicated before it is compared: a second delivery nobody asked for is a finding.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::failure::{Failure, Verdict};
use crate::history::{Action, Entry, History, What, story};

/// What is wrong with one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, gravest first.
    pub wrong: Wrong,
    /// The message.
    pub id: Arc<str>,
    /// What exactly.
    pub detail: String,
}

/// The kinds of findings, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Wrong {
    /// Confirmed to the sender, and neither delivered nor among the dead letters.
    Lost,
    /// Delivered, but never sent, or refused for good.
    Invented,
    /// Delivered again although nobody gave it back.
    Duplicated,
    /// Overtaken by a later message of its key.
    Disordered,
    /// Run by two handlers at once.
    Overlapping,
    /// Delivered before it was due.
    Early,
    /// Delivered with another attempt number than its failures explain.
    Miscounted,
    /// Delivered and left without an end.
    Unfinished,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Invented => "invented",
            Self::Duplicated => "duplicated",
            Self::Disordered => "out of order",
            Self::Overlapping => "handled twice at once",
            Self::Early => "early",
            Self::Miscounted => "wrong attempt",
            Self::Unfinished => "left unfinished",
        })
    }
}

/// What a group's history is held against. Everything is checked unless it is waived.
#[derive(Debug, Clone)]
#[must_use = "call judge()"]
pub struct Checker {
    group: String,
    duplicates: usize,
    order: Order,
    complete: bool,
    attempts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    /// The first delivery of each message of a key, in the order sent.
    First,
    /// No message of a key begins before the one before it has ended for good.
    Strict,
}

impl Checker {
    /// For what happened in `group`: no loss, no duplicate, no overlap, nothing early, attempts true.
    pub fn new(group: impl fmt::Display) -> Self {
        Self { group: group.to_string(), duplicates: 0, order: Order::Any, complete: true, attempts: true }
    }

    /// Allows this many deliveries nobody asked for: the declared window of a fault.
    pub fn duplicates(mut self, bound: usize) -> Self {
        self.duplicates = bound;
        self
    }

    /// Also: first deliveries keep the order of their key.
    pub fn ordered(mut self) -> Self {
        self.order = Order::First;
        self
    }

    /// Also: a message of a key begins only when the one before it is done, retries included.
    pub fn strictly_ordered(mut self) -> Self {
        self.order = Order::Strict;
        self
    }

    /// The scenario stopped early: undelivered messages are no loss.
    pub fn partial(mut self) -> Self {
        self.complete = false;
        self
    }

    /// The attempt numbers cannot be followed (a fault without a witness).
    pub fn any_attempt(mut self) -> Self {
        self.attempts = false;
        self
    }

    /// Every finding, the gravest first; an empty list is a clean history.
    pub fn findings(&self, entries: &[Entry]) -> Vec<Finding> {
        let lives = self.lives(entries);
        let mut findings = Vec::new();
        let mut extra = Vec::new();
        for (id, life) in &lives {
            self.check_fate(id, life, &mut findings);
            extra.extend(duplicates(id, life));
            findings.extend(overlaps(id, life));
            findings.extend(early(id, life));
            if self.attempts {
                findings.extend(attempts(id, life));
            }
        }
        if extra.len() > self.duplicates {
            findings.extend(extra);
        }
        if self.order != Order::Any {
            findings.extend(self.disorder(&lives));
        }
        findings.sort_by_key(|finding| finding.wrong);
        findings
    }

    /// Fails with the shortest story among the gravest findings.
    pub fn judge(&self, history: &History) -> Verdict {
        let entries = history.entries();
        let findings = self.findings(&entries);
        let Some(gravest) = findings.first().map(|finding| finding.wrong) else { return Ok(()) };
        let told = findings
            .iter()
            .filter(|finding| finding.wrong == gravest)
            .min_by_key(|finding| entries.iter().filter(|entry| entry.id == finding.id).count());
        let mut text = format!("{} finding(s) in group {}:", findings.len(), self.group);
        let mut counts: BTreeMap<Wrong, usize> = BTreeMap::new();
        for finding in &findings {
            *counts.entry(finding.wrong).or_default() += 1;
        }
        for (wrong, count) in counts {
            text.push_str(&format!(" {count} {wrong};"));
        }
        if let Some(finding) = told {
            text.push_str(&format!("\n{}: {}\n{}", finding.id, finding.detail, story(&entries, &finding.id)));
        }
        Err(Failure::new(text))
    }

    /// The lines of each message that concern this group, messages in the order of their first line.
    fn lives<'a>(&self, entries: &'a [Entry]) -> Vec<(Arc<str>, Vec<&'a Entry>)> {
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        let mut lives: Vec<(Arc<str>, Vec<&Entry>)> = Vec::new();
        let ours = |entry: &&Entry| entry.group.is_empty() || *entry.group == *self.group;
        for entry in entries.iter().filter(ours).filter(|entry| !entry.id.is_empty()) {
            let place = *places.entry(Arc::clone(&entry.id)).or_insert_with(|| {
                lives.push((Arc::clone(&entry.id), Vec::new()));
                lives.len() - 1
            });
            if let Some((_, life)) = lives.get_mut(place) {
                life.push(entry);
            }
        }
        lives
    }

    fn check_fate(&self, id: &Arc<str>, life: &[&Entry], findings: &mut Vec<Finding>) {
        let has = |matching: fn(&What) -> bool| life.iter().any(|entry| matching(&entry.what));
        let delivered = has(|what| matches!(what, What::Delivered { .. }));
        let dead = has(|what| matches!(what, What::Dead));
        let confirmed = has(|what| matches!(what, What::Confirmed));
        let mut found =
            |wrong, detail: &str| findings.push(Finding { wrong, id: Arc::clone(id), detail: detail.into() });
        if self.complete && confirmed && !delivered && !dead {
            found(Wrong::Lost, "the send was confirmed, but the message never arrived");
        }
        if delivered && has(|what| matches!(what, What::Refused { ambiguous: false, .. })) && !confirmed {
            found(Wrong::Invented, "the send failed for good, yet the message arrived");
        }
        if delivered && !has(|what| matches!(what, What::Sent { .. })) {
            found(Wrong::Invented, "it was never sent");
        }
        if !self.complete {
            return;
        }
        // The last word decides: given back or set aside means it must come again.
        let last = life
            .iter()
            .rev()
            .find(|entry| matches!(entry.what, What::Delivered { .. } | What::Settled { .. } | What::Dead));
        match last.map(|entry| &entry.what) {
            Some(What::Settled { action: Action::Requeue | Action::Release | Action::Retry, .. }) => {
                found(Wrong::Lost, "it was given back and never came again");
            }
            Some(What::Settled { action: Action::DeadLetter, .. }) => {
                found(Wrong::Lost, "it was set aside and never found among the dead letters");
            }
            Some(What::Settled { action: Action::Redrive, .. }) => {
                found(Wrong::Lost, "it was brought back from the dead letters and never came");
            }
            Some(What::Delivered { .. }) => found(Wrong::Unfinished, "its last delivery has no end"),
            _ => {}
        }
    }

    fn disorder(&self, lives: &[(Arc<str>, Vec<&Entry>)]) -> Vec<Finding> {
        // Per key, in the order sent: when each message began first and when it ended for good.
        type Span<'s> = (&'s Arc<str>, Duration, Option<Duration>);
        let mut keys: HashMap<&Bytes, Vec<Span<'_>>> = HashMap::new();
        for (id, life) in lives {
            let key = life.iter().find_map(|entry| match &entry.what {
                What::Sent { key: Some(key), .. } => Some(key),
                _ => None,
            });
            let began = life.iter().find(|entry| matches!(entry.what, What::Delivered { .. })).map(|entry| entry.at);
            let ended =
                life.iter().rev().find(|entry| matches!(entry.what, What::Settled { .. })).map(|entry| entry.at);
            if let (Some(key), Some(began)) = (key, began) {
                keys.entry(key).or_default().push((id, began, ended));
            }
        }
        let mut findings = Vec::new();
        for messages in keys.values() {
            for pair in messages.windows(2) {
                let [(before, began, ended), (id, next, _)] = pair else { continue };
                let late = match self.order {
                    Order::Strict => ended.is_none_or(|ended| ended > *next),
                    _ => began > next,
                };
                if late {
                    let detail = format!("{id} of the same key was sent after it and began before it was done");
                    findings.push(Finding { wrong: Wrong::Disordered, id: Arc::clone(before), detail });
                }
            }
        }
        findings
    }
}

/// Deliveries nobody asked for: each needs a send, a return or a redrive before it.
fn duplicates(id: &Arc<str>, life: &[&Entry]) -> Vec<Finding> {
    let mut due: usize = 0;
    let mut sends: usize = 0;
    let mut findings = Vec::new();
    for entry in life {
        match &entry.what {
            What::Sent { .. } => {
                sends += 1;
                due += 1;
            }
            What::Settled { action: Action::Requeue | Action::Release | Action::Retry | Action::Redrive, .. } => {
                due += 1;
            }
            What::Delivered { .. } if due == 0 && sends > 0 => {
                let detail = format!("delivered again at {:.3} s, though nobody gave it back", entry.at.as_secs_f64());
                findings.push(Finding { wrong: Wrong::Duplicated, id: Arc::clone(id), detail });
            }
            What::Delivered { .. } => due = due.saturating_sub(1),
            _ => {}
        }
    }
    findings
}

fn overlaps(id: &Arc<str>, life: &[&Entry]) -> Option<Finding> {
    let mut running = 0_i32;
    for entry in life {
        match entry.what {
            What::Started => running += 1,
            What::Finished => running -= 1,
            _ => {}
        }
        if running > 1 {
            let detail = format!("a second handler began at {:.3} s", entry.at.as_secs_f64());
            return Some(Finding { wrong: Wrong::Overlapping, id: Arc::clone(id), detail });
        }
    }
    None
}

fn early(id: &Arc<str>, life: &[&Entry]) -> Option<Finding> {
    let mut not_before = None;
    for entry in life {
        match entry.what {
            What::Sent { due, .. } | What::Settled { due, .. } => not_before = due,
            What::Delivered { .. } if not_before.is_some_and(|due| entry.at < due) => {
                let by = not_before.unwrap_or_default().saturating_sub(entry.at);
                return Some(Finding {
                    wrong: Wrong::Early,
                    id: Arc::clone(id),
                    detail: format!("{by:?} before it was due"),
                });
            }
            _ => {}
        }
    }
    None
}

fn attempts(id: &Arc<str>, life: &[&Entry]) -> Option<Finding> {
    let mut expected = 1;
    for entry in life {
        match entry.what {
            What::Settled { action: Action::Retry, .. } => expected += 1,
            What::Settled { action: Action::Redrive, .. } => expected = 1,
            What::Delivered { attempt } if attempt != expected => {
                let detail = format!("delivered as attempt {attempt}; its recorded failures make it {expected}");
                return Some(Finding { wrong: Wrong::Miscounted, id: Arc::clone(id), detail });
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
