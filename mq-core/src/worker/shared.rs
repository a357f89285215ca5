//! What all parts of a running worker share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OnceCell};

use crate::broker::Broker;
use crate::clock::Clock;
use crate::dead_letter::DeadLetter;
use crate::driver::{SettlerDriver, Token};
use crate::error::{Error, Result};
use crate::event::{Observer, WorkerEvent};
use crate::guard::Guard;
use crate::name::Group;
use crate::producer::Producer;
use crate::worker::context::{Cancel, Context};
use crate::worker::control::Control;
use crate::worker::gate::Gate;
use crate::worker::handled::Handled;
use crate::worker::judge::Judge;
use crate::worker::lanes::{Finish, Lanes};
use crate::worker::outbox::{Outbox, Outgoing};
use crate::worker::pipeline::Slot;
use crate::worker::side::Side;

/// Compensation after a dead letter.
pub(crate) type DeadLetterHook = Arc<dyn Fn(DeadLetter) -> BoxFuture<'static, ()> + Send + Sync>;

/// What all parts of a running worker share, independent of the handler's type.
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) settler: Arc<dyn SettlerDriver>,
    pub(crate) group: Option<Group>,
    pub(crate) clock: Clock,
    pub(crate) judge: Judge,
    pub(crate) keep_order: bool,
    /// Messages are run in the coordinator's own task, which looks for them by itself.
    pub(crate) sequential: bool,
    pub(crate) auto_ack: bool,
    pub(crate) gather: Option<(usize, Duration)>,
    pub(crate) timeout: Option<Duration>,
    /// How long a delivery stays ours without an extension; `None` as long as the session.
    pub(crate) lease: Option<Duration>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) guard_lease: Duration,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) on_dead_letter: Option<DeadLetterHook>,
    pub(crate) producer: OnceCell<Producer>,
    pub(crate) control: Arc<Control>,
    pub(crate) outgoing: Outgoing,
    pub(crate) side: Side,
    pub(crate) lanes: Mutex<Lanes>,
    /// One each time a message may run; for slots that wait.
    pub(crate) work: Notify,
    /// Wakes a slot whose messages were cancelled.
    pub(crate) signals: Vec<Notify>,
    pub(crate) handled: Mutex<Handled>,
    /// Attempts whose record failed and is being tried again: the latest of each delivery, and when it is due.
    pub(crate) unrecorded: Mutex<HashMap<Token, (u32, SystemTime)>>,
    pub(crate) pool: Mutex<Pool>,
    /// Delivered and not yet settled.
    pub(crate) outstanding: AtomicUsize,
    /// The coordinator waits for something to end.
    pub(crate) attentive: AtomicBool,
    /// Nothing more is started or tried again.
    pub(crate) stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn event(&self, event: &WorkerEvent<'_>) {
        if let Some(observer) = &self.observer {
            hook("observer", || observer.event(event));
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.control.gate
    }

    /// True when this message waits for its retry in memory: to keep the order of its key, or because a broadcast
    /// subscription has no place of its own on the broker.
    pub(crate) fn keeps_order(&self, context: &Context) -> bool {
        self.group.is_none() || (self.keep_order && context.0.key.is_some())
    }

    pub(crate) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        lock(&self.lanes)
    }

    pub(crate) fn handled(&self) -> MutexGuard<'_, Handled> {
        lock(&self.handled)
    }

    pub(crate) fn unrecorded(&self) -> MutexGuard<'_, HashMap<Token, (u32, SystemTime)>> {
        lock(&self.unrecorded)
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.pool)
    }

    /// `count` deliveries are settled, or no longer ours.
    pub(crate) fn ended(&self, count: usize) {
        if count > 0 {
            self.outstanding.fetch_sub(count, Ordering::AcqRel);
        }
    }

    /// Lets the coordinator look again, if it waits for something.
    pub(crate) fn poke(&self) {
        if self.attentive.load(Ordering::Acquire) {
            self.control.changed.notify_one();
        }
    }

    /// The delivery is no longer ours, and nothing is to be settled.
    pub(crate) fn forget(&self, context: Context) {
        self.pool().put(context);
        self.ended(1);
    }

    pub(crate) fn stale(&self) {
        self.control.counts.stale.one();
        self.event(&WorkerEvent::Stale);
    }

    /// A settlement failed: the alarm.
    pub(crate) fn settle_failed(&self, action: &'static str, error: &Error, again_in: Option<Duration>) {
        tracing::warn!(action, %error, ?again_in, "a settlement failed; the message stays unsettled");
        self.event(&WorkerEvent::SettleFailed { action, error, again_in });
    }

    /// Ends what `slot` ran, queues its settlements in `outbox`, and gives it up to `max` next messages; false when
    /// there are none.
    pub(crate) fn turn(&self, slot: &mut Slot, max: usize, outbox: &mut Outbox) -> bool {
        let mut parked = false;
        let mut lanes = self.lanes();
        lanes.clear(slot.index);
        // After the clear: now nobody else holds what was settled, and it can be used again. Under the same lock: whoever
        // sees that nothing runs any more, and stops or gives a partition back, must see what is still to be settled.
        let queued = self.outgoing.queue(outbox);
        for finish in slot.ended.drain(..) {
            parked |= matches!(finish, Finish::Park { .. });
            lanes.finish(finish);
        }
        let took = lanes.take(slot.index, max, &mut slot.queue);
        let more = lanes.has_ready();
        drop(lanes);
        if queued {
            self.outgoing.wake();
        }
        if more && !self.sequential {
            self.work.notify_one();
        }
        if parked {
            // It sleeps until an earlier one is due, or does not sleep for any.
            self.control.changed.notify_one();
        }
        took
    }

    /// Cancels running messages for which `pred` holds.
    pub(crate) fn cancel(&self, how: Cancel, pred: impl Fn(&Context) -> bool) {
        let lanes = self.lanes();
        for (slot, context) in lanes.running().filter(|(_, context)| pred(context)) {
            context.set_cancel(how);
            if let Some(signal) = self.signals.get(slot) {
                signal.notify_one();
            }
        }
    }

    /// The producer of follow-ups, opened when the first is sent.
    pub(crate) async fn producer(&self) -> Result<&Producer> {
        self.producer.get_or_try_init(|| self.broker.producer()).await
    }
}

/// Contexts to be used again.
#[derive(Default)]
pub(crate) struct Pool {
    free: Vec<Context>,
    capacity: usize,
}

impl Pool {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { free: Vec::new(), capacity }
    }

    /// Keeps `context` for reuse, without what its message held.
    pub(crate) fn put(&mut self, mut context: Context) {
        if self.free.len() < self.capacity && context.clear() {
            self.free.push(context);
        }
    }

    /// Exchanges the free contexts for `free`, which is empty.
    pub(crate) fn swap(&mut self, free: &mut Vec<Context>) {
        std::mem::swap(&mut self.free, free);
    }
}

/// Runs code of the user beside the handler. A panic there ends nothing: it counts as no answer.
pub(crate) fn hook<T: Default>(name: &'static str, run: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_| {
        tracing::error!(hook = name, "a hook of the worker panicked; the worker goes on");
        T::default()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section is a few moves: a panic in one cannot leave it half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("broker", &self.broker)
            .field("group", &self.group)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
