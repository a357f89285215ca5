//! What a consumer holds: each delivery with its lease.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use mq_core::driver::{Incoming, Settled, Token};
use mq_core::error::{Error, Result};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::gaps::Gaps;
use crate::receipt::Receipt;

/// Shared by the consumer, what reads for it, what renews its leases, and its settler.
#[derive(Debug)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// Something came, or failed.
    pub(crate) arrived: Notify,
    /// A place became free.
    pub(crate) freed: Notify,
    /// The most deliveries held.
    window: usize,
    closing: AtomicBool,
    /// Told once: whoever waits for the end.
    ending: Notify,
    paused: AtomicBool,
    /// Questions under way whose answers hold messages that are then ours.
    asking: watch::Sender<usize>,
}

/// A question under way, until its answer is taken in.
#[derive(Debug)]
pub(crate) struct Asking<'a>(&'a Session);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[derive(Debug, Default)]
struct State {
    epoch: u32,
    next: u64,
    held: HashMap<u64, Arc<Held>>,
    ready: VecDeque<Incoming>,
    failure: Option<Error>,
    /// Why the deliveries of before are no longer ours.
    lapsed: Option<ByteString>,
}

/// One delivery that is ours.
#[derive(Debug)]
pub(crate) struct Held {
    /// Locked while the broker is asked: a renewal and an acknowledgement must not cross.
    pub(crate) lease: tokio::sync::Mutex<Lease>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) receipt: Receipt,
    /// In ordered groups: its queue.
    pub(crate) gaps: Option<Arc<Gaps>>,
    /// Never later than the broker's own end of it.
    pub(crate) until: Instant,
    pub(crate) settled: bool,
}

impl Lease {
    /// True while it can be settled.
    pub(crate) fn stands(&self) -> bool {
        !self.settled && Instant::now() < self.until
    }
}

impl Session {
    pub(crate) fn new(window: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { epoch: 1, ..State::default() }),
            arrived: Notify::new(),
            freed: Notify::new(),
            window,
            closing: AtomicBool::new(false),
            ending: Notify::new(),
            paused: AtomicBool::new(false),
            asking: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more may be asked for now.
    pub(crate) fn room(&self) -> usize {
        if self.paused.load(Ordering::Acquire) || self.is_closing() {
            return 0;
        }
        self.window.saturating_sub(self.state().held.len())
    }

    /// Waits until nothing more is asked for; for one that waits.
    pub(crate) async fn closing(&self) {
        self.ending.notified().await;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Counts a question for messages; `None` when no more are asked for. Counted before it is looked at, so that
    /// whoever closes sees either the question or nobody who may ask one.
    pub(crate) fn begin_asking(&self) -> Option<Asking<'_>> {
        self.asking.send_modify(|count| *count += 1);
        let asking = Asking(self);
        (!self.is_closing()).then_some(asking)
    }

    /// Waits until every question for messages is answered.
    pub(crate) async fn answered(&self) {
        // The sender lives as long as the session.
        let _ = self.asking.subscribe().wait_for(|count| *count == 0).await;
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.freed.notify_waiters();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Nothing more is asked for.
    pub(crate) fn begin_close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.ending.notify_one();
        self.freed.notify_waiters();
    }

    /// Takes deliveries in; each gets its token.
    pub(crate) fn take_in(&self, arrived: impl IntoIterator<Item = (Incoming, Lease)>) {
        let mut state = self.state();
        for (mut incoming, lease) in arrived {
            state.next += 1;
            let number = state.next;
            state.held.insert(number, Arc::new(Held { lease: tokio::sync::Mutex::new(lease) }));
            incoming.token.epoch = state.epoch;
            incoming.token.major = number;
            state.ready.push_back(incoming);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Up to `max` deliveries to hand out, or why there will be none.
    pub(crate) fn hand_out(&self, max: usize) -> Result<Vec<Incoming>> {
        let mut state = self.state();
        if state.ready.is_empty()
            && let Some(failure) = state.failure.take()
        {
            return Err(failure);
        }
        let count = state.ready.len().min(max);
        Ok(state.ready.drain(..count).collect())
    }

    /// Why everything of before is stale, once.
    pub(crate) fn take_lapse(&self) -> Option<ByteString> {
        self.state().lapsed.take()
    }

    /// The subscription cannot go on.
    pub(crate) fn fail(&self, cause: Error) {
        self.state().failure.get_or_insert(cause);
        self.arrived.notify_one();
    }

    pub(crate) fn held(&self, token: Token) -> Option<Arc<Held>> {
        let state = self.state();
        if token.epoch != state.epoch {
            return None;
        }
        state.held.get(&token.major).map(Arc::clone)
    }

    /// Every delivery that is ours, handed out or not.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<Held>)> {
        self.state().held.iter().map(|(number, held)| (*number, Arc::clone(held))).collect()
    }

    /// The delivery is no longer ours.
    pub(crate) fn forget(&self, number: u64) -> Settled {
        let was = self.state().held.remove(&number).is_some();
        self.freed.notify_waiters();
        if was { Settled::Durable } else { Settled::Stale }
    }

    /// A lease ran out: the broker may give the message to somebody else, so nobody here may think it is his.
    pub(crate) fn lapse(&self, why: ByteString) {
        let mut state = self.state();
        state.epoch = state.epoch.wrapping_add(1);
        state.held.clear();
        state.ready.clear();
        state.lapsed = Some(why);
        drop(state);
        self.arrived.notify_one();
        self.freed.notify_waiters();
    }
}
