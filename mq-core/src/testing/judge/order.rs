//! One handler at a time for a message, and for a key; and keys in order.

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::memory::SettledHow;
use crate::testing::history::{RunEnd, What};
use crate::testing::judge::Finding;
use crate::testing::judge::index::{Index, Run, Story};
use crate::testing::member::Traits;

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((_, id), story) in &index.stories {
        let runs: Vec<&Run<'_>> = story.runs.iter().collect();
        let same = |one: &Run<'_>, other: &Run<'_>| {
            let (one, other) = (one.delivery.token, other.delivery.token);
            (one.lane, one.major) == (other.lane, other.major)
        };
        if let Some(second) = overlap(index, &runs, same) {
            let text = format!("two handlers ran {id} at the same time, and both sessions stood");
            findings.push(Finding::about("overlap", id, second.event, text));
        }
    }
    for (number, service) in index.facts.services.iter().enumerate().filter(|(_, service)| service.keyed) {
        if service.own_keys {
            continue;
        }
        keys(index, number, findings);
        first_handling(index, number, service, findings);
    }
    sends(index, findings);
}

/// The second of two runs that overlap while the session of the first stands.
fn overlap<'r, 'a>(
    index: &Index<'_>,
    runs: &[&'r Run<'a>],
    same: impl Fn(&Run<'_>, &Run<'_>) -> bool,
) -> Option<&'r Run<'a>> {
    for (number, second) in runs.iter().enumerate() {
        let clash = runs.iter().take(number).any(|first| {
            first.end_event() > second.event
                && same(first, second)
                && !index.session_ended(first.life, first.delivery.token.lane, first.delivered, second.event)
        });
        if clash {
            return Some(second);
        }
    }
    None
}

fn keys(index: &Index<'_>, service: usize, findings: &mut Vec<Finding>) {
    let mut keys: BTreeMap<&ByteString, Vec<&Run<'_>>> = BTreeMap::new();
    for ((of, _), story) in &index.stories {
        for run in story.runs.iter().filter(|_| *of == service) {
            if let Some(key) = &run.delivery.key {
                keys.entry(key).or_default().push(run);
            }
        }
    }
    for (key, mut runs) in keys {
        runs.sort_by_key(|run| run.event);
        let same = |one: &Run<'_>, other: &Run<'_>| one.delivery.token.lane == other.delivery.token.lane;
        if let Some(second) = overlap(index, &runs, same) {
            let text = format!("two handlers ran key {key} at the same time, and both sessions stood");
            findings.push(Finding::about("overlap", &second.delivery.id, second.event, text));
            return;
        }
    }
}

/// Messages of a key are handled first in the order they were stored.
fn first_handling(index: &Index<'_>, number: usize, service: &Traits, findings: &mut Vec<Finding>) {
    for topic in service.spec.subscription.topics() {
        // By key: the last event at which an earlier message of it was not yet decided, and which that is.
        let mut before: BTreeMap<&[u8], (usize, ByteString)> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for message in index.facts.stored.get(topic).into_iter().flatten() {
            let (Some(key), Some(id)) = (message.key_bytes(), message.message_id().map(|id| id.text())) else {
                continue;
            };
            if !seen.insert(id) {
                continue;
            }
            let Some(story) = index.stories.get(&(number, id.clone())) else { continue };
            if let (Some(first), Some((decided, earlier))) = (story.runs.first(), before.get(&key[..]))
                && first.event < *decided
            {
                let text = format!("{id} was handled before {earlier}, which stands before it under the same key");
                findings.push(Finding::about("order", id, first.event, text));
                return;
            }
            let decided = decided(story, service);
            let latest = before.entry(&key[..]).or_insert((0, id.clone()));
            if decided > latest.0 {
                *latest = (decided, id.clone());
            }
        }
    }
}

/// When a message let the next one of its key go on, or would have.
fn decided(story: &Story<'_>, service: &Traits) -> usize {
    let last = service.policy.max_attempts();
    let run = story.runs.iter().filter_map(|run| {
        if !service.keeps_order {
            return Some(run.event);
        }
        let (event, end) = run.ended?;
        let is_final = match end {
            RunEnd::Retry => run.attempt >= last,
            RunEnd::Dropped => run.attempt >= last && !run.crashed,
            _ => true,
        };
        is_final.then_some(event)
    });
    let settled = story
        .settlements
        .iter()
        .filter(|one| matches!(one.how, SettledHow::Ack | SettledHow::DeadLetter))
        .map(|one| one.event);
    // Put off because of a claim elsewhere: through the broker, others may overtake it.
    let claimed = story.claims.iter().filter(|_| !service.keeps_order).map(|(event, ..)| *event);
    // Set aside unseen: it never takes its turn.
    let unseen = story.deliveries.iter().filter(|one| one.what.redeliveries > service.crash_limit).map(|one| one.event);
    run.chain(settled).chain(unseen).chain(claimed).min().unwrap_or(usize::MAX)
}

/// What a producer sent of one key is stored in that order.
fn sends(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let mut sent: BTreeMap<&ByteString, usize> = BTreeMap::new();
    for (number, event) in index.events.iter().enumerate() {
        // Delayed ones are stored by their time, not by their turn.
        if let What::Sending { id, delayed: false, .. } = &event.what {
            sent.entry(id).or_insert(number);
        }
    }
    for messages in index.facts.stored.values() {
        let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for message in messages {
            let (Some(key), Some(id)) = (message.key_bytes(), message.message_id().map(|id| id.text())) else {
                continue;
            };
            let Some(number) = sent.get(id).filter(|_| seen.insert(id)) else { continue };
            let latest = last.entry(&key[..]).or_insert(0);
            if number < latest {
                let text = format!("{id} was sent before others of its key, and is stored behind them");
                findings.push(Finding::about("send order", id, *number, text));
                return;
            }
            *latest = *number;
        }
    }
}
