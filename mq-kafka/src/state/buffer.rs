//! What the reading thread has read and the consumer has not asked for yet.
//!
//! Messages stay in the list they were read into: a message is some four hundred bytes, and moving each from list to
//! list costs as much as decoding it. A whole batch changes hands by exchanging two pointers.

use std::collections::VecDeque;

use mq_core::driver::{Event, Incoming};

/// Messages read together, in order.
#[derive(Default)]
struct Batch {
    events: VecDeque<Event>,
    bytes: usize,
}

/// Batches read, in order.
#[derive(Default)]
pub(crate) struct Buffer {
    batches: VecDeque<Batch>,
    len: usize,
    bytes: usize,
    /// A list the consumer has emptied, to be filled again.
    spare: Vec<Event>,
}

impl Buffer {
    /// Messages in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the messages in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds `events`, all of them messages, and leaves an empty list in their place.
    pub(crate) fn push_batch(&mut self, events: &mut Vec<Event>) {
        let bytes = events.iter().filter_map(message).map(size).sum();
        self.len += events.len();
        self.bytes += bytes;
        let events = std::mem::replace(events, std::mem::take(&mut self.spare));
        self.batches.push_back(Batch { events: events.into(), bytes });
    }

    /// Adds one message.
    pub(crate) fn push(&mut self, incoming: Incoming) {
        let bytes = size(&incoming);
        self.len += 1;
        self.bytes += bytes;
        self.batches.push_back(Batch { events: VecDeque::from([Event::Message(incoming)]), bytes });
    }

    /// Takes the first message.
    pub(crate) fn pop(&mut self) -> Option<Incoming> {
        loop {
            let batch = self.batches.front_mut()?;
            match batch.events.pop_front() {
                Some(Event::Message(incoming)) => {
                    let bytes = size(&incoming);
                    batch.bytes = batch.bytes.saturating_sub(bytes);
                    self.len -= 1;
                    self.bytes = self.bytes.saturating_sub(bytes);
                    return Some(incoming);
                }
                Some(_) => self.len -= 1,
                None => drop(self.batches.pop_front()),
            }
        }
    }

    /// Exchanges the first batch for `events`, which is empty, if it has at most `max` messages and `check` finds
    /// nothing against any of them; false, and nothing done, otherwise.
    pub(crate) fn take_batch(
        &mut self,
        events: &mut Vec<Event>,
        max: usize,
        mut check: impl FnMut(&Incoming) -> bool,
    ) -> bool {
        let Some(batch) = self.batches.front().filter(|batch| batch.events.len() <= max) else { return false };
        if !batch.events.iter().filter_map(message).all(&mut check) {
            return false;
        }
        let Some(batch) = self.batches.pop_front() else { return false };
        self.len -= batch.events.len();
        self.bytes = self.bytes.saturating_sub(batch.bytes);
        self.spare = std::mem::replace(events, batch.events.into());
        true
    }

    /// Every message, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Incoming> {
        self.batches.iter().flat_map(|batch| &batch.events).filter_map(message)
    }

    /// Drops the messages for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Incoming) -> bool) {
        (self.len, self.bytes) = (0, 0);
        for batch in &mut self.batches {
            batch.events.retain(|event| message(event).is_some_and(&keep));
            batch.bytes = batch.events.iter().filter_map(message).map(size).sum();
            self.len += batch.events.len();
            self.bytes += batch.bytes;
        }
        self.batches.retain(|batch| !batch.events.is_empty());
    }
}

fn message(event: &Event) -> Option<&Incoming> {
    match event {
        Event::Message(incoming) => Some(incoming),
        _ => None,
    }
}

fn size(incoming: &Incoming) -> usize {
    incoming.message.size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::driver::{Origin, Token};
    use mq_core::message::{Control, Message, Position};

    fn incoming(offset: u64) -> Incoming {
        Incoming {
            token: Token { epoch: 1, lane: u32::from(offset % 2 == 1), major: offset, minor: 0 },
            message: Message::new("t").unwrap().body("four"),
            position: Position::None,
            control: Control::default(),
            redeliveries: 0,
            redelivered: false,
            origin: Origin::Topic,
        }
    }

    fn batch(offsets: std::ops::Range<u64>) -> Vec<Event> {
        offsets.map(|offset| Event::Message(incoming(offset))).collect()
    }

    fn offsets<'a>(events: impl IntoIterator<Item = &'a Incoming>) -> Vec<u64> {
        events.into_iter().map(|incoming| incoming.token.major).collect()
    }

    #[test]
    fn batches_change_hands_whole_or_one_by_one() {
        let mut buffer = Buffer::default();
        let mut list = batch(0..3);
        buffer.push_batch(&mut list);
        assert!(list.is_empty());
        buffer.push(incoming(3));
        buffer.push_batch(&mut batch(4..8));
        assert_eq!((buffer.len(), buffer.bytes()), (8, 32));
        let mut events = Vec::new();
        assert!(!buffer.take_batch(&mut events, 2, |_| true), "too many");
        assert!(!buffer.take_batch(&mut events, 3, |incoming| incoming.token.major < 2), "one is refused");
        assert_eq!(offsets(buffer.iter()), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(buffer.take_batch(&mut events, 3, |_| true));
        assert_eq!(offsets(events.iter().filter_map(message)), [0, 1, 2]);
        assert_eq!(buffer.pop().map(|incoming| incoming.token.major), Some(3));
        assert_eq!(buffer.pop().map(|incoming| incoming.token.major), Some(4));
        assert_eq!((buffer.len(), buffer.bytes()), (3, 12));
        events.clear();
        assert!(buffer.take_batch(&mut events, 3, |_| true));
        assert_eq!(offsets(events.iter().filter_map(message)), [5, 6, 7]);
        assert!(buffer.is_empty() && buffer.bytes() == 0 && buffer.pop().is_none());
    }

    #[test]
    fn what_is_dropped_no_longer_counts() {
        let mut buffer = Buffer::default();
        buffer.push_batch(&mut batch(0..4));
        buffer.push_batch(&mut batch(5..6));
        buffer.retain(|incoming| incoming.token.lane == 0);
        assert_eq!(offsets(buffer.iter()), [0, 2]);
        assert_eq!((buffer.len(), buffer.bytes()), (2, 8));
    }
}
