//! The broker under test, by its ways in.

use std::sync::Arc;
use std::time::Duration;

use mq_core::Broker;
use mq_core::driver::TopicSpec;
use mq_core::message::{Message, MessageId};
use mq_core::name::Topic;
use mq_core::subscription::Subscription;
use mq_kafka::{Config, Kafka, Profile};

/// How long connecting may take in these tests.
pub(crate) const CONNECT: Duration = Duration::from_secs(4);
/// How much longer than its deadline a call may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// What `variable` of the environment names.
pub(crate) fn url(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} names no broker: cargo xtask brokers up kafka prints what to set"))
}

pub(crate) fn config(url: &str) -> Config {
    let mut config = Config::from_url(url).unwrap();
    // The servers for tests are single nodes.
    config.profile = Profile::Development;
    config.connect_timeout = CONNECT;
    config.send_timeout = CONNECT;
    config
}

pub(crate) fn broker(config: Config) -> Broker {
    Broker::from_driver(Arc::new(Kafka::new(config).unwrap()))
}

/// The broker as one who may do everything.
pub(crate) fn owner() -> Broker {
    broker(config(&url("MQ_TEST_KAFKA")))
}

pub(crate) fn unique(name: &str) -> Topic {
    Topic::parse(format!("{name}-{}", MessageId::generate(std::time::SystemTime::now()))).unwrap()
}

/// A topic made by one who may do everything.
pub(crate) async fn topic(name: &str) -> Topic {
    let topic = unique(name);
    declare(&owner(), &topic).await;
    topic
}

pub(crate) async fn declare(broker: &Broker, topic: &Topic) {
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
}

/// Declares, sends, receives and acks.
pub(crate) async fn works(config: Config, name: &str) {
    let broker = broker(config);
    let topic = unique(name);
    declare(&broker, &topic).await;
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), "g")).await.unwrap();
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("hello")).await.unwrap();
    let delivery = consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message");
    assert_eq!(delivery.message().body_bytes().unwrap().as_ref(), b"hello");
    delivery.ack().await.unwrap();
    consumer.close().await.unwrap();
    let group = mq_core::name::Group::parse("g").unwrap();
    assert_eq!(broker.admin().lag(&topic, &group).await.unwrap().ready, 0, "the ack is at the broker");
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
