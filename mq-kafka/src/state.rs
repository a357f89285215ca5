//! What is read, handed out and settled: the part behind the lock.

mod buffer;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mq_core::driver::{Event, Incoming, Settled, Token};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;

use crate::lane::{Lane, Phase};
use crate::shared::{Failure, Options};
use crate::window::Window;

/// Bytes read and not yet asked for.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) buffer: buffer::Buffer,
    pub(crate) out: usize,
    /// Lanes with messages in their overflow.
    pub(crate) waiting: usize,
    pub(crate) user_paused: bool,
    pub(crate) closing: bool,
    /// The reading thread has left the group.
    pub(crate) closed: bool,
    pub(crate) failed: Option<Failure>,
    /// Revocations the core has drained.
    pub(crate) drained: Vec<u64>,
    // Commits.
    pub(crate) acks: usize,
    pub(crate) window: Window,
    pub(crate) settled_seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) in_flight: Option<u64>,
    pub(crate) requested: bool,
    pub(crate) no_more_commits: bool,
    /// Which committing thread counts: that of the present client.
    pub(crate) commits_turn: u32,
    pub(crate) flush_wanted: bool,
    pub(crate) last_commit: Option<Instant>,
    pub(crate) retry_at: Option<Instant>,
    /// A transaction settles: nothing is committed beside it.
    pub(crate) held: bool,
    /// Who we are to the group, as of the last assignment.
    pub(crate) membership: Option<Arc<ConsumerGroupMetadata>>,
    /// Lanes whose places only the broker knows any more.
    pub(crate) read_again: BTreeSet<usize>,
}

impl State {
    pub(crate) fn is_full(&self, options: &Options) -> bool {
        self.buffer.len() >= options.buffer || self.buffer.bytes() >= BUFFER_BYTES
    }

    pub(crate) fn is_half_empty(&self, options: &Options) -> bool {
        self.buffer.len() <= options.buffer / 2 && self.buffer.bytes() <= BUFFER_BYTES / 2
    }

    /// True when a message waits that a settlement may let go: for a place in the window, or for its partition.
    pub(crate) fn is_awaited(&self, options: &Options) -> bool {
        self.out >= options.prefetch || self.waiting > 0
    }

    pub(crate) fn hand_out(&mut self, events: &mut Vec<Event>, mut room: usize, auto_ack: bool) {
        if self.waiting > 0 {
            self.hand_out_overflow(events, &mut room);
        }
        if events.is_empty() && self.hand_out_whole(events, room, auto_ack) {
            return;
        }
        while room > 0 {
            let Some(incoming) = self.buffer.pop() else { break };
            let Some(lane) = self.lanes.get_mut(incoming.token.lane as usize) else { continue };
            if !lane.is_current(&incoming.token) || lane.phase != Phase::Assigned {
                continue;
            }
            let offset = offset_of(&incoming.token);
            if lane.seek {
                // Fetched again, behind what was given back: that is older and comes first.
                lane.unread(offset);
                continue;
            }
            if !auto_ack {
                if !lane.overflow.is_empty() || lane.must_wait(offset) {
                    self.waiting += usize::from(lane.overflow.is_empty());
                    lane.overflow.push_back(incoming);
                    continue;
                }
                lane.hand(offset);
                self.out += 1;
            }
            events.push(Event::Message(incoming));
            room -= 1;
        }
    }

    /// Hands out the first batch as it is, when nothing is against any of its messages: the usual case.
    fn hand_out_whole(&mut self, events: &mut Vec<Event>, room: usize, auto_ack: bool) -> bool {
        let lanes = &self.lanes;
        let free = |incoming: &Incoming| {
            let lane = lanes
                .get(incoming.token.lane as usize)
                .filter(|lane| lane.is_current(&incoming.token) && lane.phase == Phase::Assigned && !lane.seek);
            lane.is_some_and(|lane| auto_ack || lane.is_free(offset_of(&incoming.token)))
        };
        if !self.buffer.take_batch(events, room, free) {
            return false;
        }
        if !auto_ack {
            for event in &*events {
                let Event::Message(incoming) = event else { continue };
                if let Some(lane) = self.lanes.get_mut(incoming.token.lane as usize) {
                    lane.hand(offset_of(&incoming.token));
                    self.out += 1;
                }
            }
        }
        true
    }

    pub(crate) fn hand_out_overflow(&mut self, events: &mut Vec<Event>, room: &mut usize) {
        for lane in &mut self.lanes {
            while *room > 0
                && let Some(next) = lane.overflow.front()
                && !lane.must_wait(offset_of(&next.token))
                && let Some(incoming) = lane.overflow.pop_front()
            {
                self.waiting -= usize::from(lane.overflow.is_empty());
                lane.hand(offset_of(&incoming.token));
                self.out += 1;
                *room -= 1;
                events.push(Event::Message(incoming));
            }
        }
    }

    /// A message was handed out of which the broker should know at once, so that a crash is counted.
    pub(crate) fn urgent(&self) -> bool {
        self.lanes.iter().any(|lane| lane.dirty && lane.tracker.is_news())
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.lanes.iter().any(|lane| lane.dirty && lane.phase != Phase::Gone)
    }

    pub(crate) fn dirty_again(&mut self, list: &TopicPartitionList) {
        for element in list.elements() {
            let lane = self
                .lanes
                .iter_mut()
                .find(|lane| lane.partition == element.partition() && lane.source.name == element.topic());
            if let Some(lane) = lane {
                lane.dirty = lane.phase != Phase::Gone;
            }
        }
    }

    /// Begins a batch of settlements.
    pub(crate) fn begin_batch(&mut self) {
        self.settled_seq += 1;
    }

    /// Settles a delivery whose copy is stored elsewhere: committed soon, since a crash before that makes a second copy.
    pub(crate) fn moved(&mut self, token: &Token, commit_acks: usize) -> bool {
        let acked = self.ack(token);
        self.acks = self.acks.max(commit_acks);
        acked
    }

    /// Settles one delivery; false when it is stale.
    pub(crate) fn ack(&mut self, token: &Token) -> bool {
        let Some(lane) = self.lanes.get_mut(token.lane as usize) else { return false };
        if !lane.is_current(token) || !lane.tracker.settle(offset_of(token)) {
            return false;
        }
        lane.dirty = true;
        self.acks += 1;
        self.window.acked();
        if lane.parked.is_empty() || !lane.parked.remove(&offset_of(token)) {
            lane.out = lane.out.saturating_sub(1);
            self.out = self.out.saturating_sub(1);
        }
        true
    }

    /// Gives one delivery back; false when it is stale. `counted`: it was begun, so it counts as delivered in vain.
    pub(crate) fn give_back(&mut self, token: &Token, counted: bool) -> bool {
        let Some(lane) = self.lanes.get_mut(token.lane as usize) else { return false };
        if !lane.is_current(token) {
            return false;
        }
        if lane.parked.is_empty() || !lane.parked.remove(&offset_of(token)) {
            lane.out = lane.out.saturating_sub(1);
            self.out = self.out.saturating_sub(1);
        }
        if counted {
            lane.tracker.count_requeue(offset_of(token));
            lane.dirty = true;
        }
        if lane.phase == Phase::Assigned && !self.closing {
            lane.requeued.insert(offset_of(token));
            lane.seek = true;
        }
        true
    }

    /// Records the attempt of a message the core keeps for a retry; false when it is stale.
    pub(crate) fn hold(&mut self, token: &Token, attempt: u32) -> bool {
        let Some(lane) = self.lanes.get_mut(token.lane as usize) else { return false };
        if !lane.is_current(token) {
            return false;
        }
        let offset = offset_of(token);
        lane.tracker.set_attempt(offset, attempt);
        lane.dirty = true;
        if lane.parked.insert(offset) {
            lane.out = lane.out.saturating_sub(1);
            self.out = self.out.saturating_sub(1);
        }
        true
    }

    /// The lane of a delivery still ours.
    pub(crate) fn lane(&self, token: &Token) -> Option<&Lane> {
        self.lanes.get(token.lane as usize).filter(|lane| lane.is_current(token))
    }

    /// Drops what was read of these lanes and not handed out.
    pub(crate) fn forget_unread(&mut self, lanes: &[usize]) {
        for index in lanes {
            if let Some(lane) = self.lanes.get_mut(*index) {
                self.waiting -= usize::from(!lane.overflow.is_empty());
                lane.forget_unread();
            }
        }
        self.buffer.retain(|incoming| !lanes.contains(&(incoming.token.lane as usize)));
    }

    /// What to read again of a lane once it was sought back: what was given back, and from where reading goes on
    /// (behind what was handed out, since everything only read is dropped).
    pub(crate) fn unread_from(&self, lane: usize) -> (BTreeSet<i64>, i64) {
        let Some(lane) = self.lanes.get(lane) else { return Default::default() };
        let unread = self.buffer.iter().filter(|incoming| incoming.token.epoch == lane.epoch).filter(|incoming| {
            self.lanes.get(incoming.token.lane as usize).is_some_and(|other| std::ptr::eq(other, lane))
        });
        let waiting = lane.overflow.iter().chain(lane.held.iter().map(|(_, incoming)| incoming));
        // What was given back and is read again, but not yet handed out, is dropped too: it stays given back.
        let mut place = (lane.requeued.clone(), lane.read);
        for incoming in unread.chain(waiting) {
            lane.place_unread(&mut place, offset_of(&incoming.token));
        }
        place
    }

    /// Ends the assignment of these lanes; those that had messages out.
    pub(crate) fn end(&mut self, lanes: &[usize]) -> Vec<u32> {
        self.forget_unread(lanes);
        let mut had_out = Vec::new();
        for index in lanes {
            if let Some(lane) = self.lanes.get_mut(*index) {
                let parked = !lane.parked.is_empty();
                let out = lane.end();
                self.out = self.out.saturating_sub(out);
                if out > 0 || parked {
                    had_out.push(u32::try_from(*index).unwrap_or(u32::MAX));
                }
            }
        }
        had_out
    }

    pub(crate) fn clear(&mut self) {
        let all: Vec<usize> = (0..self.lanes.len()).collect();
        self.end(&all);
        self.events.clear();
    }
}

pub(crate) fn offset_of(token: &Token) -> i64 {
    i64::try_from(token.major).unwrap_or(i64::MAX)
}

pub(crate) fn settled(ok: bool, durable: bool) -> Settled {
    match (ok, durable) {
        (false, _) => Settled::Stale,
        (true, true) => Settled::Durable,
        (true, false) => Settled::Sent,
    }
}
