//! Nothing is lost: what is stored is handled or set aside; what was confirmed is stored.

use std::collections::BTreeSet;

use bytestring::ByteString;

use crate::testing::history::What;
use crate::testing::judge::Finding;
use crate::testing::judge::index::Index;

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    lost(index, findings);
    receipts(index, findings);
}

fn lost(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (number, service) in index.facts.services.iter().enumerate().filter(|(_, service)| !service.auto_ack) {
        let dead: BTreeSet<&str> = index.facts.dead.get(number).into_iter().flatten().filter_map(id_of).collect();
        for topic in service.spec.subscription.topics() {
            for message in index.facts.stored.get(topic).into_iter().flatten() {
                let Some(id) = message.message_id().map(|id| id.text()) else { continue };
                let story = index.stories.get(&(number, id.clone()));
                let handled = story.is_some_and(|story| story.runs.iter().any(super::index::Run::is_success));
                if !handled && !dead.contains(&**id) {
                    let text = format!("{id} was stored, and neither handled nor set aside");
                    findings.push(Finding::about("loss", id, index.events.len(), text));
                    return;
                }
            }
        }
    }
}

fn id_of(letter: &crate::dead_letter::DeadLetter) -> Option<&str> {
    letter.message.message_id().map(|id| id.as_str())
}

fn receipts(index: &Index<'_>, findings: &mut Vec<Finding>) {
    let stored: BTreeSet<&ByteString> = index
        .facts
        .stored
        .values()
        .flatten()
        .filter_map(|message| message.message_id().map(crate::message::MessageId::text))
        .collect();
    let mut possible = BTreeSet::new();
    for (number, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Confirmed { id, .. } => {
                possible.insert(id);
                if !stored.contains(id) {
                    let text = format!("{id} was confirmed, and is not stored");
                    findings.push(Finding::about("receipt", id, number, text));
                    return;
                }
            }
            What::SendFailed { id, ambiguous: true, .. } => {
                possible.insert(id);
            }
            _ => {}
        }
    }
    if let Some(id) = stored.iter().find(|id| index.facts.sent.contains_key(**id) && !possible.contains(*id)) {
        let text = format!("every send of {id} is said to have stored nothing, and it is stored");
        findings.push(Finding::about("receipt", id, index.events.len(), text));
    }
}
