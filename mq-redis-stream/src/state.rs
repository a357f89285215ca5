//! What a consumer's tasks share.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mq_core::driver::{ConsumerSpec, Event, Incoming, Token};
use mq_core::error::Error;
use mq_core::name::{Group, Topic};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::Core;
use crate::names::Keys;
use crate::reply::EntryId;

/// Marks the token of an entry of the group's inbox: two streams may use the same id.
pub(crate) const INBOX: u64 = 1 << 63;

/// One partition of one topic.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    pub(crate) keys: Keys,
}

impl Lane {
    pub(crate) fn stream(&self, group: &str, inbox: bool) -> String {
        if inbox { self.keys.inbox(group) } else { self.keys.stream.clone() }
    }
}

/// A consumer, as its owner, its settler and its session see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) number: u64,
    pub(crate) group: Group,
    pub(crate) ephemeral: bool,
    pub(crate) ordered: bool,
    pub(crate) auto_ack: bool,
    pub(crate) prefetch: usize,
    pub(crate) parking: usize,
    pub(crate) drain: Duration,
    pub(crate) lanes: Vec<Lane>,
    state: Mutex<State>,
    /// There is something for the owner.
    pub(crate) news: Notify,
    /// There may be room for more.
    pub(crate) room: Notify,
    /// The session should look at once.
    pub(crate) look: Notify,
    /// The session is over.
    pub(crate) over: Notify,
    /// The consumer closes.
    pub(crate) stop: Arc<Notify>,
}

/// A partition as this consumer has it.
#[derive(Debug)]
pub(crate) struct LaneState {
    pub(crate) owned: bool,
    /// The number of the revocation, its end, and whether the owner is done.
    pub(crate) revoking: Option<(u64, Instant, bool)>,
    /// When to look for what is due, or held by the dead: in the stream, in the inbox.
    pub(crate) look: [Instant; 2],
    /// Where the stream and the inbox ended when there was nothing to read.
    pub(crate) ends: [EntryId; 2],
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) epoch: u32,
    pub(crate) member: String,
    pub(crate) live: bool,
    pub(crate) events: VecDeque<Event>,
    pub(crate) buffer: VecDeque<Incoming>,
    /// Everything read and not settled, with whether it is held and whether attempts are recorded.
    pub(crate) out: HashMap<Key, Out, BuildHasherDefault<Spread>>,
    /// How many were read so far.
    pub(crate) read: u64,
    pub(crate) held: usize,
    pub(crate) paused: bool,
    pub(crate) failed: Option<Error>,
    pub(crate) stopping: bool,
    pub(crate) dropped: bool,
    pub(crate) ended: bool,
    pub(crate) lanes: Vec<LaneState>,
    pub(crate) revocations: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Out {
    /// Which delivery of the entry: one given back may be read again before its settlement's answer is looked at.
    pub(crate) number: u64,
    pub(crate) held: bool,
    pub(crate) recorded: bool,
}

impl Shared {
    pub(crate) fn new(core: Arc<Core>, spec: &ConsumerSpec, group: Group, lanes: Vec<Lane>) -> Self {
        let now = Instant::now();
        let lane = |_: &Lane| LaneState { owned: false, revoking: None, look: [now; 2], ends: [EntryId(0, 0); 2] };
        Self {
            number: core.number(),
            group,
            ephemeral: spec.subscription.group().is_none(),
            ordered: spec.subscription.group_mode() == mq_core::subscription::GroupMode::Ordered,
            auto_ack: spec.auto_ack,
            prefetch: spec.prefetch.max(1),
            parking: spec.parking,
            drain: spec.drain,
            state: Mutex::new(State {
                epoch: core.epoch(),
                member: String::new(),
                live: false,
                events: VecDeque::new(),
                buffer: VecDeque::new(),
                out: HashMap::default(),
                read: 0,
                held: 0,
                paused: false,
                failed: None,
                stopping: false,
                dropped: false,
                ended: false,
                lanes: lanes.iter().map(lane).collect(),
                revocations: 0,
            }),
            lanes,
            core,
            news: Notify::new(),
            room: Notify::new(),
            look: Notify::new(),
            over: Notify::new(),
            stop: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lane(&self, lane: u32) -> Option<&Lane> {
        self.lanes.get(usize::try_from(lane).ok()?)
    }

    /// How many more may be read.
    pub(crate) fn space(&self, state: &State) -> usize {
        if state.paused || state.stopping {
            return 0;
        }
        let parking = if state.held > 0 { self.parking } else { 0 };
        (self.prefetch + parking).saturating_sub(state.out.len())
    }

    /// Takes what was read, unless the session it was read in is over; then others find it.
    pub(crate) fn deliver(&self, epoch: u32, incoming: Vec<(Incoming, bool)>) {
        if incoming.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.epoch != epoch {
            return;
        }
        for (incoming, recorded) in incoming {
            // Read while its partition was being given up: it goes back with the partition.
            let lane = usize::try_from(incoming.token.lane).ok().and_then(|lane| state.lanes.get(lane));
            if lane.is_none_or(|lane| !lane.owned || lane.revoking.is_some()) {
                continue;
            }
            state.read += 1;
            let number = state.read;
            state.out.insert(key(incoming.token), Out { number, held: false, recorded });
            state.buffer.push_back(incoming);
        }
        drop(state);
        self.news.notify_one();
    }

    /// Says something to the owner.
    pub(crate) fn tell(&self, event: Event) {
        self.lock().events.push_back(event);
        self.news.notify_one();
    }

    /// Ends the session of that epoch; everything of it is stale.
    pub(crate) fn end_session(&self, epoch: u32) -> bool {
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        state.epoch = self.core.epoch();
        state.live = false;
        state.buffer.clear();
        state.out.clear();
        state.held = 0;
        drop(state);
        self.over.notify_one();
        true
    }
}

impl State {
    /// A partition as this consumer has it now.
    pub(crate) fn lane(&mut self, number: u32) -> Option<&mut LaneState> {
        self.lanes.get_mut(usize::try_from(number).ok()?)
    }

    /// Forgets what is out of a partition; true when the owner had any of it.
    pub(crate) fn clear_lane(&mut self, lane: u32, buffered_only: bool) -> bool {
        let before = self.buffer.len();
        let mut gone = Vec::new();
        self.buffer.retain(|incoming| {
            let keep = incoming.token.lane != lane;
            if !keep {
                gone.push(key(incoming.token));
            }
            keep
        });
        debug_assert_eq!(before, self.buffer.len() + gone.len());
        for key in gone {
            self.out.remove(&key);
        }
        if buffered_only {
            return false;
        }
        let had = self.out.len();
        self.out.retain(|(of, _, _), _| *of != lane);
        self.held = self.out.values().filter(|out| out.held).count();
        had > self.out.len()
    }

    /// A delivery is settled.
    pub(crate) fn settled(&mut self, token: Token) {
        if let Some(out) = self.out.remove(&key(token)) {
            self.held = self.held.saturating_sub(usize::from(out.held));
        }
    }
}

pub(crate) fn key(token: Token) -> Key {
    (token.lane, token.major, token.minor)
}

/// Lane, milliseconds and number of a delivery.
pub(crate) type Key = (u32, u64, u64);

/// Hashes these few numbers; there are never more of them than the prefetch, so nobody gains by choosing them.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
