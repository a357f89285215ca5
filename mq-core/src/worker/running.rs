//! The handler's future: polled in place, with its timeout, its leases, and an ear for cancellation.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use crate::handler::{Handler, Outcome};
use crate::worker::claims;
use crate::worker::context::{Cancel, Context};
use crate::worker::outbox::Outbox;
use crate::worker::shared::Shared;

/// How a run of the handler ended.
pub(crate) enum End {
    /// By itself.
    Answered,
    /// It panicked, with this text.
    Panicked(String),
    /// Its time was up.
    TimedOut(Duration),
    /// The worker stops, or the message is no longer ours.
    Cancelled,
}

/// Runs `handler` on `batch`. A handler that is ready at once costs no timer and no wake.
pub(crate) async fn run<H: Handler>(
    shared: &Arc<Shared>,
    handler: &H,
    batch: &[Context],
    outcomes: &mut Vec<Outcome>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    signal: Option<&Notify>,
) -> End {
    outcomes.clear();
    let deadline = shared.timeout.map(|limit| Instant::now() + limit);
    if deadline.is_some() {
        for context in batch {
            context.run().deadline = deadline;
        }
    }
    // In a block of its own: a handler that panics before its first await is caught as well.
    let work = async { handler.handle(batch, outcomes).await };
    let mut work = std::pin::pin!(work);
    let span = span(shared, batch);
    match poll_fn(|task| Poll::Ready(poll_caught(work.as_mut(), task, &span))).await {
        Ok(Poll::Ready(())) => return End::Answered,
        Err(panic) => return End::Panicked(panic),
        Ok(Poll::Pending) => {}
    }
    let renewal = renewal(shared);
    let mut renew_at = renewal.map(|every| Instant::now() + every);
    loop {
        let wake_at = [deadline, renew_at].into_iter().flatten().min();
        let timer = wake_at.map(|at| {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            timer.as_mut().reset(at);
            timer.as_mut()
        });
        match attend(work.as_mut(), &span, batch, signal, timer).await {
            Some(end) => return end,
            None => {
                let now = Instant::now();
                if let (Some(limit), Some(deadline)) = (shared.timeout, deadline)
                    && deadline <= now
                {
                    return End::TimedOut(limit);
                }
                if let (Some(every), Some(at)) = (renewal, renew_at)
                    && at <= now
                {
                    renew(shared, batch);
                    renew_at = Some(now + every);
                }
            }
        }
    }
}

/// Waits until the handler ends, is cancelled, or (`None`) the timer fires.
async fn attend<F: Future<Output = ()>>(
    mut work: Pin<&mut F>,
    span: &Span,
    batch: &[Context],
    signal: Option<&Notify>,
    mut timer: Option<Pin<&mut Sleep>>,
) -> Option<End> {
    loop {
        if batch.iter().any(|context| context.cancel() >= Cancel::Overdue) {
            return Some(End::Cancelled);
        }
        let notified = async {
            match signal {
                Some(signal) => signal.notified().await,
                None => std::future::pending().await,
            }
        };
        let mut notified = std::pin::pin!(notified);
        let woken = poll_fn(|task| {
            match poll_caught(work.as_mut(), task, span) {
                Ok(Poll::Ready(())) => return Poll::Ready(Some(Some(End::Answered))),
                Err(panic) => return Poll::Ready(Some(Some(End::Panicked(panic)))),
                Ok(Poll::Pending) => {}
            }
            if notified.as_mut().poll(task).is_ready() {
                return Poll::Ready(None);
            }
            match timer.as_mut().map(|timer| timer.as_mut().poll(task)) {
                Some(Poll::Ready(())) => Poll::Ready(Some(None)),
                _ => Poll::Pending,
            }
        })
        .await;
        if let Some(end) = woken {
            return end;
        }
    }
}

/// Polls within `span`, if anybody listens, and catches panics.
fn poll_caught<F: Future>(
    work: Pin<&mut F>,
    task: &mut TaskContext<'_>,
    span: &Span,
) -> Result<Poll<F::Output>, String> {
    let _entered = (!span.is_disabled()).then(|| span.enter());
    // Whatever the panic left behind belongs to the handler's future, which is dropped and never polled again.
    catch_unwind(AssertUnwindSafe(|| work.poll(task))).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "(no message)".to_owned(),
    }
}

/// How often leases must be renewed; `None` when there are none.
fn renewal(shared: &Shared) -> Option<Duration> {
    let guard = shared.guard.is_some().then_some(shared.guard_lease);
    [shared.lease, guard].into_iter().flatten().min().map(|lease| (lease / 3).max(Duration::from_millis(1)))
}

/// Makes the broker's lease and the guard's claim last, for each message of the batch.
fn renew(shared: &Arc<Shared>, batch: &[Context]) {
    if let Some(lease) = shared.lease {
        let mut outbox = Outbox::default();
        for context in batch {
            outbox.extend(context.token(), lease);
        }
        shared.outgoing.push(&mut outbox);
    }
    if shared.guard.is_some() {
        for context in batch {
            claims::extend(shared, context);
        }
    }
}

/// The span of one run: no cost when nobody listens.
fn span(shared: &Shared, batch: &[Context]) -> Span {
    let Some(first) = batch.first() else { return Span::none() };
    tracing::debug_span!(
        target: "mq::worker",
        "process",
        messaging.system = shared.broker.name(),
        messaging.operation.type = "process",
        messaging.destination.name = first.message().topic().as_str(),
        messaging.consumer.group.name = shared.group.as_ref().map(|group| group.as_str()),
        messaging.message.id = first.message().message_id().map(|id| id.as_str()),
        messaging.batch.message_count = batch.len(),
        attempt = first.attempt(),
        traceparent = first.traceparent(),
    )
}
