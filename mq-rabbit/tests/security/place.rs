//! The broker under test, by its ways in.

use std::sync::Arc;
use std::time::Duration;

use mq_core::Broker;
use mq_core::config::Url;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::Result;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_rabbit::{RabbitBroker, RabbitConfig};

/// How long connecting may take in these tests.
pub(crate) const CONNECT: Duration = Duration::from_secs(4);
/// How much longer than its deadline a call may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// What `variable` of the environment holds.
pub(crate) fn variable(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: cargo xtask brokers up rabbit-4.0 prints what to set"))
}

pub(crate) fn config(url: &str) -> RabbitConfig {
    let mut config = RabbitConfig::from_url(&Url::parse(url).unwrap()).unwrap();
    config.connect_timeout = CONNECT;
    config.send_timeout = CONNECT;
    config
}

pub(crate) async fn connect(config: RabbitConfig) -> Result<Broker> {
    RabbitBroker::connect(config).await.map(|driver| Broker::from_driver(Arc::new(driver)))
}

/// The broker as one who may do everything.
pub(crate) async fn owner() -> Broker {
    connect(config(&variable("MQ_TEST_RABBIT"))).await.unwrap()
}

pub(crate) fn unique(name: &str) -> Topic {
    Topic::parse(format!("{name}-{}", MessageId::generate(std::time::SystemTime::now()))).unwrap()
}

pub(crate) fn group() -> Group {
    Group::parse("g").unwrap()
}

/// A topic with a group, made by one who may do everything.
pub(crate) async fn topic(name: &str) -> Topic {
    let (broker, topic) = (owner().await, unique(name));
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    topic
}

/// Declares, sends, receives and acks.
pub(crate) async fn works(config: RabbitConfig, name: &str) {
    let broker = connect(config).await.unwrap();
    let topic = unique(name);
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group().as_str())).await.unwrap();
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("hello")).await.unwrap();
    let delivery = consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message");
    assert_eq!(delivery.message().body_bytes().unwrap().as_ref(), b"hello");
    delivery.ack().await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 0, "the ack is at the broker");
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
