//! What is risky is found on a real broker (`cargo xtask brokers up rocket-5.4` prints the environment), whose settings
//! are changed for a moment.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends with its first surprise")]

#[expect(dead_code, reason = "the suite does more with it")]
mod stock;

use std::time::{Duration, SystemTime};

use mq_core::config::{Topology, Url};
use mq_core::driver::{AuditSpec, BrokerDriver, GroupSpec, Severity, TopicSpec};
use mq_core::error::ErrorKind;
use mq_core::message::MessageId;
use mq_core::name::{Group, Topic};
use mq_rocket::{RocketBroker, RocketConfig};

use crate::stock::Stock;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask brokers up rocket-5.4 prints what to set"))
}

async fn connect(topology: Topology, max_message_bytes: usize) -> RocketBroker {
    let config = RocketConfig::from_url(&Url::parse(&variable("MQ_TEST_ROCKET")).unwrap()).unwrap();
    RocketBroker::connect(RocketConfig { topology, max_message_bytes, ..config }).await.unwrap()
}

fn named(warnings: &[String], what: &str) -> bool {
    warnings.iter().any(|warning| warning.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn risky_settings_are_named() {
    let stock = Stock::new(&variable("MQ_TEST_ROCKET"), variable("MQ_TEST_ROCKET_BROKER").parse().unwrap()).unwrap();
    let broker = connect(Topology::Declare, 1 << 20).await;
    let sound = broker.admin().audit().await.unwrap();
    assert!(named(&sound, "ASYNC_MASTER") && named(&sound, "fileReservedTime"), "{sound:?}");
    assert!(!named(&sound, "autoCreateTopicEnable") && !named(&sound, "ASYNC_FLUSH"), "{sound:?}");
    stock.set("autoCreateTopicEnable=true\n").await.unwrap();
    let risky = broker.admin().audit().await;
    stock.set("autoCreateTopicEnable=false\n").await.unwrap();
    assert!(named(&risky.unwrap(), "autoCreateTopicEnable=true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_examined() {
    let name = || MessageId::generate(SystemTime::now()).to_string();
    let (topic, group) = (Topic::parse(name()).unwrap(), Group::parse(name()).unwrap());
    let mut spec = GroupSpec::new(topic.clone(), group.clone());
    let owner = connect(Topology::Declare, 1 << 20).await;
    let missing = owner.admin().examine(&AuditSpec::new(spec.clone())).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    owner.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    // A disk of the machine may be full for real.
    let checks = async |broker: &RocketBroker, spec: &GroupSpec| {
        let findings = broker.admin().examine(&AuditSpec::new(spec.clone())).await.unwrap();
        let all = findings.into_iter().map(|finding| (finding.check, finding.severity));
        all.filter(|(check, _)| *check != "disk").collect::<Vec<_>>()
    };
    assert_eq!(checks(&owner, &spec).await, []);
    let guest = connect(Topology::Verify, 1 << 20).await;
    assert_eq!(checks(&guest, &spec).await, [("dead-letter-place", Severity::Refusal)]);
    let large = connect(Topology::Declare, 4 << 20).await;
    assert_eq!(checks(&large, &spec).await, [("message-size", Severity::Warning)]);
    spec.retry_delays = vec![Duration::from_secs(60), Duration::from_secs(73 * 3600)];
    assert_eq!(checks(&owner, &spec).await, [("retention", Severity::Refusal)]);
    owner.admin().delete_topic(&topic).await.unwrap();
}
