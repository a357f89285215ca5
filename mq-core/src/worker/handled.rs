//! Messages that were handled although their acknowledgement may be lost.

use std::collections::VecDeque;

use lru::LruCache;
use std::num::NonZeroUsize;

use crate::message::{MessageId, Position};
use crate::name::Topic;

/// Acknowledgements known to be lost that are remembered.
const LOST: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// What a message is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) topic: Topic,
    pub(crate) name: Name,
    pub(crate) redrives: u32,
}

/// Its id, or where it stands when it has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Id(MessageId),
    Position(Position),
}

/// Remembers what was handled lately: when the broker flags a message as redelivered and it is in here, it is
/// acknowledged and not run again. Bounded twice: the last few acknowledgements handed to the broker, and those that
/// were answered as stale or failed.
pub(crate) struct Handled {
    recent: VecDeque<Identity>,
    capacity: usize,
    lost: LruCache<Identity, ()>,
}

impl Handled {
    /// Remembers the last `capacity` acknowledgements.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { recent: VecDeque::with_capacity(capacity), capacity, lost: LruCache::new(LOST) }
    }

    /// Its acknowledgement was handed over; a broken connection may still lose it.
    pub(crate) fn sent(&mut self, identity: Identity) {
        if self.recent.len() >= self.capacity {
            self.recent.pop_front();
        }
        self.recent.push_back(identity);
    }

    /// Its acknowledgement came too late or failed.
    pub(crate) fn lost(&mut self, identity: Identity) {
        self.lost.put(identity, ());
    }

    /// True when this message was handled. Looks at everything remembered: only for redelivered messages.
    pub(crate) fn knows(&mut self, identity: &Identity) -> bool {
        self.lost.get(identity).is_some() || self.recent.contains(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_bounded_number_and_not_other_redrives_or_topics() {
        let identity = |topic: &str, id: &str, redrives| Identity {
            topic: Topic::parse(topic).unwrap(),
            name: Name::Id(id.into()),
            redrives,
        };
        let mut handled = Handled::new(2);
        for id in ["a", "b", "c"] {
            handled.sent(identity("t", id, 0));
        }
        handled.lost(identity("t", "d", 1));
        let mut knows = |topic, id, redrives| handled.knows(&identity(topic, id, redrives));
        assert!(!knows("t", "a", 0) && knows("t", "b", 0) && knows("t", "c", 0));
        assert!(!knows("t", "c", 1) && !knows("u", "c", 0));
        assert!(knows("t", "d", 1) && !knows("t", "d", 0));
    }
}
