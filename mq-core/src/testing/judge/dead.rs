//! Dead letters are whole, have a reason, and are there once.

use std::collections::BTreeMap;

use bytestring::ByteString;

use crate::dead_letter::{DeadLetter, DeadLetterReason};
use crate::memory::SettledHow;
use crate::message::Message;
use crate::testing::history::{RunEnd, What};
use crate::testing::judge::Finding;
use crate::testing::judge::index::{Index, Story};
use crate::testing::member::Traits;

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (number, letters) in index.facts.dead.iter().enumerate() {
        let Some(service) = index.service(number) else { continue };
        let mut counts: BTreeMap<ByteString, usize> = BTreeMap::new();
        for letter in letters {
            let Some(id) = letter.message.message_id().map(|id| id.text().clone()) else { continue };
            *counts.entry(id.clone()).or_default() += 1;
            let found = match index.stories.get(&(number, id.clone())) {
                None => Some("nobody ever received it".to_owned()),
                Some(story) => wrong(index, letter, story, service),
            };
            if let Some(text) = found {
                let text = format!("the dead letter {id}: {text}");
                findings.push(Finding::about("dead letter", &id, index.events.len(), text));
            }
        }
        twice(index, number, &counts, findings);
    }
    redriven(index, findings);
}

/// A dead letter that was brought back runs again, whatever a guard knows of it.
fn redriven(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (number, event) in index.events.iter().enumerate() {
        let What::Redriven { service, id } = &event.what else { continue };
        let story = index.stories.get(&(*service, id.clone()));
        if !story.is_some_and(|story| story.runs.iter().any(|run| run.event > number && run.delivery.redrives > 0)) {
            let text = format!("the dead letter {id} was brought back, and did not run");
            findings.push(Finding::about("redrive", id, number, text));
            return;
        }
    }
}

fn wrong(index: &Index<'_>, letter: &DeadLetter, story: &Story<'_>, service: &Traits) -> Option<String> {
    let stored = index.facts.stored.values().flatten();
    let Some(original) = stored.into_iter().find(|message| message.message_id() == letter.message.message_id()) else {
        return Some("it was never sent".to_owned());
    };
    if let Some(part) = differs(original, &letter.message) {
        return Some(format!("its {part} is not what was sent"));
    }
    let Some(record) = &letter.record else { return Some("it has no record".to_owned()) };
    let last = service.policy.max_attempts();
    if record.attempts == 0 || record.attempts > last {
        return Some(format!("it is said to have had {} attempts of {last}", record.attempts));
    }
    let ended =
        |wanted: &[RunEnd]| story.runs.iter().any(|run| run.ended.is_some_and(|(_, end)| wanted.contains(&end)));
    let justified = match record.reason {
        DeadLetterReason::CrashLimit => story.deliveries.iter().any(|one| one.what.redeliveries > service.crash_limit),
        DeadLetterReason::MaxAttempts => record.attempts == last,
        DeadLetterReason::Decode => ended(&[RunEnd::Decode]),
        DeadLetterReason::Unknown => ended(&[RunEnd::Unknown, RunEnd::Panic]),
        DeadLetterReason::Rejected => ended(&[RunEnd::DeadLetter, RunEnd::Unknown, RunEnd::Retry]),
        DeadLetterReason::Broker => true,
    };
    (!justified).then(|| format!("nothing in its history is a reason for `{}`", record.reason))
}

fn differs(original: &Message, letter: &Message) -> Option<&'static str> {
    let headers = |message: &Message| -> Vec<(String, Vec<u8>)> {
        message.headers().iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect()
    };
    if original.body_bytes() != letter.body_bytes() {
        return Some("body");
    }
    if original.key_bytes() != letter.key_bytes() {
        return Some("key");
    }
    (headers(original) != headers(letter)).then_some("list of headers")
}

/// Each copy of a message becomes one dead letter, unless a settlement ended in doubt.
fn twice(index: &Index<'_>, number: usize, counts: &BTreeMap<ByteString, usize>, findings: &mut Vec<Finding>) {
    for (id, count) in counts {
        let Some(story) = index.stories.get(&(number, id.clone())) else { continue };
        let doubtful = story
            .settlements
            .iter()
            .filter(|one| matches!(one.how, SettledHow::Retry | SettledHow::DeadLetter) && !one.is_durable())
            .count();
        if *count > index.copies(number, id) + doubtful {
            let text = format!("{id} lies {count} times in the dead letters");
            findings.push(Finding::about("dead letter", id, index.events.len(), text));
        }
    }
}
