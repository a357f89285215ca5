//! The queue between deliveries and the settle task.
//!
//! Acks are not urgent: a consumer in a loop settles its own (see [`SettleQueue::ack_here`]) before it polls for more,
//! in one batch and without waking anybody. The task does the rest: what must be waited for, and the acks of consumers
//! that do not poll just now, after a short rest in which more may gather.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::driver::{Settle, Settled, Settlement, SettlerDriver, Token};
use crate::error::{Error, Result};
use crate::settle::task;

/// Shared by every delivery of a consumer. Cheap to clone.
///
/// Bounded by what is delivered: each delivery is settled once, and no more than prefetch are out.
#[derive(Clone)]
pub(crate) struct SettleQueue(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) settler: Arc<dyn SettlerDriver>,
    state: Mutex<State>,
    pub(super) wake: Notify,
    /// Delivered and not yet settled.
    outstanding: AtomicUsize,
    freed: Notify,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Queued items that are more than an ack nobody waits for.
    urgent: usize,
    /// Items taken and not yet answered.
    under_way: usize,
    /// A batch is with the driver: another one must not overtake it.
    busy: bool,
    /// The task has been told that something is queued, and looks until nothing is.
    charged: bool,
    /// The task found the queue busy and wants to be woken.
    deferred: bool,
    /// Do not rest: somebody waits for everything to be settled.
    hurry: bool,
    /// Do not rest: the consumer waits for room in its window.
    pressed: bool,
    closed: bool,
}

pub(super) struct Item {
    pub(super) settlement: Settlement,
    pub(super) done: Option<oneshot::Sender<Result<Settled>>>,
}

impl Item {
    fn is_urgent(&self) -> bool {
        self.done.is_some() || !matches!(self.settlement.action, Settle::Ack)
    }
}

/// What the task finds when it looks.
pub(super) enum Look {
    /// These were moved into its hands.
    Taken,
    /// Nothing, or nothing now: it is woken when that changes.
    Nothing,
    /// Nothing, and nothing more will come.
    Closed,
}

impl SettleQueue {
    /// Starts the settle task on the current runtime.
    pub(crate) fn start(settler: Arc<dyn SettlerDriver>) -> Self {
        let shared = Arc::new(Shared {
            settler,
            state: Mutex::default(),
            wake: Notify::new(),
            outstanding: AtomicUsize::new(0),
            freed: Notify::new(),
        });
        tokio::spawn(task::run(Arc::clone(&shared)));
        Self(shared)
    }

    /// Counts `n` deliveries handed out.
    pub(crate) fn delivered(&self, n: usize) {
        self.0.outstanding.fetch_add(n, Ordering::Relaxed);
    }

    /// Deliveries handed out and not yet settled.
    pub(crate) fn outstanding(&self) -> usize {
        self.0.outstanding.load(Ordering::Acquire)
    }

    /// Enqueues without waiting for the outcome.
    pub(crate) fn push(&self, token: Token, action: Settle) {
        self.enqueue(Item { settlement: Settlement { token, action }, done: None });
    }

    /// Enqueues; the receiver gets the outcome.
    pub(crate) fn settle(&self, token: Token, action: Settle) -> oneshot::Receiver<Result<Settled>> {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(Item { settlement: Settlement { token, action }, done: Some(sender) });
        receiver
    }

    /// One delivery was settled by the driver without this queue.
    pub(crate) fn settled_elsewhere(&self) {
        self.0.done(0, 1);
    }

    /// Settles what is queued right here, if it is nothing but acks and the driver need not wait for anything;
    /// otherwise leaves it to the task. Must be called on the runtime.
    pub(crate) fn ack_here(&self) {
        let tokens: Vec<Token> = {
            let mut state = self.0.lock();
            if state.items.is_empty() || state.urgent > 0 || state.busy {
                return;
            }
            state.busy = true;
            state.under_way += state.items.len();
            state.items.drain(..).map(|item| item.settlement.token).collect()
        };
        let mut results = Vec::with_capacity(tokens.len());
        if self.0.settler.ack_now(&tokens, &mut results) {
            task::finish_acks(&self.0, &tokens, &results);
        } else {
            self.0.put_back(&tokens);
        }
    }

    /// Waits until fewer than `limit` deliveries are out.
    pub(crate) async fn below(&self, limit: usize) {
        let _pressed = Pressed::begin(&self.0);
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.outstanding() < limit {
                return;
            }
            freed.await;
        }
    }

    /// Waits until everything enqueued so far is settled and durable, at most `deadline`.
    pub(crate) async fn flush(&self, deadline: Duration) -> Result<()> {
        let started = tokio::time::Instant::now();
        tokio::time::timeout(deadline, self.idle())
            .await
            .map_err(|_| Error::timeout(deadline).with_operation("flush settlements"))?;
        self.0.settler.flush(deadline.saturating_sub(started.elapsed())).await
    }

    async fn idle(&self) {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut state = self.0.lock();
                if state.items.is_empty() && state.under_way == 0 {
                    return;
                }
                state.hurry = true;
            }
            self.0.wake.notify_one();
            freed.await;
        }
    }

    /// Ends the task once it has sent what is queued. Later settlements are stale.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }

    fn enqueue(&self, item: Item) {
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            if let Some(done) = item.done {
                // The receiver may be gone: then nobody wants to know.
                let _ = done.send(Ok(Settled::Stale));
            }
            return;
        }
        let urgent = item.is_urgent() || state.pressed;
        // The first urgent one ends the task's rest.
        let wake = !std::mem::replace(&mut state.charged, true) || (urgent && state.urgent == 0);
        state.urgent += usize::from(urgent);
        state.items.push_back(item);
        drop(state);
        if wake {
            self.0.wake.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it cannot leave the lists half-changed: every critical section is a few moves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all that is queued into `items`, for the task.
    pub(super) fn take(&self, items: &mut VecDeque<Item>) -> Look {
        let mut state = self.lock();
        if state.busy {
            state.deferred = true;
            return Look::Nothing;
        }
        if state.items.is_empty() {
            state.charged = false;
            state.hurry = false;
            return if state.closed { Look::Closed } else { Look::Nothing };
        }
        std::mem::swap(&mut state.items, items);
        state.urgent = 0;
        state.busy = true;
        state.under_way += items.len();
        Look::Taken
    }

    /// True while nothing queued is in a hurry.
    pub(super) fn may_rest(&self) -> bool {
        let state = self.lock();
        state.urgent == 0 && !state.hurry && !state.pressed && !state.closed
    }

    /// The driver could not acknowledge these at once: they are the first again, for the task.
    fn put_back(&self, tokens: &[Token]) {
        let mut state = self.lock();
        state.under_way -= tokens.len();
        for token in tokens.iter().rev() {
            let settlement = Settlement { token: *token, action: Settle::Ack };
            state.items.push_front(Item { settlement, done: None });
        }
        // They were enqueued before, and so the task is charged with them.
        drop(state);
        self.batch_over();
    }

    /// The batch with the driver is answered: the next may follow.
    pub(super) fn batch_over(&self) {
        let deferred = {
            let mut state = self.lock();
            state.busy = false;
            std::mem::take(&mut state.deferred)
        };
        if deferred {
            self.wake.notify_one();
        }
    }

    /// `answered` items are done with, `settled` of which gave their place in the window back.
    pub(super) fn done(&self, answered: usize, settled: usize) {
        if settled > 0 {
            let before = self.outstanding.fetch_sub(settled, Ordering::AcqRel);
            debug_assert!(before >= settled, "settled more than was delivered");
        }
        self.lock().under_way -= answered;
        self.freed.notify_waiters();
    }
}

/// While it lives, nothing queued rests.
struct Pressed<'a>(&'a Shared);

impl<'a> Pressed<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.lock().pressed = true;
        shared.wake.notify_one();
        Self(shared)
    }
}

impl Drop for Pressed<'_> {
    fn drop(&mut self) {
        self.0.lock().pressed = false;
    }
}

impl fmt::Debug for SettleQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettleQueue").field("outstanding", &self.outstanding()).finish_non_exhaustive()
    }
}
