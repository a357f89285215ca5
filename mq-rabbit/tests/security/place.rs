//! The broker under test, by its ways in.

use std::sync::Arc;
use std::time::Duration;

use mq_conformance::smoke;
pub(crate) use mq_conformance::smoke::{group, unique};
use mq_core::Broker;
use mq_core::config::Url;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::Result;
use mq_core::name::Topic;
use mq_rabbit::{RabbitBroker, RabbitConfig};

/// How long connecting may take in these tests.
pub(crate) const CONNECT: Duration = Duration::from_secs(4);
/// How much longer than its deadline a call may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// What `variable` of the environment holds.
pub(crate) fn variable(name: &str) -> String {
    smoke::variable(name, "rabbit-4.0")
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

/// A topic with a group, made by one who may do everything.
pub(crate) async fn topic(name: &str) -> Topic {
    let (broker, topic) = (owner().await, unique(name));
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    topic
}

/// Declares, sends, receives and acks.
pub(crate) async fn works(config: RabbitConfig, name: &str) {
    smoke::works(connect(config).await.unwrap(), name).await;
}
