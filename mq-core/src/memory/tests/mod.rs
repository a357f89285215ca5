//! The contract, driver by driver call, in virtual time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::driver::{
    BrokerDriver, ConsumerDriver, ConsumerSpec, DeadLettering, Destination, Event, GroupSpec, Hold, Incoming, Receipt,
    Retry, Settle, Settled, Settlement, SettlerDriver, TopicSpec, in_flight,
};
use crate::error::Result;
use crate::memory::MemoryBroker;
use crate::message::Message;
use crate::name::{Group, Topic};
use crate::subscription::{GroupMode, StartFrom, Subscription};

mod admin;
mod faults;
mod groups;
mod model;
mod parallel;
mod receive;
mod send;
mod settle;

const TOPIC: &str = "order.events";
const GROUP: &str = "billing";
const SECOND: Duration = Duration::from_secs(1);

fn topic() -> Topic {
    Topic::parse(TOPIC).unwrap()
}

fn group() -> Group {
    Group::parse(GROUP).unwrap()
}

/// A broker with the topic and the group.
async fn broker(partitions: u32) -> MemoryBroker {
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    admin.declare_topic(&TopicSpec::new(topic()).partitions(partitions)).await.unwrap();
    admin.declare_group(&GroupSpec::new(topic(), group())).await.unwrap();
    broker
}

fn message(body: &str) -> Message {
    Message::to(topic()).body(body.to_owned())
}

async fn send_with(broker: &MemoryBroker, message: Message, due: Option<SystemTime>) -> Result<Receipt> {
    let producer = broker.open_producer().await?;
    let (publish, pending) = in_flight(message, Destination::Topic, due, true);
    producer.publish(vec![publish]).await;
    pending.await.map_err(|(error, _)| error)
}

async fn send(broker: &MemoryBroker, body: &str) -> Receipt {
    send_with(broker, message(body), None).await.unwrap()
}

/// A consumer with both its halves.
struct Reader {
    driver: Box<dyn ConsumerDriver>,
    settler: Arc<dyn SettlerDriver>,
    /// What came beside messages.
    events: Vec<Event>,
}

fn spec(prefetch: usize) -> ConsumerSpec {
    ConsumerSpec::new(Subscription::new(TOPIC, GROUP).prefetch(prefetch))
}

fn ordered(prefetch: usize) -> ConsumerSpec {
    ConsumerSpec::new(Subscription::new(TOPIC, GROUP).prefetch(prefetch).mode(GroupMode::Ordered))
}

impl Reader {
    async fn open(broker: &MemoryBroker, spec: ConsumerSpec) -> Self {
        let (driver, settler) = broker.open_consumer(spec).await.unwrap();
        Self { driver, settler, events: Vec::new() }
    }

    /// What comes within a second.
    async fn poll(&mut self, max: usize) -> Vec<Incoming> {
        let mut events = Vec::new();
        self.driver.poll(&mut events, max, SECOND).await.unwrap();
        let mut messages = Vec::new();
        for event in events {
            match event {
                Event::Message(incoming) => messages.push(incoming),
                other => self.events.push(other),
            }
        }
        messages
    }

    /// The next `count` messages.
    async fn take(&mut self, count: usize) -> Vec<Incoming> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let before = (messages.len(), self.events.len());
            messages.extend(self.poll(count - messages.len()).await);
            assert!(before != (messages.len(), self.events.len()), "{} of {count} messages came", messages.len());
        }
        messages
    }

    async fn settle(&self, incoming: &Incoming, action: Settle) -> Settled {
        let mut batch = vec![Settlement { token: incoming.token, action }];
        self.settler.settle(&mut batch).await.pop().unwrap().unwrap()
    }

    async fn ack(&self, incoming: &Incoming) -> Settled {
        self.settle(incoming, Settle::Ack).await
    }
}

fn body(incoming: &Incoming) -> &str {
    incoming.message.body_bytes().map_or("", |body| std::str::from_utf8(body).unwrap())
}

fn bodies(messages: &[Incoming]) -> Vec<&str> {
    messages.iter().map(body).collect()
}

fn retry(incoming: &Incoming, due: SystemTime, attempt: u32) -> Settle {
    Settle::Retry(Box::new(Retry {
        message: incoming.message.clone(),
        delay: SECOND,
        due,
        attempt,
        first_failed: None,
        redrives: incoming.control.redrives,
    }))
}

fn hold(attempt: u32, due: SystemTime) -> Settle {
    Settle::Hold(Box::new(Hold { attempt, due }))
}

fn dead_letter(incoming: &Incoming, error: &str) -> Settle {
    let record = crate::dead_letter::DeadLetterRecord {
        reason: crate::dead_letter::DeadLetterReason::Rejected,
        error: error.to_owned(),
        attempts: incoming.control.attempt,
        first_failed: None,
        failed: SystemTime::now(),
        topic: topic(),
        group: group(),
        position: incoming.position.clone(),
        redrives: incoming.control.redrives,
    };
    let (message, position) = (incoming.message.clone(), incoming.position.clone());
    Settle::DeadLetter(Box::new(DeadLettering { message, record, position }))
}
