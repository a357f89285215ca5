//! Whatever happens in whatever order: nothing is lost, nothing settled comes back, and the books agree.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::driver::Origin;
use crate::message::Position;

#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    SendLater(u8, u16),
    Poll(usize, usize),
    Settle(usize, usize, How),
    Join,
    Close(usize),
    Crash(usize),
    Drained(usize),
    Sleep(u16),
    Cut,
    Redrive,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Ack,
    Requeue,
    Release,
    Retry(u16),
    Hold(u16),
    DeadLetter,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Ack),
        1 => Just(How::Requeue),
        1 => Just(How::Release),
        1 => (0..20_000_u16).prop_map(How::Retry),
        1 => (0..20_000_u16).prop_map(How::Hold),
        1 => Just(How::DeadLetter),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u8>().prop_map(Step::Send),
        1 => (any::<u8>(), 0..20_000_u16).prop_map(|(key, delay)| Step::SendLater(key, delay)),
        8 => (0..4_usize, 0..8_usize).prop_map(|(reader, max)| Step::Poll(reader, max)),
        12 => (0..4_usize, 0..8_usize, how()).prop_map(|(reader, which, how)| Step::Settle(reader, which, how)),
        2 => Just(Step::Join),
        1 => (0..4_usize).prop_map(Step::Close),
        1 => (0..4_usize).prop_map(Step::Crash),
        2 => (0..4_usize).prop_map(Step::Drained),
        2 => (0..10_000_u16).prop_map(Step::Sleep),
        1 => Just(Step::Cut),
        1 => Just(Step::Redrive),
    ]
}

/// A reader with what it believes to have in hand, and the revocations it was told of.
struct Hands {
    reader: Reader,
    held: Vec<Incoming>,
    revocations: Vec<u64>,
}

struct World {
    broker: MemoryBroker,
    mode: GroupMode,
    readers: Vec<Hands>,
    sent: u32,
    settled: BTreeSet<String>,
    /// The newest message of each key that was ever delivered.
    newest: BTreeMap<Bytes, Position>,
}

impl World {
    async fn step(&mut self, step: Step) {
        let now = self.broker.clock().now();
        let count = self.readers.len().max(1);
        let reader = |index: usize| index % count;
        match step {
            Step::Send(key) => self.send(key, None).await,
            Step::SendLater(key, delay) => self.send(key, Some(now + Duration::from_millis(delay.into()))).await,
            Step::Poll(index, max) => {
                if let Some(hands) = self.readers.get_mut(reader(index)) {
                    let before = hands.held.len();
                    poll(hands, max).await;
                    check_first_deliveries(&mut self.newest, &hands.held[before..]);
                }
                self.check_no_message_is_held_twice();
            }
            Step::Settle(index, which, how) => self.settle(reader(index), which, how, now).await,
            Step::Join => {
                if self.readers.len() < 4 {
                    let subscription = Subscription::new(TOPIC, GROUP).prefetch(5).mode(self.mode);
                    let spec = ConsumerSpec { parking: 2, ..ConsumerSpec::new(subscription) };
                    let reader = Reader::open(&self.broker, spec).await;
                    self.readers.push(Hands { reader, held: Vec::new(), revocations: Vec::new() });
                }
            }
            Step::Close(index) if index < self.readers.len() => {
                self.readers.remove(index).reader.driver.close(SECOND).await.unwrap();
            }
            Step::Crash(index) if index < self.readers.len() => drop(self.readers.remove(index)),
            Step::Drained(index) => {
                if let Some(hands) = self.readers.get_mut(reader(index))
                    && let Some(revocation) = hands.revocations.pop()
                {
                    hands.reader.driver.revoked(revocation).await.unwrap();
                }
            }
            Step::Sleep(millis) => tokio::time::sleep(Duration::from_millis(millis.into())).await,
            Step::Cut => {
                self.broker.faults().disconnect();
                self.broker.faults().reconnect();
            }
            Step::Redrive => {
                let mut dead = self.broker.admin().dead_letters(&topic(), &group()).await.unwrap();
                dead.redrive(2).await.unwrap();
            }
            Step::Close(_) | Step::Crash(_) => {}
        }
    }

    async fn send(&mut self, key: u8, due: Option<SystemTime>) {
        let mut message = message(&self.sent.to_string());
        if key.is_multiple_of(2) {
            message = message.key([key % 8]);
        }
        send_with(&self.broker, message, due).await.unwrap();
        self.sent += 1;
    }

    async fn settle(&mut self, index: usize, which: usize, how: How, now: SystemTime) {
        let Some(hands) = self.readers.get_mut(index) else { return };
        if hands.held.is_empty() {
            return;
        }
        let which = which % hands.held.len();
        let incoming = &hands.held[which];
        let attempt = incoming.control.attempt + 1;
        let action = match how {
            How::Ack => Settle::Ack,
            How::Requeue => Settle::Requeue,
            How::Release => Settle::Release,
            How::Retry(millis) => retry(incoming, now + Duration::from_millis(millis.into()), attempt),
            How::Hold(millis) => hold(attempt, now + Duration::from_millis(millis.into())),
            How::DeadLetter => dead_letter(incoming, "bad"),
        };
        let outcome = hands.reader.settle(incoming, action).await;
        if matches!(how, How::Ack) && outcome == Settled::Durable {
            let new = self.settled.insert(body(incoming).to_owned());
            assert!(new, "{} was settled twice", body(incoming));
        }
        if !matches!(how, How::Hold(_)) || outcome == Settled::Stale {
            hands.held.remove(which);
        }
    }

    /// Of all deliveries believed in hand, at most one per message is not stale.
    fn check_no_message_is_held_twice(&self) {
        let in_flight = self.broker.backlog(TOPIC, GROUP).unwrap().unsettled.unwrap();
        let bodies: BTreeSet<_> = self.readers.iter().flat_map(|hands| &hands.held).map(body).collect();
        assert!(in_flight <= bodies.len() as u64, "{in_flight} in flight, {bodies:?} in hand");
    }

    /// Reads everything to the end with one new consumer: what was sent is settled exactly once, whatever happened.
    async fn finish(mut self) {
        self.readers.clear();
        let mut dead = self.broker.admin().dead_letters(&topic(), &group()).await.unwrap();
        dead.redrive(usize::MAX).await.unwrap();
        self.step(Step::Join).await;
        while self.settled.len() < self.sent as usize {
            let hands = &mut self.readers[0];
            let mut events = Vec::new();
            hands.reader.driver.poll(&mut events, 100, Duration::from_secs(60)).await.unwrap();
            assert!(!events.is_empty(), "{} of {} settled, and nothing comes", self.settled.len(), self.sent);
            for event in events {
                if let Event::Message(incoming) = event {
                    assert_eq!(hands.reader.ack(&incoming).await, Settled::Durable);
                    assert!(self.settled.insert(body(&incoming).to_owned()), "{} came back", body(&incoming));
                }
            }
        }
        let lag = self.broker.backlog(TOPIC, GROUP).unwrap();
        assert_eq!((lag.ready, lag.unsettled, lag.retrying, lag.dead), (0, Some(0), Some(0), Some(0)));
        // Only the log is left in the books.
        let kept: usize = self.broker.sent(TOPIC).unwrap().iter().map(Message::size).sum();
        let info = self.broker.admin().describe_topic(&topic()).await.unwrap();
        let book = |name: &str| info.properties.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!((book("messages"), book("bytes")), (self.sent.to_string(), kept.to_string()));
    }
}

/// Whatever was requeued, held, crashed or moved: messages are seen for the first time in the order of their key.
fn check_first_deliveries(newest: &mut BTreeMap<Bytes, Position>, delivered: &[Incoming]) {
    for incoming in delivered.iter().filter(|incoming| incoming.origin == Origin::Topic && !incoming.redelivered) {
        let Some(key) = incoming.message.key_bytes() else { continue };
        let before = newest.insert(key.clone(), incoming.position.clone());
        assert!(before.as_ref() < Some(&incoming.position), "{:?} came after {before:?}", incoming.position);
    }
}

async fn poll(hands: &mut Hands, max: usize) {
    let mut events = Vec::new();
    hands.reader.driver.poll(&mut events, max, Duration::ZERO).await.unwrap();
    for event in events {
        match event {
            Event::Message(incoming) => hands.held.push(incoming),
            Event::Revoking(revocation, _) => hands.revocations.push(revocation),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_comes_back(
        steps in prop::collection::vec(step(), 0..150),
        is_ordered in any::<bool>(),
        partitions in 1..5_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let broker = MemoryBroker::new();
            let mode = if is_ordered { GroupMode::Ordered } else { GroupMode::Shared };
            broker.admin().declare_topic(&TopicSpec::new(topic()).partitions(partitions)).await.unwrap();
            let mut spec = GroupSpec::new(topic(), group());
            spec.mode = mode;
            broker.admin().declare_group(&spec).await.unwrap();
            let mut world = World { broker, mode, readers: Vec::new(), sent: 0, settled: BTreeSet::new(), newest: BTreeMap::new() };
            world.step(Step::Join).await;
            for step in steps {
                world.step(step).await;
            }
            world.finish().await;
        });
    }
}
