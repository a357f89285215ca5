//! The life of a worker: run, drain, leave.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::handler::Handler;
use crate::worker::conclude::conclude;
use crate::worker::coordinator::Coordinator;
use crate::worker::outbox::{self, Outbox};
use crate::worker::pipeline::{Pipeline, Slot};
use crate::worker::service::task_ended;
use crate::worker::shared::Shared;
use crate::worker::summary::{Ended, Summary};

/// Messages taken at once, and settlements gathered before they are queued.
const GATHER: usize = 64;
/// What flushing and leaving may take at least, also when handlers used up the drain limit.
const LEAVE: Duration = Duration::from_secs(5);

/// Runs a worker to its end.
pub(crate) async fn drive<H: Handler>(mut coordinator: Coordinator<H>) -> Result<Summary> {
    let shared = Arc::clone(coordinator.shared());
    let mut tasks = JoinSet::new();
    tasks.spawn(outbox::run(Arc::clone(&shared)));
    if !shared.sequential {
        for index in 0..shared.signals.len() {
            tasks.spawn(lane(Arc::clone(&coordinator.pipeline), index));
        }
    }
    let mut slot = Slot::new(0);
    let mut outbox = Outbox::default();
    let mut fatal = None;
    while coordinator.stopping.is_none() {
        let mut step = run_here(&mut coordinator, &mut slot, &mut outbox).await;
        if step.is_ok() && coordinator.stopping.is_none() {
            step = coordinator.step(true).await;
        }
        if let Some(Err(error)) = tasks.try_join_next() {
            step = Err(task_ended(&error));
        }
        if let Err(error) = step {
            fatal = fatal.or(Some(error));
            coordinator.stop(Ended::Shutdown);
        }
        // A broker that always has messages must not keep the runtime from others.
        tokio::task::coop::consume_budget().await;
    }
    let left = drain(&mut coordinator, &mut slot, &mut outbox).await;
    let result = leave(coordinator, &shared, tasks).await;
    match (fatal.or(left), result) {
        (Some(error), _) => Err(error.with_operation("receive")),
        (None, result) => result,
    }
}

/// Runs what is ready in this very task, when the worker is sequential: no task, no channel, no wake for a message whose
/// handler is ready at once.
async fn run_here<H: Handler>(coordinator: &mut Coordinator<H>, slot: &mut Slot, outbox: &mut Outbox) -> Result<()> {
    let pipeline = Arc::clone(&coordinator.pipeline);
    let shared = &pipeline.shared;
    if !shared.sequential {
        return Ok(());
    }
    let size = pipeline.handler.batch_size();
    // With lanes, one at a time: what it becomes decides what may run next.
    let most = if coordinator.intake.keyed { size } else { size.max(GATHER) };
    let mut result = Ok(());
    while shared.turn(slot, most, outbox) {
        while slot.next(size) {
            {
                let left = slot.queue.len() + slot.batch.len();
                let mut work = pin!(pipeline.run(slot));
                if poll_once(work.as_mut()).await.is_pending() {
                    // It takes a while: meanwhile send what is done, and mind the subscription.
                    shared.lanes().keep_last(0, left);
                    shared.outgoing.push(outbox);
                    loop {
                        tokio::select! {
                            biased;
                            () = &mut work => break,
                            stepped = coordinator.step(false) => result = result.and(stepped),
                        }
                    }
                }
            }
            conclude(shared, slot, outbox);
        }
    }
    shared.outgoing.push(outbox);
    result
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await
}

/// One of several slots, in a task of its own.
async fn lane<H: Handler>(pipeline: Arc<Pipeline<H>>, index: usize) {
    let shared = &pipeline.shared;
    let size = pipeline.handler.batch_size();
    let mut slot = Slot::new(index);
    let mut outbox = Outbox::default();
    loop {
        if shared.turn(&mut slot, size, &mut outbox) && slot.next(size) {
            pipeline.run(&mut slot).await;
            conclude(shared, &mut slot, &mut outbox);
            continue;
        }
        shared.poke();
        let mut work = pin!(shared.work.notified());
        work.as_mut().enable();
        if !shared.lanes().has_ready() {
            work.await;
        }
    }
}

/// Waits until what runs has finished or was cancelled, and everything is settled.
async fn drain<H: Handler>(coordinator: &mut Coordinator<H>, slot: &mut Slot, outbox: &mut Outbox) -> Option<Error> {
    let shared = Arc::clone(coordinator.shared());
    let deadline = coordinator.stopping.map_or_else(Instant::now, |(_, deadline)| deadline);
    let settled_by = deadline.max(Instant::now() + LEAVE) + LEAVE;
    let mut failed = None;
    loop {
        // A sequential worker may have taken something in between.
        if shared.sequential && shared.lanes().has_ready() {
            failed = run_here(coordinator, slot, outbox).await.err().or(failed);
            continue;
        }
        shared.attentive.store(true, Ordering::Release);
        let idle = {
            let lanes = shared.lanes();
            lanes.idle() && !lanes.has_ready()
        };
        if idle && shared.outgoing.idle() && shared.side.idle(|_| true) {
            return failed;
        }
        match tokio::time::timeout_at(settled_by, coordinator.step(false)).await {
            Ok(stepped) => failed = failed.or(stepped.err()),
            Err(_) => {
                tracing::warn!("settlements were not confirmed in time; their messages come again");
                shared.side.abort();
                return failed;
            }
        }
    }
}

/// Flushes and leaves the group.
async fn leave<H: Handler>(
    coordinator: Coordinator<H>,
    shared: &Arc<Shared>,
    mut tasks: JoinSet<()>,
) -> Result<Summary> {
    let (ended, deadline) = coordinator.stopping.unwrap_or((Ended::Shutdown, Instant::now()));
    shared.outgoing.close();
    let left = || deadline.saturating_duration_since(Instant::now()).max(LEAVE);
    // Handled is handled: what the broker was not told of comes again, as after any lost connection, and is no failure of
    // the worker. Whoever watches is told.
    if let Err(error) = shared.settler.flush(left()).await {
        shared.settle_failed("flush", &error, None);
    }
    if let Some(producer) = shared.producer.get()
        && let Err(error) = producer.close().await
    {
        // Every follow-up was confirmed before its message was acknowledged.
        tracing::debug!(%error, "the producer of follow-ups did not close cleanly");
    }
    let closed = coordinator.consumer.close(left()).await;
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    match closed {
        // Everything is handled, and settled as far as the broker let us: others take over a little later, that is all.
        Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) => {
            tracing::warn!(%error, "the worker could not say good-bye to its group");
        }
        closed => closed.map_err(|error| error.with_operation("stop worker"))?,
    }
    Ok(shared.control.counts.summary(ended))
}
