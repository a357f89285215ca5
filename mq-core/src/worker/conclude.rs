//! What follows from a run: settlements, retries, dead letters, and the way on of the lane.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::dead_letter::DeadLetterReason;
use crate::event::WorkerEvent;
use crate::retry::round_up;
use crate::worker::context::{Cancel, Context};
use crate::worker::gate::OnFailure;
use crate::worker::judge::{Decision, Signal};
use crate::worker::lanes::Finish;
use crate::worker::outbox::Outbox;
use crate::worker::pipeline::{Slot, Verdict};
use crate::worker::republish;
use crate::worker::shared::Shared;

/// Draws the consequences of a run: settlements into `outbox`, the lanes' next steps into `slot.ended`.
pub(crate) fn conclude(shared: &Arc<Shared>, slot: &mut Slot, outbox: &mut Outbox) {
    if std::mem::take(&mut slot.plain) {
        return plain(shared, slot, outbox);
    }
    for (context, verdict) in slot.done.drain(..) {
        let finish = one(shared, context, verdict, outbox);
        slot.ended.push(finish);
    }
}

/// The way of most messages: handled, and nothing else.
fn plain(shared: &Shared, slot: &mut Slot, outbox: &mut Outbox) {
    shared.control.counts.handled.add(slot.batch.len());
    succeeded(shared);
    while let Some(context) = slot.batch.pop() {
        if context.0.key.is_some() {
            slot.ended.push(Finish::Free(context.0.key));
        }
        settle_ack(shared, context, outbox);
    }
}

/// A handler knew what it said.
fn succeeded(shared: &Shared) {
    if shared.gate().success() {
        tracing::info!("a handler succeeded again; the worker goes on");
        shared.event(&WorkerEvent::BreakerClosed);
    }
}

fn one(shared: &Arc<Shared>, context: Context, verdict: Verdict, outbox: &mut Outbox) -> Finish {
    let counts = &shared.control.counts;
    let free = Finish::Free(context.0.key);
    match verdict {
        Verdict::Decided(decided_so) => {
            let (decision, signal) = *decided_so;
            return decided(shared, context, decision, signal, outbox);
        }
        Verdict::Duplicate => {
            counts.duplicates.one();
            shared.event(&WorkerEvent::Duplicate(&context));
            settle_ack(shared, context, outbox);
        }
        Verdict::Deferred(delay) => {
            counts.deferred.one();
            let ordered = shared.keeps_order(&context);
            let delay = if ordered { delay } else { round_up(&shared.judge.tiers, delay) };
            shared.event(&WorkerEvent::Deferred { context: &context, delay });
            if ordered && context.cancel() > Cancel::No {
                // Its partition moves or the worker stops: it must not stay behind.
                give_back(shared, context, outbox);
                return free;
            }
            if ordered {
                let (attempt, until) = (context.attempt(), Instant::now() + delay);
                return Finish::Park { context, until, attempt, first_failed: None };
            }
            let attempt = context.attempt();
            republish::retry(shared, context, delay, attempt);
        }
        Verdict::NoId => {
            let error = "the message has no id, and the worker's guard needs one: set an id_extractor".to_owned();
            republish::dead_letter(shared, context, DeadLetterReason::Rejected, error);
        }
        Verdict::GiveBack if stays(shared, &context) => {
            republish::release_claim(shared, &context);
            let attempt = context.attempt();
            return Finish::Park { context, until: Instant::now(), attempt, first_failed: None };
        }
        Verdict::GiveBack => give_back(shared, context, outbox),
        Verdict::Lost => {
            if context.run().claim.is_some() {
                republish::give_back(shared, context, false);
            } else {
                shared.forget(context);
            }
        }
    }
    free
}

/// True when it was stopped although its partition and its worker go on: another message of its batch was cancelled, or
/// its claim was lost. Given back, it would come again behind the next of its key: it keeps its place instead.
fn stays(shared: &Shared, context: &Context) -> bool {
    matches!(context.cancel(), Cancel::No | Cancel::Overdue) && !shared.stopping.load(Ordering::Acquire)
}

fn decided(shared: &Arc<Shared>, context: Context, decision: Decision, signal: Signal, outbox: &mut Outbox) -> Finish {
    let counts = &shared.control.counts;
    let free = Finish::Free(context.0.key);
    match signal {
        Signal::Answered => succeeded(shared),
        Signal::Neutral => shared.gate().no_answer(),
        Signal::Unknown => {
            if let Some(finish) = unknown(shared, &context) {
                return finish;
            }
        }
    }
    match decision {
        Decision::Handled => {
            counts.handled.one();
            settle_ack(shared, context, outbox);
        }
        Decision::Discard(error) => {
            counts.discarded.one();
            shared.event(&WorkerEvent::Discarded { context: &context, error: &error });
            settle_ack(shared, context, outbox);
        }
        // At most once: it was acknowledged before it was run.
        Decision::Retry(_, error) | Decision::DeadLetter(_, error) if shared.auto_ack => {
            counts.failed.one();
            tracing::warn!(%error, "a handler failed; the message was acknowledged at receipt and is gone");
            shared.forget(context);
        }
        Decision::Retry(delay, error) => {
            counts.retried.one();
            shared.event(&WorkerEvent::Retrying { context: &context, delay, error: &error });
            let attempt = context.attempt().saturating_add(1);
            if !shared.keeps_order(&context) {
                republish::retry(shared, context, delay, attempt);
                return free;
            }
            let now = shared.clock.now();
            if context.cancel() > Cancel::No {
                // Stopping: recorded as failed, then given back for whoever comes next.
                republish::record(shared, outbox, context.token(), attempt, now + delay);
                give_back(shared, context, outbox);
                return free;
            }
            if shared.group.is_some() {
                republish::record(shared, outbox, context.token(), attempt, now + delay);
            }
            republish::release_claim(shared, &context);
            let first_failed = Some(context.0.first_failed.unwrap_or(now));
            return Finish::Park { context, until: Instant::now() + delay, attempt, first_failed };
        }
        Decision::DeadLetter(reason, error) => {
            tracing::debug!(%reason, %error, "a message is set aside");
            republish::dead_letter(shared, context, reason, error);
        }
    }
    free
}

/// An unknown error: does the breaker keep the message?
fn unknown(shared: &Arc<Shared>, context: &Context) -> Option<Finish> {
    if shared.auto_ack {
        return None;
    }
    match shared.gate().failure(context.0.trials) {
        OnFailure::Treat => return None,
        OnFailure::Keep => {}
        OnFailure::Opened { failures, wait } => {
            tracing::error!(failures, probe_in = ?wait, "unknown errors in a row; the worker pauses");
            shared.event(&WorkerEvent::BreakerOpened { failures, probe_in: wait });
        }
    }
    // Stopping, it would not run again here: its error is what it says.
    if context.cancel() > Cancel::No {
        return None;
    }
    republish::release_claim(shared, context);
    Some(Finish::Again(context.clone()))
}

/// Acknowledges it, unless that was done at receipt.
pub(crate) fn settle_ack(shared: &Shared, context: Context, outbox: &mut Outbox) {
    if shared.auto_ack { shared.forget(context) } else { outbox.ack(context) }
}

/// Gives it back without blame, its claim first.
pub(crate) fn give_back(shared: &Arc<Shared>, context: Context, outbox: &mut Outbox) {
    if shared.auto_ack {
        shared.forget(context);
        return;
    }
    shared.control.counts.released.one();
    if context.run().claim.is_some() {
        republish::give_back(shared, context, true);
    } else {
        outbox.release(context);
    }
}
