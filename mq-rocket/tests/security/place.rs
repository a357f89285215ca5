//! The brokers under test.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mq_conformance::smoke;
use mq_core::config::Url;
use mq_core::driver::TopicSpec;
use mq_core::error::Result;
use mq_core::message::Message;
use mq_core::name::Group;
use mq_core::subscription::Subscription;
use mq_core::{Broker, Verdict};
use mq_rocket::{RocketBroker, RocketConfig};

/// How long connecting may take in these tests.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// How much longer than its deadline a call may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// The broker that `variable` of the environment names.
pub(crate) fn config(variable: &str) -> RocketConfig {
    let url = smoke::variable(variable, "rocket-5.4 rocket-5.4-guarded");
    let mut config = RocketConfig::from_url(&Url::parse(&url).unwrap()).unwrap();
    config.connect_timeout = CONNECT;
    config.send_timeout = CONNECT;
    config.partitions = 2;
    config
}

pub(crate) fn open() -> RocketConfig {
    config("MQ_TEST_ROCKET")
}

pub(crate) fn encrypted() -> RocketConfig {
    config("MQ_TEST_ROCKET_TLS")
}

pub(crate) fn guarded() -> RocketConfig {
    config("MQ_TEST_ROCKET_GUARDED")
}

pub(crate) async fn connect(config: RocketConfig) -> Result<Broker> {
    RocketBroker::connect(config).await.map(|driver| Broker::from_driver(Arc::new(driver)))
}

/// A file beside the authority.
pub(crate) fn beside(config: &RocketConfig, name: &str) -> Option<PathBuf> {
    config.tls.ca.as_ref().map(|path| path.with_file_name(name))
}

/// Declares, sends, receives and acks; and the same with a half message.
pub(crate) async fn works(config: RocketConfig, name: &str) {
    // A topic is known at the name server a moment after it is made.
    let config = RocketConfig { connect_timeout: CONNECT * 4, ..config };
    let broker = connect(config).await.unwrap();
    let (topic, group) = (smoke::unique(name), Group::parse("security").unwrap());
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group.as_str())).await.unwrap();
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("hello")).await.unwrap();
    let half = broker.half_producer("security", |_| async { Verdict::Unknown }).await.unwrap();
    half.prepare(Message::to(topic.clone()).body("half")).await.unwrap().commit().await.unwrap();
    let mut got = Vec::new();
    for _ in 0..2 {
        let delivery = consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message");
        got.push(delivery.message().body_bytes().unwrap().clone());
        delivery.ack().await.unwrap();
    }
    got.sort();
    assert_eq!(got, ["half", "hello"]);
    consumer.close().await.unwrap();
    half.close().await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group).await.unwrap().ready, 0, "the ack is at the broker");
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
