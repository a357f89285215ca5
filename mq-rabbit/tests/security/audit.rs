//! The look at the set-up: each risk is found on a queue that has it, and a worker does not start into a loss.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use mq_core::config::{Secret, Topology};
use mq_core::driver::{AuditSpec, GroupSpec, Severity, TopicSpec};
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::subscription::Subscription;
use mq_core::{Broker, Worker};

use crate::control::{LIMITED, users};
use crate::place::{config, connect, group, owner, topic, unique, variable};

/// A queue as somebody else might have made it.
async fn made(name: &str, durable: bool, arguments: &[(&str, AMQPValue)]) -> Topic {
    let name = unique(name);
    let connection = Connection::connect(&variable("MQ_TEST_RABBIT"), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.name().into(), options, table).await.unwrap();
    connection.close(200, "made".into()).await.unwrap();
    Topic::parse(format!("queue:{name}")).unwrap()
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", AMQPValue::LongString("quorum".into()))
}

fn asked(topic: &Topic) -> AuditSpec {
    AuditSpec::new(GroupSpec::new(topic.clone(), group()))
}

async fn found(broker: &Broker, spec: &AuditSpec) -> Vec<(Severity, &'static str)> {
    let findings = broker.admin().examine(spec).await.unwrap();
    assert!(findings.iter().all(|finding| finding.text.len() > 20 && !finding.hint.is_empty()), "{findings:?}");
    findings.iter().map(|finding| (finding.severity, finding.check)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_nothing_is_wrong() {
    let topic = topic("sound").await;
    assert_eq!(found(&owner().await, &asked(&topic)).await, []);
    let slow = asked(&topic).handler_timeout(Some(Duration::from_secs(31 * 60)));
    assert_eq!(found(&owner().await, &slow).await, [(Severity::Warning, "handler-timeout")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_of_others() {
    let broker = owner().await;
    let limit = |limit| ("x-delivery-limit", AMQPValue::LongLongInt(limit));
    let dead = ("x-dead-letter-exchange", AMQPValue::LongString("amq.fanout".into()));
    let transient = made("transient", false, &[]).await;
    assert_eq!(found(&broker, &asked(&transient)).await, [(Severity::Warning, "transient-queue")]);
    let classic = made("classic", true, &[]).await;
    assert_eq!(found(&broker, &asked(&classic)).await, [(Severity::Warning, "classic-queue")]);
    let unlimited = made("unlimited", true, &[quorum()]).await;
    assert_eq!(found(&broker, &asked(&unlimited)).await, [(Severity::Warning, "delivery-limit")]);
    let limited = made("limited", true, &[quorum(), limit(5)]).await;
    assert_eq!(found(&broker, &asked(&limited)).await, [(Severity::Refusal, "delivery-limit")]);
    let sound = made("sound", true, &[quorum(), limit(5), dead]).await;
    assert_eq!(found(&broker, &asked(&sound)).await, []);
    // Looking has changed nothing: the owner declares it again as it was.
    let subscription = Subscription::new(limited.clone(), "g");
    let worker = Worker::new(&broker, subscription).max_idle(Duration::from_millis(1));
    let error = worker.handle(async |_: Message| {}).run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopologyConflict, "{error}");
    assert!(error.to_string().contains("delivery limit") && error.hint().is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_declared_otherwise() {
    let topic = topic("otherwise").await;
    let mut other = config(&variable("MQ_TEST_RABBIT"));
    other.delivery_limit = 5;
    let other = connect(other).await.unwrap();
    assert_eq!(found(&other, &asked(&topic)).await, [(Severity::Refusal, "queue-differs")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_its_places() {
    let topic = unique("bare");
    owner().await.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    assert_eq!(found(&owner().await, &asked(&topic)).await, [], "what is missing is declared");
    let mut alone = config(&variable("MQ_TEST_RABBIT"));
    alone.topology = Topology::Off;
    let alone = connect(alone).await.unwrap();
    assert_eq!(found(&alone, &asked(&topic)).await, [(Severity::Refusal, "dead-letter-place")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_permission() {
    users();
    let topic = topic("forbidden").await;
    let mut limited = config(&variable("MQ_TEST_RABBIT"));
    (limited.user, limited.password) = (LIMITED.to_owned(), Secret::new("mq-test"));
    let limited = connect(limited).await.unwrap();
    let findings = found(&limited, &asked(&topic)).await;
    assert!(
        !findings.is_empty() && findings.iter().all(|one| *one == (Severity::Refusal, "permission")),
        "{findings:?}"
    );
}
