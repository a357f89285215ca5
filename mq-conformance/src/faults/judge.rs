//! Judges a load with faults: what the contract promises where connections, brokers and processes die.
//!
//! Nothing is deduplicated before it is compared. Every delivery must have a reason: a send, a retry, or one of the
//! duplicates that the faults of the run may cause, which are counted against their bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::checker::{Finding, Wrong};
use crate::failure::{Failure, Verdict};
use crate::history::{Action, Entry, What, story};

/// What a load is held against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// The most handlers that may run without a reason of their own: what all faults together may repeat.
    pub(crate) bound: usize,
    /// When a session may end without its member knowing: from when to when two handlers may run at once.
    pub(crate) blind: Vec<(Duration, Duration)>,
}

/// How a handler ended that its member has stopped.
pub(super) const CANCELLED: &str = "cancelled in ";
/// How soon after the broker has given the message to another one.
const CANCELLED_WITHIN: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sent: usize,
    pub(crate) confirmed: usize,
    pub(crate) resent: usize,
    pub(crate) handled: usize,
    pub(crate) dead: usize,
    pub(crate) duplicates: usize,
    pub(crate) lost: usize,
    pub(crate) disordered: usize,
    pub(crate) early: usize,
    pub(crate) overlapping: usize,
    pub(crate) miscounted: usize,
}

/// The lines of one message, in the order of their times.
type Life<'e> = Vec<&'e Entry>;

/// What was seen, and everything that is wrong.
pub(crate) fn judge(entries: &[Entry], group: &str, terms: &Terms) -> (Seen, Vec<Finding>) {
    let mut seen = Seen::default();
    let mut findings = Vec::new();
    let mut extra = Vec::new();
    let lives = lives(entries, group);
    for (id, life) in &lives {
        let has = |matching: fn(&What) -> bool| life.iter().any(|entry| matching(&entry.what));
        seen.sent += 1;
        seen.resent += life.iter().filter(|entry| matches!(entry.what, What::Sent { .. })).count().saturating_sub(1);
        seen.confirmed += usize::from(has(|what| matches!(what, What::Confirmed)));
        seen.dead += usize::from(has(|what| matches!(what, What::Dead)));
        seen.handled += usize::from(has(|what| matches!(what, What::Settled { action: Action::Ack, .. })));
        findings.extend(fate(id, life));
        reasons(id, life, &mut extra, &mut findings);
        findings.extend(overlap(id, life, &terms.blind));
        findings.extend(early(id, life));
    }
    findings.extend(disorder(&lives));
    seen.duplicates = extra.len();
    if extra.len() > terms.bound {
        findings.extend(extra);
    }
    let count = |wrong| findings.iter().filter(|finding| finding.wrong == wrong).count();
    seen.lost = count(Wrong::Lost) + count(Wrong::Unfinished);
    seen.disordered = count(Wrong::Disordered);
    seen.early = count(Wrong::Early);
    seen.overlapping = count(Wrong::Overlapping);
    seen.miscounted = count(Wrong::Miscounted);
    findings.sort_by_key(|finding| finding.wrong);
    (seen, findings)
}

/// Fails with the shortest story among the gravest findings.
pub(crate) fn verdict(entries: &[Entry], seen: &Seen, findings: &[Finding], terms: &Terms) -> Verdict {
    let Some(gravest) = findings.first().map(|finding| finding.wrong) else { return Ok(()) };
    let lines = |finding: &&Finding| entries.iter().filter(|entry| entry.id == finding.id).count();
    let told = findings.iter().filter(|finding| finding.wrong == gravest).min_by_key(lines);
    let mut counts: BTreeMap<Wrong, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.wrong).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(wrong, count)| format!("{count} {wrong}")).collect();
    let mut text = format!("{}; duplicates within {}; {seen:?}", counts.join(", "), terms.bound);
    if let Some(finding) = told {
        text.push_str(&format!("\n{}: {}\n{}", finding.id, finding.detail, story(entries, &finding.id)));
        if let Some(other) = overtaken(finding) {
            text.push_str(&format!("\n{}", story(entries, other)));
        }
    }
    Err(Failure::new(text))
}

/// Of two messages out of order, the other one.
fn overtaken(finding: &Finding) -> Option<&str> {
    let other = finding.detail.strip_prefix(OVERTOOK)?;
    other.split(' ').next()
}

const OVERTOOK: &str = "it was sent after ";

fn lives<'e>(entries: &'e [Entry], group: &str) -> Vec<(Arc<str>, Life<'e>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut lives: Vec<(Arc<str>, Life<'_>)> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.id.is_empty()) {
        if !entry.group.is_empty() && *entry.group != *group {
            continue;
        }
        let place = *places.entry(&entry.id).or_insert_with(|| {
            lives.push((Arc::clone(&entry.id), Vec::new()));
            lives.len() - 1
        });
        if let Some((_, life)) = lives.get_mut(place) {
            life.push(entry);
        }
    }
    lives
}

/// Confirmed, and then handled or set aside; whatever was begun has an end.
fn fate(id: &Arc<str>, life: &Life<'_>) -> Option<Finding> {
    let found = |wrong, detail: &str| Some(Finding { wrong, id: Arc::clone(id), detail: detail.into() });
    let has = |matching: fn(&What) -> bool| life.iter().any(|entry| matching(&entry.what));
    let confirmed = has(|what| matches!(what, What::Confirmed));
    let delivered = has(|what| matches!(what, What::Delivered { .. }));
    let stored = |what: &What| matches!(what, What::Confirmed | What::Refused { ambiguous: true, .. });
    if delivered && !has(|what| matches!(what, What::Sent { .. })) {
        return found(Wrong::Invented, "it was never sent");
    }
    if delivered && !confirmed && !life.iter().any(|entry| stored(&entry.what)) {
        return found(Wrong::Invented, "its send failed for good, yet it arrived");
    }
    if confirmed && !delivered {
        return found(Wrong::Lost, "its send was confirmed, and it never came");
    }
    // Handled once is handled: a copy that a repeated send left is acknowledged unrun where it is remembered.
    if !delivered || has(|what| matches!(what, What::Settled { action: Action::Ack, .. } | What::Dead)) {
        return None;
    }
    let last = life.iter().rev().find(|entry| matches!(entry.what, What::Delivered { .. } | What::Settled { .. }));
    match last.map(|entry| &entry.what) {
        Some(What::Settled { action: Action::DeadLetter, .. }) => {
            found(Wrong::Lost, "it was set aside and is not among the dead letters")
        }
        Some(What::Settled { .. }) => found(Wrong::Lost, "it failed and never came again"),
        _ => found(Wrong::Unfinished, "its last handler was stopped, and it never came again"),
    }
}

/// Each delivery needs a send or a retry that makes it that attempt; the others are duplicates.
fn reasons(id: &Arc<str>, life: &Life<'_>, extra: &mut Vec<Finding>, findings: &mut Vec<Finding>) {
    // How many deliveries of each attempt are due; what was ever due may come again after a fault.
    let mut due: BTreeMap<u32, usize> = BTreeMap::new();
    let mut running = 1;
    for entry in life {
        match &entry.what {
            What::Sent { .. } => *due.entry(1).or_default() += 1,
            What::Refused { ambiguous: false, .. } => {
                due.entry(1).and_modify(|due| *due = due.saturating_sub(1));
            }
            What::Settled { action: Action::Retry, .. } => *due.entry(running + 1).or_default() += 1,
            What::Delivered { attempt } => {
                running = *attempt;
                let found = |wrong, detail| Finding { wrong, id: Arc::clone(id), detail };
                let at = entry.at.as_secs_f64();
                match due.get_mut(attempt) {
                    Some(0) => {
                        let detail = format!("came again at {at:.3} s as attempt {attempt}, for no reason of its own");
                        extra.push(found(Wrong::Duplicated, detail));
                    }
                    Some(due) => *due -= 1,
                    None => {
                        let most = due.keys().max().copied().unwrap_or_default();
                        let detail = format!("came at {at:.3} s as attempt {attempt}; its failures make it {most}");
                        findings.push(found(Wrong::Miscounted, detail));
                    }
                }
            }
            _ => {}
        }
    }
}

fn overlap(id: &Arc<str>, life: &Life<'_>, blind: &[(Duration, Duration)]) -> Option<Finding> {
    let (mut running, mut attempt, mut retried, mut twofold) = (0_i32, 0, 0, false);
    for entry in life {
        match entry.what {
            What::Started => running += 1,
            What::Finished => running -= 1,
            What::Delivered { attempt: this } => {
                attempt = this;
                // A retry was stored and what it came from could not be acknowledged: from now on there are two.
                twofold |= attempt <= retried;
            }
            What::Settled { action: Action::Retry, .. } => retried = retried.max(attempt),
            _ => {}
        }
        // A member that is killed in this process learns of it a moment after the broker.
        let cancelled = |other: &&Entry| {
            let at_once = entry.at..=entry.at + CANCELLED_WITHIN;
            at_once.contains(&other.at) && matches!(&other.what, What::Note(text) if text.starts_with(CANCELLED))
        };
        let excused = || blind.iter().any(|(from, to)| (*from..=*to).contains(&entry.at)) || life.iter().any(cancelled);
        if running > 1 && !twofold && !excused() {
            let detail = format!("a second handler began at {:.3} s while one was running", entry.at.as_secs_f64());
            return Some(Finding { wrong: Wrong::Overlapping, id: Arc::clone(id), detail });
        }
    }
    None
}

/// No further attempt before the earliest moment any failure of the attempt before allows.
fn early(id: &Arc<str>, life: &Life<'_>) -> Option<Finding> {
    let mut allowed: BTreeMap<u32, Duration> = BTreeMap::new();
    let mut running = 1;
    for entry in life {
        match entry.what {
            What::Settled { action: Action::Retry, due: Some(due) } => {
                let first = allowed.entry(running + 1).or_insert(due);
                *first = due.min(*first);
            }
            What::Delivered { attempt } => {
                running = attempt;
                if let Some(due) = allowed.get(&attempt).filter(|due| entry.at < **due) {
                    let by = due.saturating_sub(entry.at);
                    let detail = format!("attempt {attempt} began {by:?} before it was due");
                    return Some(Finding { wrong: Wrong::Early, id: Arc::clone(id), detail });
                }
            }
            _ => {}
        }
    }
    None
}

/// The first handling of the messages of a key is in the order they were sent first.
fn disorder(lives: &[(Arc<str>, Life<'_>)]) -> Vec<Finding> {
    let mut latest: HashMap<&Bytes, (Duration, &Arc<str>)> = HashMap::new();
    let mut findings = Vec::new();
    let mut in_order: Vec<&(Arc<str>, Life<'_>)> = lives.iter().collect();
    in_order.sort_by_key(|(_, life)| sent_at(life));
    for (id, life) in in_order {
        let key = life.iter().find_map(|entry| match &entry.what {
            What::Sent { key: Some(key), .. } => Some(key),
            _ => None,
        });
        let began = life.iter().find(|entry| matches!(entry.what, What::Delivered { .. })).map(|entry| entry.at);
        let (Some(key), Some(began)) = (key, began) else { continue };
        let (most, holder) = latest.entry(key).or_insert((began, id));
        if began < *most {
            let detail = format!("{OVERTOOK}{holder} of the same key, and handled before it");
            findings.push(Finding { wrong: Wrong::Disordered, id: Arc::clone(id), detail });
        } else {
            (*most, *holder) = (began, id);
        }
    }
    findings
}

/// When the send began that may have stored it: one that was refused for good stored nothing, and those behind it that
/// were under way have overtaken it rightly.
fn sent_at(life: &Life<'_>) -> Option<Duration> {
    let (mut at, mut maybe) = (None, false);
    for entry in life {
        match entry.what {
            What::Sent { .. } => at = at.or(Some(entry.at)),
            What::Refused { ambiguous, .. } => {
                maybe |= ambiguous;
                at = at.filter(|_| maybe);
            }
            _ => {}
        }
    }
    at
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
