//! Attempts count failures, survive crashes, and never come early.

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::memory::SettledHow;
use crate::testing::history::{RunEnd, What};
use crate::testing::judge::Finding;
use crate::testing::judge::index::{Index, Run, Settlement, Story};
use crate::testing::member::Traits;

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((number, id), story) in &index.stories {
        let Some(service) = index.service(*number) else { continue };
        let copies = index.may_have_copies(*number, id, story);
        for run in &story.runs {
            let found = counted(id, story, run, service)
                .or_else(|| recorded(id, story, run).filter(|_| !copies))
                .or_else(|| early(index, id, story, run, service))
                .or_else(|| crash_limit(id, run, service));
            if let Some(found) = found {
                findings.push(found);
                break;
            }
        }
    }
    delayed(index, findings);
}

fn is_failure(run: &Run<'_>, service: &Traits) -> bool {
    match run.ended {
        Some(_) if run.in_doubt => true,
        Some((_, RunEnd::Retry | RunEnd::Unknown | RunEnd::Panic)) => true,
        Some((_, RunEnd::Dropped)) => service.timed && !run.crashed,
        _ => false,
    }
}

/// No more attempts than failures: a crash is none.
fn counted(id: &ByteString, story: &Story<'_>, run: &Run<'_>, service: &Traits) -> Option<Finding> {
    let same = |other: &&Run<'_>| other.end_event() < run.event && other.delivery.redrives == run.delivery.redrives;
    let failures = story.runs.iter().filter(|other| same(other) && is_failure(other, service)).count();
    let attempts = run.attempt as usize;
    if attempts > failures + 1 {
        let text = format!("attempt {attempts} of {id} after {failures} failures");
        return Some(Finding::about("attempt", id, run.event, text));
    }
    (run.attempt > service.policy.max_attempts()).then(|| {
        let text = format!("attempt {attempts} of {id}: more than the policy has");
        Finding::about("attempt", id, run.event, text)
    })
}

/// No fewer than the broker has recorded.
fn recorded(id: &ByteString, story: &Story<'_>, run: &Run<'_>) -> Option<Finding> {
    let before = |one: &&Settlement<'_>| {
        one.answer.is_some_and(|(answered, _)| answered < run.delivered)
            && one.is_durable()
            && matches!(one.how, SettledHow::Retry | SettledHow::Hold)
    };
    let known = story.settlements.iter().filter(before).filter_map(|one| one.intent.attempt).max()?;
    (run.attempt < known && run.delivery.redrives == 0).then(|| {
        let text = format!("{id} ran as attempt {} after attempt {known} had been recorded", run.attempt);
        Finding::about("attempt", id, run.event, text)
    })
}

/// Never before it is due.
fn early(index: &Index<'_>, id: &ByteString, story: &Story<'_>, run: &Run<'_>, service: &Traits) -> Option<Finding> {
    if run.attempt < 2 {
        return None;
    }
    let asked = story.settlements.iter().filter(|one| one.event < run.event && one.intent.attempt == Some(run.attempt));
    let due = asked.filter_map(|one| one.intent.due).min();
    let failed = story.runs.iter().filter(|other| other.attempt + 1 == run.attempt && is_failure(other, service));
    let base = service.policy.base(run.attempt - 1).unwrap_or_default();
    let least = failed.map(|other| index.at(other.end_event()) + base).min();
    let due = due.max(least)?;
    (run.at < due).then(|| {
        let text = format!("attempt {} of {id} ran at {:?}, and was due at {due:?}", run.attempt, run.at);
        Finding::about("early", id, run.event, text)
    })
}

fn crash_limit(id: &ByteString, run: &Run<'_>, service: &Traits) -> Option<Finding> {
    let times = run.delivery.redeliveries;
    (times > service.crash_limit).then(|| {
        let text = format!("{id} ran although it had been redelivered {times} times, above the crash limit");
        Finding::about("crash limit", id, run.event, text)
    })
}

/// Delayed sends.
fn delayed(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut due = BTreeMap::new();
    for event in index.events {
        if let What::Confirmed { id, due: Some(at) } = &event.what {
            due.insert(id, *at);
        }
    }
    for (number, event) in index.events.iter().enumerate() {
        if let What::Delivered(delivered) = &event.what
            && let Some(due) = due.get(&delivered.id)
            && event.at < *due
        {
            let text = format!("{} was delivered at {:?}, and is due at {due:?}", delivered.id, event.at);
            findings.push(Finding::about("early", &delivered.id, number, text));
            return;
        }
    }
}
