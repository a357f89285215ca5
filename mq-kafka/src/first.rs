//! The first messages of a partition: until one with a key is stored there, only one with a key is underway.
//!
//! A broker that knows nothing of this client in a partition takes any sequence number from it. When it refuses the
//! first request in passing (a topic just made, too few copies in sync) and takes the second, which was underway already,
//! the first is made again behind the second: the order is gone (docs/decisions/kafka-first-messages.md). Once
//! something of this client is stored, the broker refuses what comes out of turn.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mq_core::driver::Publish;
use mq_core::error::{Error, ErrorKind};

use crate::error::{BACKEND, fault};
use crate::partition::partition_of;

/// What became of a message given to the client.
pub(crate) enum Sent {
    /// Its report will come.
    Underway,
    /// Refused, and completed.
    Refused,
    /// The client's queue is full.
    Full(Publish),
}

/// Hands a message to the client; with a ticket, its report must end it.
pub(crate) trait Client {
    fn send(&self, publish: Publish, ticket: Option<Ticket>) -> Sent;
    /// How many partitions the topic has.
    fn partitions(&self, topic: &str) -> Option<u32>;
}

/// Says whose turn it was.
pub(crate) struct Ticket {
    places: Arc<Places>,
    at: usize,
}

/// All topics sent to.
pub(crate) struct Firsts {
    topics: RwLock<HashMap<String, Arc<Places>>>,
    /// Something waits for room in the client's queue.
    crowded: AtomicBool,
    /// Nothing more is sent by this client.
    over: AtomicBool,
    /// How long a send may take.
    limit: Duration,
}

/// The partitions of one topic.
struct Places {
    topic: String,
    /// Nothing waits, and nothing will.
    open: AtomicBool,
    slots: Mutex<Slots>,
}

struct Slots {
    /// One place for each partition; before that is known one for all.
    sized: bool,
    places: Vec<Place>,
}

#[derive(Default)]
struct Place {
    state: State,
    held: VecDeque<Held>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing stored yet, nothing underway.
    #[default]
    Closed,
    /// The first is underway.
    Trying,
    /// Something is stored.
    Open,
}

struct Held {
    publish: Publish,
    since: Instant,
}

impl Firsts {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { topics: RwLock::default(), crowded: AtomicBool::new(false), over: AtomicBool::new(false), limit }
    }

    /// Keeps what must wait its turn; gives back what may go at once.
    pub(crate) fn admit(&self, publish: Publish, client: &impl Client) -> Option<Publish> {
        if publish.message().key_bytes().is_none() {
            // No order is promised.
            return Some(publish);
        }
        let places = match self.places(publish.message().topic().name()) {
            Some(places) => places,
            None => return Some(publish),
        };
        let mut slots = places.lock();
        let at = slots.place_of(&publish);
        let place = slots.places.get_mut(at)?;
        if place.state == State::Open && place.held.is_empty() {
            return Some(publish);
        }
        place.held.push_back(Held { publish, since: Instant::now() });
        self.go_on(&places, &mut slots, at, client);
        None
    }

    /// A first message's report has come; `partition` is where it is stored.
    pub(crate) fn ended(&self, ticket: &Ticket, partition: Option<u32>, client: &impl Client) {
        let Ticket { places, at } = ticket;
        let stored = partition.and_then(|partition| usize::try_from(partition).ok());
        // Asked without the lock; also when the topic has more partitions than it had.
        let unsure = stored.is_some_and(|stored| stored != *at || !places.lock().sized);
        let count = unsure.then(|| client.partitions(&places.topic)).flatten();
        let mut slots = places.lock();
        if let Some(place) = slots.places.get_mut(*at) {
            place.state = State::Closed;
        }
        if let Some(count) = count {
            slots.resize(count as usize);
        }
        if slots.sized
            && let Some(place) = stored.and_then(|stored| slots.places.get_mut(stored))
            && place.state == State::Closed
        {
            place.state = State::Open;
        }
        (0..slots.places.len()).for_each(|at| self.go_on(places, &mut slots, at, client));
        let done = slots.sized && slots.places.iter().all(|place| place.state == State::Open && place.held.is_empty());
        places.open.store(done, Ordering::Release);
    }

    /// Something waits for room in the client's queue.
    pub(crate) fn crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// There may be room in the client's queue again.
    pub(crate) fn freed(&self, client: &impl Client) {
        if !self.crowded.swap(false, Ordering::AcqRel) {
            return;
        }
        let topics: Vec<Arc<Places>> =
            self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for places in topics {
            let mut slots = places.lock();
            (0..slots.places.len()).for_each(|at| self.go_on(&places, &mut slots, at, client));
        }
    }

    /// Ends what waits, and what is still to come: another client has taken this one's place.
    pub(crate) fn give_up(&self) {
        self.over.store(true, Ordering::Release);
        let topics: Vec<Arc<Places>> =
            self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for places in topics {
            for place in &mut places.lock().places {
                place.end();
            }
        }
    }

    /// Hands over what may go.
    fn go_on(&self, places: &Arc<Places>, slots: &mut Slots, at: usize, client: &impl Client) {
        let Some(place) = slots.places.get_mut(at) else { return };
        if self.over.load(Ordering::Acquire) {
            place.end();
        }
        while place.state != State::Trying
            && let Some(Held { publish, since }) = place.held.pop_front()
        {
            let first = place.state == State::Closed;
            // Behind a first that failed: with a whole deadline each, the last would end far too late.
            if first && since.elapsed() > self.limit / 2 {
                publish.complete(Err(Error::timeout(self.limit).with_backend(BACKEND).with_operation("send")));
                continue;
            }
            let ticket = first.then(|| Ticket { places: Arc::clone(places), at });
            match client.send(publish, ticket) {
                Sent::Underway if first => place.state = State::Trying,
                Sent::Underway | Sent::Refused => {}
                Sent::Full(publish) => {
                    place.held.push_front(Held { publish, since });
                    self.crowded.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }

    /// The topic's places, unless all are open.
    fn places(&self, topic: &str) -> Option<Arc<Places>> {
        if let Some(places) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return (!places.open.load(Ordering::Acquire)).then(|| Arc::clone(places));
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let made = topics.entry(topic.to_owned()).or_insert_with(|| {
            Arc::new(Places {
                topic: topic.to_owned(),
                open: AtomicBool::new(false),
                slots: Mutex::new(Slots { sized: false, places: vec![Place::default()] }),
            })
        });
        Some(Arc::clone(made))
    }

    /// Messages that wait their turn.
    pub(crate) fn held(&self) -> usize {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let waiting = topics.values().filter(|places| !places.open.load(Ordering::Acquire));
        waiting.map(|places| places.lock().places.iter().map(|place| place.held.len()).sum::<usize>()).sum()
    }
}

impl Drop for Firsts {
    fn drop(&mut self) {
        let topics = self.topics.get_mut().unwrap_or_else(PoisonError::into_inner);
        for places in topics.values() {
            for place in &mut places.lock().places {
                for held in place.held.drain(..) {
                    held.publish.complete(Err(fault(ErrorKind::Closed, "the producer is closed")));
                }
            }
        }
    }
}

impl Place {
    fn end(&mut self) {
        for Held { publish, .. } in self.held.drain(..) {
            let error = fault(ErrorKind::Unavailable, "the client had lost every broker, and another took its place");
            publish.complete(Err(error.with_operation("send").with_hint("send it again")));
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn place_of(&self, publish: &Publish) -> usize {
        publish.message().key_bytes().map_or(0, |key| partition_of(key, self.places.len()))
    }

    /// What waits goes to its partition's place, in its order.
    fn resize(&mut self, count: usize) {
        let count = count.max(self.places.len()).max(1);
        let before = std::mem::take(&mut self.places);
        let kept = self.sized;
        self.places.resize_with(count, Place::default);
        self.sized = true;
        for (at, place) in before.into_iter().enumerate() {
            if kept && let Some(now) = self.places.get_mut(at) {
                now.state = place.state;
            }
            for held in place.held {
                let at = self.place_of(&held.publish);
                if let Some(now) = self.places.get_mut(at) {
                    now.held.push_back(held);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use mq_core::driver::{Destination, Pending, in_flight};
    use mq_core::error::Result;
    use mq_core::message::Message;
    use mq_core::name::Topic;

    use super::*;

    /// A client that only writes down what it is given.
    #[derive(Default)]
    struct Desk {
        sent: RefCell<Vec<(String, Publish, Option<Ticket>)>>,
        partitions: Option<u32>,
        full: std::cell::Cell<bool>,
    }

    impl Client for Desk {
        fn send(&self, publish: Publish, ticket: Option<Ticket>) -> Sent {
            if self.full.get() {
                return Sent::Full(publish);
            }
            let id = publish.message().message_id().map(ToString::to_string).unwrap_or_default();
            self.sent.borrow_mut().push((id, publish, ticket));
            Sent::Underway
        }

        fn partitions(&self, _: &str) -> Option<u32> {
            self.partitions
        }
    }

    impl Desk {
        fn new(partitions: u32) -> Self {
            Self { partitions: Some(partitions), ..Self::default() }
        }

        /// What was sent since the last look, and the tickets among it.
        fn take(&self) -> (Vec<String>, Vec<Ticket>) {
            let sent = self.sent.take();
            let ids = sent.iter().map(|(id, _, _)| id.clone()).collect();
            (ids, sent.into_iter().filter_map(|(_, _, ticket)| ticket).collect())
        }
    }

    fn message(id: &str, key: Option<&str>) -> (Publish, Pending) {
        let mut message = Message::to(Topic::parse("orders").unwrap()).id(id);
        if let Some(key) = key {
            message = message.key(key);
        }
        in_flight(message, Destination::Topic, None, true)
    }

    fn offer(firsts: &Firsts, desk: &Desk, id: &str, key: Option<&str>) -> (bool, Pending) {
        let (publish, pending) = message(id, key);
        (firsts.admit(publish, desk).is_some(), pending)
    }

    #[test]
    fn one_at_a_time_until_one_is_stored() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        for id in ["a", "b", "c"] {
            assert!(!offer(&firsts, &desk, id, Some("k")).0, "{id}");
        }
        let (ids, tickets) = desk.take();
        assert_eq!((ids.len(), firsts.held()), (1, 2));
        for ticket in &tickets {
            firsts.ended(ticket, Some(0), &desk);
        }
        assert_eq!(desk.take().0, ["b", "c"]);
        assert_eq!(firsts.held(), 0);
        assert!(offer(&firsts, &desk, "d", Some("k")).0, "the partition is open");
    }

    #[test]
    fn without_a_key_nothing_waits() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        drop(offer(&firsts, &desk, "a", Some("k")));
        assert!(offer(&firsts, &desk, "b", None).0);
    }

    #[test]
    fn after_a_failure_the_next_is_the_first() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        for id in ["a", "b", "c"] {
            drop(offer(&firsts, &desk, id, Some("k")));
        }
        let (_, tickets) = desk.take();
        tickets.iter().for_each(|ticket| firsts.ended(ticket, None, &desk));
        let (ids, tickets) = desk.take();
        assert_eq!((ids, tickets.len(), firsts.held()), (vec!["b".to_owned()], 1, 1));
    }

    #[test]
    fn each_partition_has_a_first_of_its_own() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(2));
        let keys = ["0", "1", "2", "3", "4", "5"];
        for (n, key) in keys.iter().enumerate() {
            drop(offer(&firsts, &desk, &n.to_string(), Some(key)));
        }
        let (_, tickets) = desk.take();
        let stored = u32::try_from(partition_of(b"0", 2)).unwrap();
        tickets.iter().for_each(|ticket| firsts.ended(ticket, Some(stored), &desk));
        let (ids, tickets) = desk.take();
        let open = |n: usize| partition_of(keys[n].as_bytes(), 2) == stored as usize;
        // All of the partition that is open, and one of the other.
        assert_eq!(ids.len(), (1..keys.len()).filter(|n| open(*n)).count() + 1);
        assert_eq!(tickets.len(), 1);
        tickets.iter().for_each(|ticket| firsts.ended(ticket, Some(1 - stored), &desk));
        assert_eq!(firsts.held(), 0);
        let order: Vec<usize> = desk.take().0.iter().map(|id| id.parse().unwrap()).collect();
        assert!(order.is_sorted() && order.iter().all(|n| !open(*n)), "{order:?}");
    }

    #[test]
    fn a_full_client_is_asked_again() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        desk.full.set(true);
        drop(offer(&firsts, &desk, "a", Some("k")));
        assert!(firsts.crowded());
        desk.full.set(false);
        firsts.freed(&desk);
        assert_eq!(desk.take().0, ["a"]);
    }

    #[test]
    fn what_waited_long_behind_a_failure_ends_with_it() {
        let (firsts, desk) = (Firsts::new(Duration::ZERO), Desk::new(1));
        let ended = std::sync::Arc::new(Mutex::new(Vec::<bool>::new()));
        let (publish, first) = message("a", Some("k"));
        // With no time at all even the first is late.
        let seen = std::sync::Arc::clone(&ended);
        first.on_complete(move |result: Result<_>| seen.lock().unwrap().push(result.is_err()));
        assert!(firsts.admit(publish, &desk).is_none());
        assert_eq!(*ended.lock().unwrap(), [true]);
    }

    #[test]
    fn what_waits_ends_when_another_client_takes_over() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        drop(offer(&firsts, &desk, "a", Some("k")));
        let (_b, _c) = (offer(&firsts, &desk, "b", Some("k")), offer(&firsts, &desk, "c", Some("k")));
        let (_, tickets) = desk.take();
        firsts.give_up();
        assert_eq!(firsts.held(), 0);
        tickets.iter().for_each(|ticket| firsts.ended(ticket, None, &desk));
        drop(offer(&firsts, &desk, "d", Some("k")));
        assert_eq!((desk.take().0.len(), firsts.held()), (0, 0));
    }

    #[test]
    fn what_waits_is_told_when_the_producer_goes() {
        let (firsts, desk) = (Firsts::new(Duration::from_secs(60)), Desk::new(1));
        drop(offer(&firsts, &desk, "a", Some("k")));
        let (publish, waits) = message("b", Some("k"));
        assert!(firsts.admit(publish, &desk).is_none());
        let kinds = std::sync::Arc::new(Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&kinds);
        waits.on_complete(move |result: Result<_>| seen.lock().unwrap().push(result.unwrap_err().kind()));
        drop(firsts);
        assert_eq!(*kinds.lock().unwrap(), [ErrorKind::Closed]);
    }
}
