//! One run of the handler: gate, rate, claims, handler, follow-ups, completion; in this order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::error::Result;
use crate::event::WorkerEvent;
use crate::handler::{Class, Handler, HandlerError, Outcome};
use crate::worker::claims;
use crate::worker::context::{Cancel, Context};
use crate::worker::judge::{Decision, Signal};
use crate::worker::lanes::Finish;
use crate::worker::running::{self, End};
use crate::worker::shared::Shared;

/// The handler with everything around it.
pub(crate) struct Pipeline<H> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handler: H,
}

/// What became of a message in its run.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The handler answered. Boxed: successes without more to do never get here.
    Decided(Box<(Decision, Signal)>),
    /// The guard knows it as handled.
    Duplicate,
    /// Somebody else is handling it: again after this long, without an attempt spent.
    Deferred(Duration),
    /// It has no id, and the guard needs one.
    NoId,
    /// It was not handled, and goes back without blame.
    GiveBack,
    /// It is no longer ours.
    Lost,
}

/// The place one batch runs in; its memory is used again for the next.
pub(crate) struct Slot {
    pub(crate) index: usize,
    /// Taken and not yet started.
    pub(crate) queue: VecDeque<Context>,
    /// Being handled.
    pub(crate) batch: Vec<Context>,
    /// The batch is handled, and only to be acknowledged.
    pub(crate) plain: bool,
    pub(crate) done: Vec<(Context, Verdict)>,
    pub(crate) ended: Vec<Finish>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) timer: Option<Pin<Box<Sleep>>>,
}

impl Slot {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            queue: VecDeque::new(),
            batch: Vec::new(),
            plain: false,
            done: Vec::new(),
            ended: Vec::new(),
            outcomes: Vec::new(),
            timer: None,
        }
    }

    /// Makes the next up to `size` messages of the queue the batch; false when there are none.
    pub(crate) fn next(&mut self, size: usize) -> bool {
        while self.batch.len() < size {
            let Some(context) = self.queue.pop_front() else { break };
            self.batch.push(context);
        }
        !self.batch.is_empty()
    }

    /// Every handler succeeded and left nothing else to do: the batch needs only to be acknowledged.
    fn is_plain(&self) -> bool {
        self.outcomes.len() == self.batch.len()
            && self.outcomes.iter().all(Result::is_ok)
            && self.batch.iter().all(|context| context.run().close_plain())
    }

    /// Ends every message of the batch the same way, except those that are lost.
    fn end_all(&mut self, verdict: impl Fn() -> Verdict) {
        for context in self.batch.drain(..) {
            let verdict = if context.cancel() == Cancel::Lost { Verdict::Lost } else { verdict() };
            self.done.push((context, verdict));
        }
    }
}

impl<H: Handler> Pipeline<H> {
    /// Runs the batch of `slot`: each of its messages ends up in `slot.done`, unless all of it is plain.
    pub(crate) async fn run(&self, slot: &mut Slot) {
        let shared = &*self.shared;
        let signal = shared.signals.get(slot.index);
        if (!shared.gate().is_open() || shared.control.limiter.is_limited()) && !self.may_start(slot, signal).await {
            shared.gate().no_answer();
            slot.end_all(|| Verdict::GiveBack);
            return;
        }
        if shared.guard.is_some() {
            claims::claim(&self.shared, slot, signal).await;
            if slot.batch.is_empty() {
                shared.gate().no_answer();
                return;
            }
        }
        if slot.batch.iter().any(|context| context.cancel() > Cancel::No) {
            shared.gate().no_answer();
            slot.end_all(|| Verdict::GiveBack);
            return;
        }
        let started = shared.observer.is_some().then(Instant::now);
        let Slot { batch, outcomes, timer, .. } = slot;
        let end = running::run(&self.shared, &self.handler, batch, outcomes, timer, signal).await;
        match end {
            End::Answered if shared.guard.is_none() && started.is_none() && slot.is_plain() => {
                slot.plain = true;
                return;
            }
            End::Answered => {}
            End::Panicked(panic) => {
                let missing = slot.batch.len().saturating_sub(slot.outcomes.len());
                tracing::error!(panic, "a handler panicked; the worker goes on");
                let text = format!("the handler panicked: {panic}");
                slot.outcomes.extend((0..missing).map(|_| Err(HandlerError::unknown(text.clone()))));
            }
            End::TimedOut(limit) => return self.timed_out(slot, limit),
            End::Cancelled => {
                for context in &slot.batch {
                    shared.control.counts.cancelled.one();
                    shared.event(&WorkerEvent::Cancelled(context));
                }
                shared.gate().no_answer();
                slot.end_all(|| Verdict::GiveBack);
                return;
            }
        }
        self.answered(slot, signal, started).await;
    }

    /// Waits for the gate and the rate; false when the batch was cancelled meanwhile.
    async fn may_start(&self, slot: &Slot, signal: Option<&Notify>) -> bool {
        let gate = self.shared.gate();
        let limiter = &self.shared.control.limiter;
        loop {
            if !gate.is_open() && unless_cancelled(&slot.batch, signal, Cancel::Stop, gate.pass()).await.is_none() {
                return false;
            }
            let Err(wait) = limiter.take(slot.batch.len()) else { return true };
            let wait = tokio::time::sleep(wait);
            if unless_cancelled(&slot.batch, signal, Cancel::Stop, wait).await.is_none() {
                return false;
            }
        }
    }

    /// The handler took too long: every message without an answer is a retry.
    fn timed_out(&self, slot: &mut Slot, limit: Duration) {
        self.shared.gate().no_answer();
        for context in slot.batch.drain(..) {
            drop(context.run().finish());
            let (decision, signal) = self.shared.judge.timed_out(context.attempt(), limit);
            slot.done.push((context, Verdict::Decided(Box::new((decision, signal)))));
        }
        slot.outcomes.clear();
    }

    /// The handler answered: sends follow-ups, judges failures, completes claims.
    async fn answered(&self, slot: &mut Slot, signal: Option<&Notify>, started: Option<Instant>) {
        let shared = &*self.shared;
        let mut class = Class::Unknown;
        let mut outcomes = std::mem::take(&mut slot.outcomes);
        let mut batch = std::mem::take(&mut slot.batch);
        let mut answers = outcomes.drain(..);
        for context in batch.drain(..) {
            let outcome = answers.next().unwrap_or_else(|| Err(HandlerError::unknown("the handler gave no outcome")));
            let follow_ups = context.run().finish();
            let outcome = match outcome {
                Ok(()) if !follow_ups.is_empty() => {
                    let only = std::slice::from_ref(&context);
                    let sent = unless_cancelled(only, signal, Cancel::Overdue, send(shared, follow_ups)).await;
                    match sent {
                        Some(sent) => sent.map_err(HandlerError::retry),
                        None => {
                            shared.gate().no_answer();
                            let lost = context.cancel() == Cancel::Lost;
                            slot.done.push((context, if lost { Verdict::Lost } else { Verdict::GiveBack }));
                            continue;
                        }
                    }
                }
                outcome => outcome,
            };
            let (decision, means) = match outcome {
                Ok(()) => (Decision::Handled, Signal::Answered),
                Err(error) => shared.judge.judge(error, context.attempt(), &mut class),
            };
            if shared.guard.is_some() && matches!(decision, Decision::Handled | Decision::Discard(_)) {
                claims::complete(shared, &context, signal).await;
            }
            if let (Some(started), Decision::Handled) = (started, &decision) {
                shared.event(&WorkerEvent::Handled { context: &context, took: started.elapsed() });
            }
            slot.done.push((context, Verdict::Decided(Box::new((decision, means)))));
        }
        drop(answers);
        slot.outcomes = outcomes;
        slot.batch = batch;
    }
}

/// Sends follow-ups and waits for their confirmation.
async fn send(shared: &Shared, messages: Vec<crate::message::Message>) -> Result<()> {
    let producer = shared.producer().await?;
    for sent in producer.send_batch(messages).await {
        sent.map_err(|error| crate::error::Error::from(error).with_operation("send a follow-up"))?;
    }
    Ok(())
}

/// The output of `future`, or `None` when one of `batch` was cancelled at least as far as `how`.
pub(crate) async fn unless_cancelled<F: Future>(
    batch: &[Context],
    signal: Option<&Notify>,
    how: Cancel,
    future: F,
) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    loop {
        if batch.iter().any(|context| context.cancel() >= how) {
            return None;
        }
        let Some(signal) = signal else { return Some(future.await) };
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            () = signal.notified() => {}
        }
    }
}
