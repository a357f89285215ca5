//! Repeats have a reason: a handled message runs again only where a fault took its settlement away.

use bytestring::ByteString;

use crate::driver::Settled;
use crate::memory::SettledHow;
use crate::testing::history::{Life, What};
use crate::testing::judge::Finding;
use crate::testing::judge::index::{Index, Run, Story};

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((service, id), story) in &index.stories {
        unexplained(index, *service, id, story, findings);
        remembered(id, story, findings);
        guarded(index, *service, id, story, findings);
        blame(index, id, story, findings);
    }
}

/// Bounds duplicates message by message: each repeat needs a fault of its own that hit this very delivery.
fn unexplained(index: &Index<'_>, service: usize, id: &ByteString, story: &Story<'_>, findings: &mut Vec<Finding>) {
    let done: Vec<&Run<'_>> = story.runs.iter().filter(|run| run.is_success()).collect();
    for (first, second) in done.iter().zip(done.iter().skip(1)) {
        let lane = first.delivery.token.lane;
        let settlements = || story.settlements.iter().filter(|one| one.event < second.event);
        let explained = index.session_ended(first.life, lane, first.delivered, second.event)
            || index.may_have_copies(service, id, story)
            || first.delivery.redrives != second.delivery.redrives
            || settlements().any(|one| one.failed())
            || stalled(index, first, second)
            || first.in_doubt
            || overdue(index, first.life);
        if !explained {
            let text = format!("{id} was handled, nothing went wrong with that, and it was handled again");
            findings.push(Finding::about("duplicate", id, second.event, text));
            return;
        }
    }
}

/// The broker did not answer in time for the worker to learn that its settlement was done.
fn stalled(index: &Index<'_>, first: &Run<'_>, second: &Run<'_>) -> bool {
    let (begin, end) = (index.at(first.event), index.at(second.event));
    index.stalls.iter().any(|(from, to)| *from <= end && begin <= *to)
}

/// The drain limit was used up: what was not settled by then comes again.
fn overdue(index: &Index<'_>, life: Life) -> bool {
    let Some(service) = index.service(life.service) else { return false };
    let mut own = index.events.iter().filter(|event| event.life == Some(life));
    let told = own.find(|event| matches!(event.what, What::Stopping)).map(|event| event.at);
    let ended = own.find(|event| matches!(event.what, What::Ended { .. })).map(|event| event.at);
    told.is_some_and(|told| ended.is_none_or(|ended| told + service.drain <= ended))
}

/// Handled here, but the acknowledgement came too late: a redelivery to the same worker is acknowledged, not run.
fn remembered(id: &ByteString, story: &Story<'_>, findings: &mut Vec<Finding>) {
    for settlement in story.settlements.iter().filter(|one| one.how == SettledHow::Ack) {
        let Some((answered, Ok(Settled::Stale))) = settlement.answer else { continue };
        let again = story
            .runs
            .iter()
            .find(|run| run.life == settlement.life && run.delivered > answered && run.delivery.redelivered);
        let redrives = story
            .deliveries
            .iter()
            .find(|one| one.life == settlement.life && one.what.token == settlement.token)
            .map(|one| one.what.redrives);
        if let Some(again) = again
            && Some(again.delivery.redrives) == redrives
        {
            let text = format!("{id} was handled, its acknowledgement came too late, and the same worker ran it again");
            findings.push(Finding::about("forgotten", id, again.event, text));
            return;
        }
    }
}

fn guarded(index: &Index<'_>, service: usize, id: &ByteString, story: &Story<'_>, findings: &mut Vec<Finding>) {
    if !index.service(service).is_some_and(|service| service.guarded) {
        return;
    }
    for (event, guard, redrives, ok) in &story.completions {
        let handled = story.runs.iter().any(|run| run.is_success() && run.end_event() < *event);
        if !handled {
            let text = format!("the guard was told that {id} was handled before it was");
            findings.push(Finding::about("guard", id, *event, text));
            return;
        }
        let again = story.claims.iter().find(|(claimed, _, of, brought_back, answer)| {
            *ok && claimed > event && of == guard && brought_back == redrives && *answer == "fresh"
        });
        if let Some((claimed, ..)) = again {
            let text = format!("the guard knew that {id} was handled, and let it run again");
            findings.push(Finding::about("guard", id, *claimed, text));
            return;
        }
    }
    for run in &story.runs {
        let claimed = story
            .claims
            .iter()
            .any(|(event, life, .., answer)| *life == run.life && *event < run.event && *answer == "fresh");
        if !claimed {
            let text = format!("{id} was run without a claim");
            findings.push(Finding::about("guard", id, run.event, text));
            return;
        }
    }
}

/// What is given back by a drain or a timely revocation is no redelivery; only a lost session is.
fn blame(index: &Index<'_>, id: &ByteString, story: &Story<'_>, findings: &mut Vec<Finding>) {
    for (number, second) in story.deliveries.iter().enumerate() {
        let token = second.what.token;
        let place = |other: crate::driver::Token| (other.lane, other.major);
        let before = story.deliveries.iter().take(number).rev();
        let Some(first) = before.into_iter().find(|one| place(one.what.token) == place(token)) else { continue };
        let rise = second.what.redeliveries.saturating_sub(first.what.redeliveries);
        let ended = index.session_ended(first.life, token.lane, first.event, second.event);
        let asked = story.settlements.iter().any(|one| one.how == SettledHow::Requeue && one.is_durable());
        if rise > 1 || (rise == 1 && !ended && !asked) {
            let text = format!("{id} was given back in good order, and counts as a redelivery");
            findings.push(Finding::about("blame", id, second.event, text));
            return;
        }
    }
}
