//! Messages of a lane that nobody may have yet: held for a retry when their consumer went away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::memory::topic::Partition;
use crate::message::Message;
use crate::name::fnv1a;

/// Only that key waits, its followers too; the other messages of the partition go on.
#[derive(Default)]
pub(super) struct Resting {
    until: BTreeSet<(SystemTime, u64)>,
    /// The keys that rest, by hash; made when somebody asks.
    keys: Option<BTreeMap<u64, SystemTime>>,
}

impl Resting {
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }

    pub(super) fn until(&self) -> Option<SystemTime> {
        self.until.first().map(|(due, _)| *due)
    }

    pub(super) fn add(&mut self, offset: u64, due: SystemTime) {
        self.until.insert((due, offset));
        self.keys = None;
    }

    /// A message that must stay behind one that rests.
    pub(super) fn follow(&mut self, offset: u64, due: SystemTime) {
        self.until.insert((due, offset));
    }

    pub(super) fn pop_due(&mut self, now: SystemTime) -> Option<u64> {
        self.until.first().filter(|(due, _)| *due <= now)?;
        self.keys = None;
        self.until.pop_first().map(|(_, offset)| offset)
    }

    /// Until when the key of `message` rests.
    pub(super) fn key_until(&mut self, message: &Message, log: &Partition) -> Option<SystemTime> {
        if self.until.is_empty() {
            return None;
        }
        let key = hash(message)?;
        let until = &self.until;
        let keys = self.keys.get_or_insert_with(|| {
            // The latest counts: whoever waits for one message of a key waits for all of them.
            until.iter().filter_map(|(due, offset)| Some((hash(&log.get(*offset)?.message)?, *due))).collect()
        });
        keys.get(&key).copied()
    }
}

fn hash(message: &Message) -> Option<u64> {
    message.key_bytes().map(|key| fnv1a(key))
}
