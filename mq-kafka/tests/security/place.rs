//! The broker under test, by its ways in.

use std::sync::Arc;
use std::time::Duration;

use mq_conformance::smoke;
pub(crate) use mq_conformance::smoke::unique;
use mq_core::Broker;
use mq_core::driver::TopicSpec;
use mq_core::name::Topic;
use mq_kafka::{Config, Kafka, Profile};

/// How long connecting may take in these tests.
pub(crate) const CONNECT: Duration = Duration::from_secs(4);
/// How much longer than its deadline a call may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// What `variable` of the environment names.
pub(crate) fn url(variable: &str) -> String {
    smoke::variable(variable, "kafka")
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

/// A topic made by one who may do everything.
pub(crate) async fn topic(name: &str) -> Topic {
    let topic = unique(name);
    owner().admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    topic
}

/// Declares, sends, receives and acks.
pub(crate) async fn works(config: Config, name: &str) {
    smoke::works(broker(config), name).await;
}
