//! What the reading thread, the consumer and the settler share: one lock, taken once for a batch.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mq_core::driver::{Event, Settled, Token};
use mq_core::error::Result;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::Notify;

use crate::rebalance::Rebalances;
use crate::state::{State, settled};
use crate::window::Window;

pub(crate) type Client = BaseConsumer<Rebalances>;

/// The number of the next consumer of this process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Settings of one consumer.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) prefetch: usize,
    /// Messages read ahead of what was asked for.
    pub(crate) buffer: usize,
    pub(crate) auto_ack: bool,
    /// False for a broadcast subscription: it has no place to remember.
    pub(crate) commits: bool,
    pub(crate) commit_acks: usize,
    pub(crate) commit_interval: Duration,
    pub(crate) duplicate_window: usize,
    pub(crate) drain: Duration,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    /// What its tokens name it by.
    pub(crate) number: u64,
    state: Mutex<State>,
    /// Something for the consumer.
    pub(crate) ready: Arc<Notify>,
    /// A commit ended.
    pub(crate) durable: Notify,
    /// Room in the buffer, or a request, for the reading thread.
    room: Condvar,
    /// A commit is asked for.
    pub(crate) commit_asked: Condvar,
    /// Held by the one that settles in a transaction.
    pub(crate) handoffs: Arc<tokio::sync::Mutex<()>>,
}

/// Why the subscription cannot go on; made into a new error at each poll.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: mq_core::error::ErrorKind,
    pub(crate) text: String,
    pub(crate) hint: &'static str,
}

impl Shared {
    pub(crate) fn new(options: Options, ready: Arc<Notify>) -> Self {
        let window = match options.commits && !options.auto_ack {
            true => Window::new(options.commit_acks, options.duplicate_window),
            false => Window::unbounded(),
        };
        Self {
            options,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { window, ..State::default() }),
            ready,
            durable: Notify::new(),
            room: Condvar::new(),
            commit_asked: Condvar::new(),
            handoffs: Arc::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole: a panic inside cannot make a later one lie.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what there is to `events`; true when there was anything.
    pub(crate) fn take(&self, events: &mut Vec<Event>, max: usize) -> Result<bool> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(failure) = &state.failed {
            let error = crate::error::fault(failure.kind, failure.text.clone()).with_operation("receive");
            return Err(if failure.hint.is_empty() { error } else { error.with_hint(failure.hint) });
        }
        let before = events.len();
        events.extend(state.events.drain(..));
        let mut room = if state.user_paused { 0 } else { max.min(self.options.prefetch.saturating_sub(state.out)) };
        if room > state.window.room() {
            room = state.window.room();
            if room == 0 {
                // Nothing more before a commit: it wakes the consumer.
                state.flush_wanted = true;
                self.commit_if_due(state, Instant::now());
            }
        }
        if room > 0 {
            let was_full = state.is_full(&self.options);
            state.hand_out(events, room, self.options.auto_ack);
            if was_full && state.is_half_empty(&self.options) {
                self.room.notify_one();
            }
            if self.is_urgent(state) {
                self.commit_if_due(state, Instant::now());
            }
        }
        Ok(events.len() > before)
    }

    /// Adds a batch of messages just read, in order; it is empty afterwards.
    pub(crate) fn push(&self, batch: &mut Vec<Event>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (mut now, mut held) = (None, false);
        batch.retain_mut(|event| {
            let Event::Message(incoming) = event else { return false };
            let Some(lane) = state.lanes.get_mut(incoming.token.lane as usize) else { return false };
            let admitted = lane.admit(incoming);
            held |= admitted && lane.holds(incoming, &mut now);
            admitted
        });
        if held {
            // Some of them wait until they are due.
            for event in batch.drain(..) {
                let Event::Message(incoming) = event else { continue };
                let Some(lane) = state.lanes.get_mut(incoming.token.lane as usize) else { continue };
                if lane.holds(&incoming, &mut now) {
                    let due = incoming.control.due.unwrap_or(std::time::SystemTime::UNIX_EPOCH);
                    lane.held.push_back((due, incoming));
                } else {
                    state.buffer.push(incoming);
                }
            }
        } else if !batch.is_empty() {
            state.buffer.push_batch(batch);
        }
        let any = !state.buffer.is_empty();
        drop(guard);
        if any {
            self.ready.notify_one();
        }
    }

    /// Acknowledges deliveries: a note in memory, of which a later commit tells the broker.
    pub(crate) fn ack(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) {
        if self.options.auto_ack {
            // At most once: that was done before they were handed out.
            results.extend(tokens.iter().map(|_| Ok(Settled::Durable)));
            return;
        }
        let durable = !self.options.commits;
        let mut state = self.lock();
        let awaited = state.is_awaited(&self.options);
        state.begin_batch();
        results.extend(tokens.iter().map(|token| Ok(settled(state.ack(token), durable))));
        self.commit_if_due(&mut state, Instant::now());
        drop(state);
        if awaited {
            self.ready.notify_one();
        }
    }

    pub(crate) fn push_event(&self, event: Event) {
        self.lock().events.push_back(event);
        self.ready.notify_one();
    }

    /// Moves what has become due into the buffer; how long until the next is.
    pub(crate) fn release_due(&self) -> Option<Duration> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = std::time::SystemTime::now();
        let mut next: Option<Duration> = None;
        let mut any = false;
        for lane in &mut state.lanes {
            while let Some((due, _)) = lane.held.front() {
                if let Ok(left) = due.duration_since(now)
                    && !left.is_zero()
                {
                    next = Some(next.map_or(left, |next| next.min(left)));
                    break;
                }
                if let Some((_, incoming)) = lane.held.pop_front() {
                    state.buffer.push(incoming);
                    any = true;
                }
            }
        }
        drop(guard);
        if any {
            self.ready.notify_one();
        }
        next
    }

    /// Waits until the buffer has room, or something else is to be done, at most `wait`.
    pub(crate) fn wait_for_room(&self, wait: Duration) {
        let state = self.lock();
        if state.is_full(&self.options) && !state.closing {
            drop(self.room.wait_timeout(state, wait));
        }
    }

    /// Wakes the reading thread where it waits for room; where it waits for the broker it wakes by itself, soon.
    pub(crate) fn wake_reader(&self) {
        self.room.notify_one();
    }

    /// The reading thread has left the group.
    pub(crate) fn set_closed(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.clear();
        drop(state);
        self.durable.notify_waiters();
        self.ready.notify_one();
    }

    pub(crate) async fn closed(&self) {
        loop {
            let durable = self.durable.notified();
            tokio::pin!(durable);
            durable.as_mut().enable();
            if self.lock().closed {
                return;
            }
            durable.await;
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Shared")
            .field("out", &state.out)
            .field("buffered", &state.buffer.len())
            .field("lanes", &state.lanes.len())
            .finish_non_exhaustive()
    }
}
