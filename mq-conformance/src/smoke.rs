//! The shortest way through a server: for the tests of adapters that ask who gets in at all.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "for tests alone")]

use std::time::{Duration, SystemTime};

use mq_core::Broker;
use mq_core::driver::TopicSpec;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;

/// How long a message may take on a busy machine.
const WAIT: Duration = Duration::from_secs(15);

/// What `variable` of the environment holds; `kind` is what `cargo xtask brokers up` starts to set it.
///
/// # Panics
/// When it is not set: a missing broker fails the test.
pub fn variable(variable: &str, kind: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: cargo xtask brokers up {kind} prints what to set"))
}

/// A topic nobody else has.
///
/// # Panics
/// When `name` is none.
pub fn unique(name: &str) -> Topic {
    Topic::parse(format!("{name}-{}", MessageId::generate(SystemTime::now()))).unwrap()
}

/// The group of these tests.
///
/// # Panics
/// Never: the name is one.
pub fn group() -> Group {
    Group::parse("g").unwrap()
}

/// Declares, sends, receives and acks, and closes the broker.
///
/// # Panics
/// When one of them fails.
pub async fn works(broker: Broker, name: &str) {
    let topic = unique(name);
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group().as_str())).await.unwrap();
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("hello")).await.unwrap();
    let delivery = consumer.recv_within(WAIT).await.unwrap().expect("a message");
    assert_eq!(delivery.message().body_bytes().unwrap().as_ref(), b"hello");
    delivery.ack().await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 0, "the ack is at the broker");
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
