//! Settlements on their way to the driver: gathered, then sent in batches by one task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::driver::{Hold, Settle, Settled, Settlement, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::worker::context::Context;
use crate::worker::handled::Handled;
use crate::worker::republish;
use crate::worker::shared::Shared;

/// Settlements gathered in order, each with what belongs to it.
#[derive(Default)]
pub(crate) struct Outbox {
    settlements: Vec<Settlement>,
    entries: Vec<Entry>,
}

/// What belongs to a settlement.
enum Entry {
    /// The delivery ends with it.
    Ack(Context),
    /// The delivery ends with it, and nothing was handled.
    Release(Context),
    /// The delivery goes on: the attempt recorded, and when it is due.
    Hold(Box<(Token, u32, SystemTime)>),
    /// The delivery goes on.
    Extend,
}

impl Outbox {
    pub(crate) fn ack(&mut self, context: Context) {
        self.settlements.push(Settlement { token: context.token(), action: Settle::Ack });
        self.entries.push(Entry::Ack(context));
    }

    pub(crate) fn release(&mut self, context: Context) {
        self.settlements.push(Settlement { token: context.token(), action: Settle::Release });
        self.entries.push(Entry::Release(context));
    }

    pub(crate) fn hold(&mut self, token: Token, attempt: u32, due: SystemTime) {
        self.settlements.push(Settlement { token, action: Settle::Hold(Box::new(Hold { attempt, due })) });
        self.entries.push(Entry::Hold(Box::new((token, attempt, due))));
    }

    pub(crate) fn extend(&mut self, token: Token, lease: Duration) {
        self.settlements.push(Settlement { token, action: Settle::Extend(lease) });
        self.entries.push(Entry::Extend);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The queue before the settle task. Bounded by what was delivered: each delivery has few settlements.
#[derive(Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    queued: Outbox,
    /// The task is waiting for an answer.
    under_way: bool,
    /// Do not gather: the worker is stopping, or partitions are to be given back.
    hurry: bool,
    closed: bool,
}

impl Outgoing {
    /// Queues everything in `outbox`, which is empty afterwards, and wakes the task.
    pub(crate) fn push(&self, outbox: &mut Outbox) {
        if self.queue(outbox) {
            self.wake();
        }
    }

    /// Queues everything in `outbox`, which is empty afterwards; true when the task must be [woken](Self::wake).
    pub(crate) fn queue(&self, outbox: &mut Outbox) -> bool {
        if outbox.is_empty() {
            return false;
        }
        let mut state = self.state();
        let first = state.queued.is_empty();
        if first {
            std::mem::swap(&mut state.queued, outbox);
        } else {
            state.queued.settlements.append(&mut outbox.settlements);
            state.queued.entries.append(&mut outbox.entries);
        }
        first
    }

    /// Wakes the task: something was queued.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// True when nothing is queued or under way.
    pub(crate) fn idle(&self) -> bool {
        let state = self.state();
        state.queued.is_empty() && !state.under_way
    }

    /// Sends what is queued without gathering more, until called with false.
    pub(crate) fn hurry(&self, hurry: bool) {
        self.state().hurry = hurry;
        self.wake.notify_one();
    }

    /// Ends the task once it has sent what is queued.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// Moves what is queued into `outbox` (empty before); false when the queue is closed and empty.
    fn take(&self, outbox: &mut Outbox) -> bool {
        let mut state = self.state();
        std::mem::swap(&mut state.queued, outbox);
        state.under_way = !outbox.is_empty();
        !(state.closed && outbox.is_empty())
    }

    fn answered(&self) {
        self.state().under_way = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `max` are queued or `every` has passed since it was called.
    async fn gather(&self, max: usize, every: Duration) {
        let mut deadline = std::pin::pin!(tokio::time::sleep(every));
        let mut look = tokio::time::interval(every / 8 + Duration::from_millis(1));
        loop {
            {
                let state = self.state();
                if state.queued.len() >= max || state.closed || state.hurry {
                    return;
                }
            }
            // Only the first of a batch wakes the task: a look now and then costs less than a wake for each.
            tokio::select! {
                biased;
                () = &mut deadline => return,
                () = self.wake.notified() => {}
                _ = look.tick() => {}
            }
        }
    }
}

/// The settle task: sends what is queued until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut outbox = Outbox::default();
    loop {
        shared.outgoing.wake.notified().await;
        loop {
            if let Some((max, every)) = shared.gather.filter(|_| !shared.outgoing.state().queued.is_empty()) {
                shared.outgoing.gather(max, every).await;
            }
            if !shared.outgoing.take(&mut outbox) {
                return;
            }
            if outbox.is_empty() {
                break;
            }
            let results = shared.settler.settle(&mut outbox.settlements).await;
            outbox.settlements.clear();
            finish(&shared, &mut outbox, results);
            shared.outgoing.answered();
            shared.poke();
        }
    }
}

/// Does what the answers ask for, and gives the contexts back for reuse.
fn finish(shared: &Arc<Shared>, outbox: &mut Outbox, results: Vec<Result<Settled>>) {
    let mut results = results.into_iter();
    let mut ended = 0;
    {
        let mut handled = shared.handled();
        let mut pool = shared.pool();
        for entry in outbox.entries.drain(..) {
            let result = results.next().unwrap_or_else(|| Err(unanswered()));
            match (entry, result) {
                (Entry::Ack(mut context), Ok(settled)) => {
                    ended += 1;
                    if settled == Settled::Stale {
                        shared.stale();
                    }
                    remember(&mut handled, &mut context, settled);
                    pool.put(context);
                }
                (Entry::Ack(context), Err(error)) => republish::ack_again(shared, context, error),
                (Entry::Release(context), result) => {
                    ended += 1;
                    // Not given back, it comes again when the session ends: nothing is lost, so nothing is tried again.
                    if let Err(error) = result {
                        shared.settle_failed("release", &error, None);
                    }
                    pool.put(context);
                }
                (Entry::Hold(hold), Err(error)) => {
                    let (token, attempt, due) = *hold;
                    republish::hold_again(shared, token, attempt, due, error);
                }
                (Entry::Extend, Err(error)) => shared.settle_failed("extend", &error, None),
                (Entry::Hold(hold), Ok(settled)) => {
                    let (token, attempt, due) = *hold;
                    republish::recorded(shared, token, attempt, due);
                    if settled == Settled::Stale {
                        shared.stale();
                    }
                }
                (Entry::Extend, Ok(Settled::Stale)) => shared.stale(),
                (Entry::Extend, Ok(_)) => {}
            }
        }
    }
    shared.ended(ended);
}

/// Its acknowledgement may be lost: what is needed to know it again.
pub(crate) fn remember(handled: &mut Handled, context: &mut Context, settled: Settled) {
    match settled {
        Settled::Durable => {}
        Settled::Sent => {
            if let Some(identity) = context.take_identity() {
                handled.sent(identity);
            }
        }
        Settled::Stale => {
            if let Some(identity) = context.identity() {
                handled.lost(identity);
            }
        }
    }
}

pub(crate) fn unanswered() -> Error {
    Error::new(ErrorKind::Internal, "the driver did not answer a settlement")
}
