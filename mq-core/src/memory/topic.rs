//! One topic: its log, its groups, and how much it may keep.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use crate::memory::config::MemoryConfig;
use crate::memory::group::GroupState;
use crate::message::Message;
use crate::name::{Topic, fnv1a};

/// A message in the log.
pub(super) struct Entry {
    pub(super) message: Message,
    /// Its place in the order of everything the broker took in.
    pub(super) sequence: u64,
    /// When it was stored, by the broker's clock.
    pub(super) stored: SystemTime,
    pub(super) size: usize,
}

/// One partition of the log.
#[derive(Default)]
pub(super) struct Partition {
    /// The offset of the oldest entry kept.
    pub(super) base: u64,
    pub(super) entries: VecDeque<Entry>,
}

impl Partition {
    pub(super) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Entry> {
        let index = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.entries.get(index)
    }

    /// The first offset stored at or after `time`; the end when there is none.
    pub(super) fn offset_at(&self, time: SystemTime) -> u64 {
        self.base + self.entries.partition_point(|entry| entry.stored < time) as u64
    }
}

/// A message that becomes visible later.
pub(super) struct DelayedSend {
    pub(super) message: Message,
    pub(super) size: usize,
}

/// A topic.
pub(super) struct TopicState {
    pub(super) topic: Topic,
    pub(super) log: Vec<Partition>,
    pub(super) retention: Option<Duration>,
    pub(super) groups: BTreeMap<u32, GroupState>,
    pub(super) delayed: BTreeMap<(SystemTime, u64), DelayedSend>,
    /// Messages kept in any place: log, delayed, retries, dead letters.
    pub(super) count: usize,
    pub(super) bytes: usize,
    turn: u32,
}

impl TopicState {
    pub(super) fn new(topic: Topic, partitions: u32, retention: Option<Duration>) -> Self {
        Self {
            topic,
            log: (0..partitions).map(|_| Partition::default()).collect(),
            retention,
            groups: BTreeMap::new(),
            delayed: BTreeMap::new(),
            count: 0,
            bytes: 0,
            turn: 0,
        }
    }

    /// The partition of a key never changes; messages without one take turns.
    pub(super) fn partition_for(&mut self, message: &Message) -> u32 {
        let partitions = self.log.len() as u64;
        match message.key_bytes() {
            Some(key) => (fnv1a(key) % partitions) as u32,
            None => {
                let turn = self.turn;
                self.turn = if u64::from(turn) + 1 < partitions { turn + 1 } else { 0 };
                turn
            }
        }
    }

    /// Stores a message in the log; its offset.
    pub(super) fn append(&mut self, partition: u32, entry: Entry) -> u64 {
        let log = &mut self.log[partition as usize];
        let offset = log.end();
        log.entries.push_back(entry);
        offset
    }

    pub(super) fn keep(&mut self, size: usize) {
        self.count += 1;
        self.bytes += size;
    }

    pub(super) fn forget(&mut self, size: usize) {
        self.forget_many(1, size);
    }

    pub(super) fn forget_many(&mut self, count: usize, bytes: usize) {
        self.count = self.count.saturating_sub(count);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Makes room for one message of `size` by forgetting what every group has settled, oldest first. False when
    /// the topic is full of what is still needed.
    pub(super) fn make_room(&mut self, size: usize, config: &MemoryConfig) -> bool {
        while self.count >= config.capacity || self.bytes.saturating_add(size) > config.capacity_bytes {
            let Some(index) = (0..self.log.len()).find(|index| self.log[*index].base < self.needed_from(*index)) else {
                return false;
            };
            self.drop_oldest(index);
        }
        true
    }

    /// Forgets what is older than the retention and not waited for by any group.
    pub(super) fn expire(&mut self, now: SystemTime) {
        let Some(retention) = self.retention else { return };
        for index in 0..self.log.len() {
            let needed = if self.groups.is_empty() { u64::MAX } else { self.needed_from(index) };
            while let log = &self.log[index]
                && let Some(oldest) = log.entries.front()
                && log.base < needed
                && now.duration_since(oldest.stored).is_ok_and(|age| age > retention)
            {
                self.drop_oldest(index);
            }
        }
    }

    /// The oldest offset a group still needs. Without groups everything is kept for those to come.
    fn needed_from(&self, index: usize) -> u64 {
        self.groups.values().map(|group| group.lanes[index].low).min().unwrap_or(0)
    }

    fn drop_oldest(&mut self, index: usize) {
        let log = &mut self.log[index];
        if let Some(entry) = log.entries.pop_front() {
            log.base += 1;
            self.forget(entry.size);
        }
    }
}

impl TopicState {
    /// When the next delayed send is due.
    pub(super) fn next_send(&self) -> Option<SystemTime> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// When something happens by itself that this group would see.
    pub(super) fn next_due(&self, group: u32) -> Option<SystemTime> {
        let own = self.groups.get(&group).and_then(GroupState::next_due);
        self.next_send().into_iter().chain(own).min()
    }

    /// Deletes a group with its retries and dead letters.
    pub(super) fn remove_group(&mut self, group: u32) {
        let Some(group) = self.groups.remove(&group) else { return };
        group.kept_sizes().for_each(|size| self.forget(size));
    }
}
