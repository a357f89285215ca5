//! The look at the set-up: each risk is found on a topic that has it, and a worker does not start into a loss.

use std::time::{Duration, SystemTime};

use mq_core::config::Topology;
use mq_core::driver::{AuditSpec, Finding, GroupSpec, Severity};
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_core::{Broker, Worker};
use mq_kafka::Profile;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::place::{broker, config, owner, unique, url};

/// A topic as somebody else might have made it.
async fn made(name: &str, settings: &[(&str, &str)]) -> Topic {
    let topic = unique(name);
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", url("MQ_TEST_KAFKA").trim_start_matches("kafka://"));
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let new = NewTopic::new(topic.name(), 1, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    admin.create_topics(&[new], &AdminOptions::new()).await.unwrap().pop().unwrap().unwrap();
    // The controller has it; the broker hears of it a little later.
    let look = async {
        while owner().admin().describe_topic(&topic).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), look).await.expect("the topic comes");
    topic
}

fn asked(topic: &Topic) -> AuditSpec {
    AuditSpec::new(GroupSpec::new(topic.clone(), Group::parse("g").unwrap()))
}

async fn found(broker: &Broker, spec: &AuditSpec) -> Vec<(Severity, &'static str)> {
    let findings: Vec<Finding> = broker.admin().examine(spec).await.unwrap();
    assert!(findings.iter().all(|finding| finding.text.len() > 20 && !finding.hint.is_empty()), "{findings:?}");
    findings.iter().map(|finding| (finding.severity, finding.check)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_nothing_is_wrong() {
    let topic = crate::place::topic("sound").await;
    owner().admin().declare_group(&GroupSpec::new(topic.clone(), Group::parse("g").unwrap())).await.unwrap();
    assert_eq!(found(&owner(), &asked(&topic)).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_lose_messages_is_a_warning() {
    let settings = [("unclean.leader.election.enable", "true"), ("cleanup.policy", "compact")];
    let topic = made("risky", &settings).await;
    let warned = |check| (Severity::Warning, check);
    let expected = [warned("unclean-leader-election"), warned("compaction")];
    assert_eq!(found(&owner(), &asked(&topic)).await, expected);
    let mut production = config(&url("MQ_TEST_KAFKA"));
    production.profile = Profile::Production;
    let promised = [warned("replication-factor"), warned("min-insync-replicas"), expected[0], expected[1]];
    assert_eq!(found(&broker(production), &asked(&topic)).await, promised);
    let slow = asked(&topic).handler_timeout(Some(Duration::from_secs(301)));
    assert!(found(&owner(), &slow).await.contains(&warned("handler-timeout")));
    let quick = asked(&topic).handler_timeout(Some(Duration::from_secs(299)));
    assert!(!found(&owner(), &quick).await.contains(&warned("handler-timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_messages_that_are_about_to_go_are_a_warning() {
    let topic = made("old", &[("retention.ms", "600000")]).await;
    owner().admin().declare_group(&GroupSpec::new(topic.clone(), Group::parse("g").unwrap())).await.unwrap();
    let producer = owner().producer().await.unwrap();
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    producer.send(Message::to(topic.clone()).timestamp(ago(400))).await.unwrap();
    assert_eq!(found(&owner(), &asked(&topic)).await, [], "two thirds of the time are over");
    producer.send(Message::to(topic.clone()).timestamp(ago(500))).await.unwrap();
    producer.send(Message::to(topic.clone()).timestamp(ago(1))).await.unwrap();
    assert_eq!(found(&owner(), &asked(&topic)).await, []);
    let old = made("older", &[("retention.ms", "600000")]).await;
    owner().admin().declare_group(&GroupSpec::new(old.clone(), Group::parse("g").unwrap())).await.unwrap();
    producer.send(Message::to(old.clone()).timestamp(ago(500))).await.unwrap();
    assert_eq!(found(&owner(), &asked(&old)).await, [(Severity::Warning, "retention-lag")]);
}

/// What a worker says that is started there.
async fn start(broker: &Broker, topic: &Topic) -> mq_core::Result<mq_core::Summary> {
    let subscription = Subscription::new(topic.clone(), "g");
    Worker::new(broker, subscription).max_idle(Duration::from_millis(1)).handle(async |_: Message| {}).run().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_start_where_nothing_can_be_stored() {
    let topic = made("refused", &[("min.insync.replicas", "2")]).await;
    assert_eq!(found(&owner(), &asked(&topic)).await, [(Severity::Refusal, "min-insync-replicas")]);
    let error = start(&owner(), &topic).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopologyConflict, "{error}");
    assert!(error.to_string().contains("min.insync.replicas") && error.hint().is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_start_without_its_dead_letters() {
    let topic = crate::place::topic("bare").await;
    let mut alone = config(&url("MQ_TEST_KAFKA"));
    alone.topology = Topology::Off;
    let alone = broker(alone);
    assert_eq!(found(&alone, &asked(&topic)).await, [(Severity::Refusal, "dead-letter-place")]);
    let error = start(&alone, &topic).await.unwrap_err();
    assert!(error.to_string().contains("mq topology"), "{error}");
    // One that may declare what is missing does.
    start(&owner(), &topic).await.unwrap();
}
