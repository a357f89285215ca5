//! Retries, dead letters, and settlements that failed: tried until the broker has confirmed them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;

use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetterRecord, MAX_ERROR, cut};
use crate::driver::{DeadLettering, Hold, Retry, Settle, Settled, Settlement, Token};
use crate::error::{Error, Result, Retryability};
use crate::event::WorkerEvent;
use crate::guard::Claim;
use crate::message::Message;
use crate::worker::context::Context;
use crate::worker::outbox::{Outbox, remember, unanswered};
use crate::worker::shared::Shared;
use crate::worker::side::spawn;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Tries of what only prevents a duplicate; after them the broker delivers the message again.
const TRIES: u32 = 8;

/// Stores a copy that becomes due after `delay`, as attempt number `attempt`; then releases the guard's claim.
pub(crate) fn retry(shared: &Arc<Shared>, context: Context, delay: Duration, attempt: u32) {
    let now = shared.clock.now();
    let due = now + delay;
    let failed = attempt > context.attempt();
    let lane = context.token().lane;
    let task = {
        let shared = Arc::clone(shared);
        async move {
            let make = || {
                Settle::Retry(Box::new(Retry {
                    message: named(&context),
                    delay,
                    due,
                    attempt,
                    first_failed: context.0.first_failed.or(failed.then_some(now)),
                    redrives: context.control().redrives,
                }))
            };
            match until_settled(&shared, "retry", context.token(), u32::MAX, make).await {
                Ok(_) => {
                    release(&shared, claim(&context)).await;
                    shared.forget(context);
                }
                // It can never be stored as a retry (too large with the headers it needs, say): set it aside.
                Err(error) => {
                    dead_letter_now(&shared, context, DeadLetterReason::Rejected, &error.to_string()).await;
                }
            }
        }
    };
    spawn(shared, lane, task);
}

/// Stores it among the dead letters; then tells the guard and the hook.
pub(crate) fn dead_letter(shared: &Arc<Shared>, context: Context, reason: DeadLetterReason, error: String) {
    let lane = context.token().lane;
    let task = {
        let shared = Arc::clone(shared);
        async move { dead_letter_now(&shared, context, reason, &error).await }
    };
    spawn(shared, lane, task);
}

async fn dead_letter_now(shared: &Arc<Shared>, context: Context, reason: DeadLetterReason, error: &str) {
    let settled = match &shared.group {
        Some(group) => {
            let now = shared.clock.now();
            let record = DeadLetterRecord {
                reason,
                error: cut(error, MAX_ERROR).to_owned(),
                attempts: context.attempt(),
                first_failed: context.0.first_failed.or(Some(now)),
                failed: now,
                topic: context.message().topic().clone(),
                group: group.clone(),
                position: context.position().clone(),
                redrives: context.control().redrives,
            };
            let make = || {
                let (message, position) = (named(&context), context.position().clone());
                Settle::DeadLetter(Box::new(DeadLettering { message, record: record.clone(), position }))
            };
            let settled = until_settled(shared, "dead letter", context.token(), u32::MAX, make).await;
            hook(shared, &context, Some(record), &settled).await;
            settled
        }
        // A broadcast subscription ends with this worker: nobody could read its dead letters.
        None => {
            let settled = until_settled(shared, "ack", context.token(), TRIES, || Settle::Ack).await;
            hook(shared, &context, None, &settled).await;
            settled
        }
    };
    if matches!(settled, Ok(Settled::Durable | Settled::Sent)) {
        shared.control.counts.dead_lettered.one();
        shared.event(&WorkerEvent::DeadLettered { context: &context, reason, error });
        if let (Some(guard), Some(claim)) = (&shared.guard, claim(&context)) {
            // The redrive has a scope of its own: a store that is down now does no harm.
            if let Err(error) = guard.dead_lettered(&claim).await {
                tracing::debug!(%error, "the guard was not told of a dead letter");
            }
        }
    }
    shared.forget(context);
}

/// Runs the user's compensation once the dead letter is confirmed.
async fn hook(shared: &Shared, context: &Context, record: Option<DeadLetterRecord>, settled: &Result<Settled>) {
    let (Some(hook), Ok(Settled::Durable | Settled::Sent)) = (&shared.on_dead_letter, settled) else { return };
    let letter = DeadLetter { message: context.message().clone(), record, position: context.position().clone() };
    let running = std::panic::AssertUnwindSafe(async { hook(letter).await });
    if running.catch_unwind().await.is_err() {
        tracing::error!("the dead-letter hook panicked; the dead letter itself is stored");
    }
}

/// Sends an acknowledgement again that failed with `error`. The message was handled, and is remembered as such.
pub(crate) fn ack_again(shared: &Arc<Shared>, mut context: Context, error: Error) {
    let lane = context.token().lane;
    let task = {
        let shared = Arc::clone(shared);
        async move {
            shared.settle_failed("ack", &error, Some(FIRST_WAIT));
            tokio::time::sleep(FIRST_WAIT).await;
            let settled = until_settled(&shared, "ack", context.token(), TRIES, || Settle::Ack).await;
            remember(&mut shared.handled(), &mut context, settled.unwrap_or(Settled::Stale));
            shared.forget(context);
        }
    };
    spawn(shared, lane, task);
}

/// Records a failed attempt of a message that is held. While an earlier record of it is being tried again, that one
/// takes this attempt over: two on their way could arrive in the wrong order, and the attempt would be reset.
pub(crate) fn record(shared: &Shared, outbox: &mut Outbox, token: Token, attempt: u32, due: SystemTime) {
    match shared.unrecorded().get_mut(&token) {
        Some(latest) => *latest = (attempt, due),
        None => outbox.hold(token, attempt, due),
    }
}

/// Records an attempt again whose record failed with `error`; meanwhile the message waits in memory all the same.
pub(crate) fn hold_again(shared: &Arc<Shared>, token: Token, attempt: u32, due: SystemTime, error: Error) {
    if shared.unrecorded().insert(token, (attempt, due)).is_some() {
        return;
    }
    let task = {
        let shared = Arc::clone(shared);
        async move {
            shared.settle_failed("hold", &error, Some(FIRST_WAIT));
            tokio::time::sleep(FIRST_WAIT).await;
            let latest = || shared.unrecorded().get(&token).copied().unwrap_or((attempt, due));
            loop {
                let sent = AtomicU32::new(attempt);
                let make = || {
                    let (attempt, due) = latest();
                    sent.store(attempt, Ordering::Relaxed);
                    Settle::Hold(Box::new(Hold { attempt, due }))
                };
                let settled = until_settled(&shared, "hold", token, TRIES, make).await;
                // Given up, the attempt is not durable: a crash would repeat it, nothing is lost.
                if settled.is_err() || latest().0 == sent.load(Ordering::Relaxed) {
                    shared.unrecorded().remove(&token);
                    return;
                }
            }
        }
    };
    spawn(shared, token.lane, task);
}

/// A record arrived. One of an earlier attempt that is being tried again may arrive behind it: then this one is sent
/// once more.
pub(crate) fn recorded(shared: &Shared, token: Token, attempt: u32, due: SystemTime) {
    if let Some(latest) = shared.unrecorded().get_mut(&token) {
        *latest = (*latest).max((attempt, due));
    }
}

/// Gives a message back unhandled whose claim must be released first, so that whoever gets it need not wait.
pub(crate) fn give_back(shared: &Arc<Shared>, context: Context, settle: bool) {
    let lane = context.token().lane;
    let task = {
        let shared = Arc::clone(shared);
        async move {
            release(&shared, claim(&context)).await;
            if settle {
                let _ = until_settled(&shared, "release", context.token(), 1, || Settle::Release).await;
            }
            shared.forget(context);
        }
    };
    spawn(shared, lane, task);
}

/// Releases the claim of a message that stays with us for another run.
pub(crate) fn release_claim(shared: &Arc<Shared>, context: &Context) {
    let Some(claim) = claim(context) else { return };
    let task = {
        let shared = Arc::clone(shared);
        async move { release(&shared, Some(claim)).await }
    };
    spawn(shared, context.token().lane, task);
}

/// Tries a settlement up to `tries` times, waiting longer each time, and raises the alarm at each failure. `Err` when
/// it was given up, or when trying again cannot help and there is another way.
async fn until_settled(
    shared: &Shared,
    action: &'static str,
    token: Token,
    tries: u32,
    make: impl Fn() -> Settle,
) -> Result<Settled> {
    let mut wait = FIRST_WAIT;
    let mut batch = Vec::with_capacity(1);
    let mut tried = 0;
    loop {
        batch.push(Settlement { token, action: make() });
        let result = shared.settler.settle(&mut batch).await.pop().unwrap_or_else(|| Err(unanswered()));
        batch.clear();
        let error = match result {
            Ok(settled) => {
                if settled == Settled::Stale {
                    shared.stale();
                }
                return Ok(settled);
            }
            Err(error) => error,
        };
        tried += 1;
        let hopeless = action == "retry" && error.retryability() == Retryability::Permanent;
        if tried >= tries || hopeless {
            shared.settle_failed(action, &error, None);
            return Err(error);
        }
        // Up to a quarter later, so that workers do not knock all at once when the broker is back.
        let jittered = wait.mul_f64(1.0 + 0.25 * fastrand::f64());
        shared.settle_failed(action, &error, Some(jittered));
        tokio::time::sleep(jittered).await;
        wait = (wait * 2).min(LONGEST_WAIT);
        if shared.stopping.load(Ordering::Acquire) {
            wait = wait.min(Duration::from_secs(1));
        }
    }
}

/// The message with the id it is known by, so that its copy, which stands elsewhere, has the same.
fn named(context: &Context) -> Message {
    let message = context.message().clone();
    match message.message_id() {
        Some(_) => message,
        None => message.with_id(context.id()),
    }
}

/// The guard's claim on this run, taken: it is released or completed once.
fn claim(context: &Context) -> Option<Claim> {
    context.run().claim.take()
}

/// Releases the claim, if there is one. A store that is down is not waited for: the claim's lease ends by itself.
async fn release(shared: &Shared, claim: Option<Claim>) {
    if let (Some(guard), Some(claim)) = (&shared.guard, claim)
        && let Err(error) = guard.release(&claim).await
    {
        tracing::debug!(%error, "a claim was not released; its lease ends by itself");
    }
}
