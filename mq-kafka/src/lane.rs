//! One partition as read by one consumer.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use mq_core::driver::{Incoming, Origin, Token};
use mq_core::name::Topic;

use crate::offset_map::OffsetMap;
use crate::tracker::Tracker;

/// How far messages may be handed out above the oldest unsettled one: what the offset map must be able to describe.
const MAX_SPAN: i64 = 10_000;
/// From this many sessions without an end on, a message is handed out alone: if it kills the process, its neighbours
/// are not blamed.
const ISOLATE: u32 = 3;
/// Messages not yet due that are held in memory for each partition; then the partition pauses.
const MAX_HELD: usize = 1000;

/// Seeks that bring nothing before a message counts as gone from the log.
const MAX_SEEKS: u32 = 5;
/// A seek that has brought nothing for this long is made again.
const OVERDUE: Duration = Duration::from_secs(2);

/// What a partition's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The topic itself: anybody may have written them.
    Source,
    /// Redriven messages.
    Inbox,
    /// Retries that wait.
    Tier,
    /// Delayed messages that wait; their control headers are for the scheduler.
    Delay,
}

impl Kind {
    /// True when only the SDK writes there: its control headers are believed.
    pub(crate) fn is_owned(self) -> bool {
        self != Self::Source
    }

    pub(crate) fn origin(self) -> Origin {
        match self {
            Self::Source => Origin::Topic,
            Self::Inbox => Origin::Redrive,
            Self::Tier | Self::Delay => Origin::Retry,
        }
    }
}

/// What a subscription to one Kafka topic stands for.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The topic of the contract: for retries the one they came from.
    pub(crate) topic: Topic,
    /// Kafka's name.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Assigned,
    Revoking,
    Gone,
}

/// One partition. Its place in the list never changes; each assignment gives it a new epoch.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) source: Source,
    pub(crate) partition: i32,
    pub(crate) epoch: u32,
    pub(crate) phase: Phase,
    pub(crate) tracker: Tracker,
    /// Handed out and not settled; parked ones apart.
    pub(crate) out: usize,
    /// Held by the core for a retry in key order.
    pub(crate) parked: HashSet<i64>,
    /// Given back: to be fetched again.
    pub(crate) requeued: BTreeSet<i64>,
    /// A seek for `requeued` is still to be made.
    pub(crate) seek: bool,
    /// Seeks since one of `requeued` last came.
    pub(crate) sought: u32,
    pub(crate) sought_at: Option<Instant>,
    /// The next offset not yet seen.
    pub(crate) read: i64,
    /// No message seen yet in this session.
    fresh: bool,
    /// Behind the last offset handed out in an earlier assignment of this consumer.
    known_end: i64,
    /// Read, not yet due, in the order of their due times.
    pub(crate) held: VecDeque<(SystemTime, Incoming)>,
    /// Read, but to be handed out only when others are settled.
    pub(crate) overflow: VecDeque<Incoming>,
    /// Something to commit.
    pub(crate) dirty: bool,
    /// The last map did not fit: hand out nothing more until one does.
    pub(crate) crowded: bool,
}

impl Lane {
    pub(crate) fn new(source: Source, partition: i32) -> Self {
        Self {
            source,
            partition,
            epoch: 0,
            phase: Phase::Gone,
            tracker: Tracker::new(0, &OffsetMap::default()),
            out: 0,
            parked: HashSet::new(),
            requeued: BTreeSet::new(),
            seek: false,
            sought: 0,
            sought_at: None,
            read: 0,
            fresh: true,
            known_end: 0,
            held: VecDeque::new(),
            overflow: VecDeque::new(),
            dirty: false,
            crowded: false,
        }
    }

    /// A new assignment, from `start` (when the group has a place) with what was remembered.
    pub(crate) fn assign(&mut self, start: Option<i64>, map: &OffsetMap) {
        let epoch = self.epoch.wrapping_add(1);
        let source = self.source.clone();
        let known_end = self.known_end.max(self.tracker.end());
        *self = Self::new(source, self.partition);
        self.epoch = epoch;
        self.known_end = known_end;
        self.phase = Phase::Assigned;
        if let Some(start) = start {
            self.tracker = Tracker::new(start, map);
            self.read = start;
        } else {
            self.read = i64::MIN;
        }
    }

    /// The assignment is over: what is out is stale. Returns how many were out.
    pub(crate) fn end(&mut self) -> usize {
        self.phase = Phase::Gone;
        self.epoch = self.epoch.wrapping_add(1);
        self.dirty = false;
        self.forget_unread();
        self.parked.clear();
        std::mem::take(&mut self.out)
    }

    /// Drops what was read and not handed out: it comes again in the next assignment.
    pub(crate) fn forget_unread(&mut self) {
        self.held.clear();
        self.overflow.clear();
        self.requeued.clear();
        self.seek = false;
    }

    pub(crate) fn is_current(&self, token: &Token) -> bool {
        self.phase != Phase::Gone && self.epoch == token.epoch
    }

    /// Decides about a message just read: true when it is to be handed out. Sets what this session knows of it.
    pub(crate) fn admit(&mut self, incoming: &mut Incoming) -> bool {
        let Ok(offset) = i64::try_from(incoming.token.major) else { return false };
        if self.phase != Phase::Assigned || incoming.token.epoch != self.epoch {
            return false;
        }
        if self.fresh {
            self.fresh = false;
            if offset < self.read || self.read == i64::MIN {
                // The log is shorter than where the group stood, or the group is new.
                self.tracker.restart(offset);
                self.read = offset;
            }
        }
        if !self.seek && self.requeued.first().is_some_and(|first| *first < offset) && !self.gone(offset) {
            return false;
        }
        if offset < self.read {
            if self.seek || !self.requeued.remove(&offset) {
                return false;
            }
            self.sought = 0;
            incoming.redelivered = true;
        } else {
            self.read = offset + 1;
            if self.tracker.skips(offset) {
                return false;
            }
        }
        let attempt = self.tracker.attempt(offset);
        if attempt > incoming.control.attempt {
            incoming.control.attempt = attempt;
        }
        incoming.redeliveries = self.tracker.redeliveries(offset);
        // Handed out here before the partition was lost: perhaps it was handled and only the commit was lost. The core
        // knows messages by more than their place, should this be another log by now.
        incoming.redelivered |= incoming.redeliveries > 0 || offset < self.known_end;
        true
    }

    /// A message came that lies behind one given back: is that one gone? False when it must be sought again.
    fn gone(&mut self, offset: i64) -> bool {
        // Fetched from there on, the ones in between would have come. A rebalance undoes a seek; only when several
        // have brought nothing is the message no longer in the log.
        if offset >= self.read && self.sought < MAX_SEEKS {
            self.seek = true;
            return false;
        }
        while let Some(first) = self.requeued.first().copied().filter(|first| *first < offset) {
            self.requeued.remove(&first);
            if self.tracker.settle(first) {
                self.dirty = true;
            }
        }
        true
    }

    /// True when what was given back should have come by now.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        !self.seek && !self.requeued.is_empty() && self.sought_at.is_some_and(|at| now.duration_since(at) > OVERDUE)
    }

    /// A message read and not handed out is dropped, to be fetched again.
    pub(crate) fn unread(&mut self, offset: i64) {
        let mut place = (std::mem::take(&mut self.requeued), self.read);
        self.place_unread(&mut place, offset);
        (self.requeued, self.read) = place;
    }

    /// What to fetch again, with `offset` in it: given back and still out, or never handed out.
    pub(crate) fn place_unread(&self, (requeued, read): &mut (BTreeSet<i64>, i64), offset: i64) {
        if self.tracker.is_out(offset) {
            requeued.insert(offset);
        } else {
            *read = (*read).min(offset);
        }
    }

    /// True when a message of this partition waits until it is due.
    pub(crate) fn holds(&self, incoming: &Incoming, now: &mut Option<SystemTime>) -> bool {
        // Behind one that waits the others wait as well.
        !self.held.is_empty()
            || incoming
                .control
                .due
                .is_some_and(|due| self.source.kind.is_owned() && due > *now.get_or_insert_with(SystemTime::now))
    }

    /// True when the message must wait until others of this partition are settled.
    pub(crate) fn must_wait(&self, offset: i64) -> bool {
        if !self.tracker.has_out() {
            return false;
        }
        self.crowded
            || offset - self.tracker.watermark() > MAX_SPAN
            || (self.out > 0 && self.tracker.crashes(offset) >= ISOLATE)
    }

    /// True when the message need not wait, whatever of the partition is handed out just before it.
    pub(crate) fn is_free(&self, offset: i64) -> bool {
        self.overflow.is_empty()
            && !self.crowded
            && offset - self.tracker.watermark() <= MAX_SPAN
            && self.tracker.crashes(offset) < ISOLATE
    }

    /// True when nothing more should be fetched for now.
    pub(crate) fn is_full(&self) -> bool {
        !self.overflow.is_empty() || self.held.len() > MAX_HELD
    }

    /// A message is handed out.
    pub(crate) fn hand(&mut self, offset: i64) {
        self.tracker.hand(offset);
        self.out += 1;
        self.dirty = true;
    }
}
