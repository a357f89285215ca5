//! Settlements are true: settled means that the outcome is durable, and what is no longer ours settles nothing.

use crate::memory::SettledHow;
use crate::testing::fault::Fault;
use crate::testing::history::What;
use crate::testing::judge::Finding;
use crate::testing::judge::index::{Index, Run};

pub(super) fn judge(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for ((service, id), story) in &index.stories {
        if index.service(*service).is_some_and(|service| service.auto_ack) {
            continue;
        }
        for settlement in story.settlements.iter().filter(|settlement| settlement.is_durable()) {
            let done = |run: &&Run<'_>| run.is_success() && run.end_event() < settlement.event;
            if settlement.how == SettledHow::Ack && !story.runs.iter().any(|run| done(&run)) {
                let text = format!("{id} was acknowledged before anybody had handled it");
                findings.push(Finding::about("ack", id, settlement.event, text));
            }
            let delivered = story
                .deliveries
                .iter()
                .filter(|one| one.life == settlement.life && one.what.token == settlement.token)
                .map(|one| one.event)
                .next_back();
            if let Some(delivered) = delivered
                && ended_for_all(index, settlement.life, settlement.token.lane, delivered, settlement.event)
            {
                let text = format!("{id} was settled by a delivery of a session that had ended");
                findings.push(Finding::about("stale", id, settlement.event, text));
            }
        }
    }
    stopped(index, findings);
    workers(index, findings);
}

/// What a worker has lost it stops at once, and does not begin any more.
fn stopped(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (number, event) in index.events.iter().enumerate() {
        let lanes = match &event.what {
            What::Disconnected => None,
            What::Lost(lanes) => Some(lanes),
            _ => continue,
        };
        for ((_, id), story) in &index.stories {
            let goes_on = story.runs.iter().find(|run| {
                Some(run.life) == event.life
                    && run.delivered < number
                    && lanes.is_none_or(|lanes| lanes.contains(&run.delivery.token.lane))
                    && (run.event > number || (run.end_event() > number && index.at(run.end_event()) > event.at))
            });
            if let Some(run) = goes_on {
                let text = format!("{id} was no longer this worker's, and its handler ran on or began");
                findings.push(Finding::about("lost", id, run.event.max(number), text));
                return;
            }
        }
    }
}

/// True when the session has certainly ended: a cut, an eviction, a loss the worker was told of.
fn ended_for_all(index: &Index<'_>, life: crate::testing::history::Life, lane: u32, from: usize, to: usize) -> bool {
    index.events.iter().take(to).skip(from).any(|event| match &event.what {
        What::Fault(Fault::Disconnect { .. } | Fault::Evict) => true,
        What::Lost(lanes) => event.life == Some(life) && lanes.contains(&lane),
        _ => false,
    })
}

/// A worker ends when it is told to, or when its session is.
fn workers(index: &Index<'_>, findings: &mut Vec<Finding>) {
    for (number, event) in index.events.iter().enumerate() {
        let (Some(life), What::Ended { error }) = (event.life, &event.what) else { continue };
        let before = || index.events.iter().take(number);
        let told = before().any(|event| event.life == Some(life) && matches!(event.what, What::Stopping));
        let evicted = before()
            .rev()
            .take_while(|event| event.life != Some(life) || !matches!(event.what, What::Started))
            .any(|event| matches!(event.what, What::Fault(Fault::Evict | Fault::Stall { .. } | Fault::Freeze { .. })));
        match error {
            None if !told => findings.push(Finding::new("worker", None, number, format!("{life} ended by itself"))),
            Some(error) if !evicted => {
                findings.push(Finding::new("worker", None, number, format!("{life} ended: {error}")));
            }
            _ => {}
        }
    }
}
