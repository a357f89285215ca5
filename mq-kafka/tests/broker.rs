//! What is particular to Kafka, on a real broker (`MQ_TEST_KAFKA`); everything else is in the conformance suite.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with its first surprise")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::Broker;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::ErrorKind;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_kafka::{Config, Kafka, Profile};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

fn config() -> Config {
    let url = std::env::var("MQ_TEST_KAFKA")
        .expect("MQ_TEST_KAFKA names no broker: cargo xtask brokers up kafka prints what to set");
    let mut config = Config::from_url(&url).unwrap();
    config.profile = Profile::Development;
    config.topic.partitions = 3;
    config
}

fn broker(config: Config) -> Broker {
    Broker::from_driver(Arc::new(Kafka::new(config).unwrap()))
}

async fn topic(broker: &Broker, name: &str) -> Topic {
    let topic = Topic::parse(format!("{name}-{}", MessageId::generate(SystemTime::now()))).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    topic
}

fn message(topic: &Topic, body: &str) -> Message {
    Message::to(topic.clone()).key("k").body(body.to_owned())
}

/// What a client that knows nothing of the SDK finds, until it has found `last`.
fn seen_by_others(topic: &Topic, isolation: &str, last: &str) -> Vec<String> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", config().brokers.join(",")).set("group.id", "others");
    let client: BaseConsumer = settings.set("isolation.level", isolation).create().unwrap();
    let mut places = TopicPartitionList::new();
    for partition in 0..3 {
        places.add_partition_offset(topic.name(), partition, Offset::Beginning).unwrap();
    }
    client.assign(&places).unwrap();
    let (mut seen, began) = (Vec::new(), Instant::now());
    while !seen.iter().any(|body| body == last) {
        assert!(began.elapsed() < Duration::from_secs(20), "{last} did not come, but {seen:?}");
        if let Some(Ok(record)) = client.poll(Duration::from_millis(100)) {
            seen.push(String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned());
        }
    }
    seen
}

#[tokio::test]
async fn readers_of_committed_messages_see_no_part_of_a_batch_that_failed() {
    let broker = broker(config());
    let topic = topic(&broker, "atomic").await;
    let producer = broker.producer().await.unwrap();
    let nowhere = Topic::parse(format!("{}.nowhere", topic.name())).unwrap();
    let torn = vec![message(&topic, "torn"), message(&nowhere, "nowhere")];
    let error = producer.send_atomic(torn).await.unwrap_err();
    assert!(!error.is_ambiguous() && error.kind() == ErrorKind::NotFound, "{error}");
    let ids = producer.send_atomic(vec![message(&topic, "one"), message(&topic, "two")]).await.unwrap();
    assert_eq!(ids.len(), 2);
    assert_eq!(seen_by_others(&topic, "read_committed", "two"), ["one", "two"]);
    // It was there: what was undone is hidden, not unsent.
    assert_eq!(seen_by_others(&topic, "read_uncommitted", "two"), ["torn", "one", "two"]);
}

#[tokio::test]
async fn of_two_with_one_name_the_elder_is_closed_and_says_so() {
    let mut named = config();
    named.producer.transactional_id = Some(format!("shard-{}", MessageId::generate(SystemTime::now())));
    let (elder, younger) = (broker(named.clone()), broker(named));
    let topic = topic(&elder, "fenced").await;
    let (first, second) = (elder.producer().await.unwrap(), younger.producer().await.unwrap());
    first.send_atomic(vec![message(&topic, "1")]).await.unwrap();
    second.send_atomic(vec![message(&topic, "2")]).await.unwrap();
    for _ in 0..2 {
        let error = first.send_atomic(vec![message(&topic, "3")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("transactional_id"), "{error}");
    }
    second.send_atomic(vec![message(&topic, "4")]).await.unwrap();
    assert_eq!(seen_by_others(&topic, "read_committed", "4"), ["1", "2", "4"]);
}

#[tokio::test]
async fn many_atomic_sends_at_once_are_each_whole() {
    let broker = broker(config());
    let topic = topic(&broker, "many").await;
    let producer = broker.producer().await.unwrap();
    let sends = (0..20).map(|n| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            let batch = (0..5).map(|part| message(&topic, &format!("{n}.{part}"))).collect();
            producer.send_atomic(batch).await.unwrap();
        })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap();
    }
    producer.send_atomic(vec![message(&topic, "end")]).await.unwrap();
    let mut seen = seen_by_others(&topic, "read_committed", "end");
    seen.pop();
    let batches: Vec<&str> = seen.iter().filter_map(|body| body.strip_suffix(".0")).collect();
    assert_eq!(batches.len(), 20, "{seen:?}");
    for (at, batch) in batches.iter().enumerate() {
        let whole: Vec<String> = (0..5).map(|part| format!("{batch}.{part}")).collect();
        assert_eq!(seen.get(at * 5..at * 5 + 5).unwrap_or_default(), whole);
    }
}

/// A step that a process left open when it died: who takes its partitions over waits for the end of the step.
#[tokio::test]
async fn the_place_of_a_group_waits_for_the_end_of_a_step() {
    let mut settings = config();
    settings.topic.partitions = 1;
    settings.connect_timeout = Duration::from_secs(2);
    let broker = broker(settings);
    let topic = topic(&broker, "unstable").await;
    let group = Group::parse("g").unwrap();
    let producer = broker.producer().await.unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group.clone())).await.unwrap();
    for body in ["one", "two"] {
        producer.send(message(&topic, body)).await.unwrap();
    }
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", config().brokers.join(","));
    let step: BaseProducer = settings.clone().set("transactional.id", topic.name()).create().unwrap();
    let member: BaseConsumer = settings.set("group.id", format!("{topic}--{group}")).create().unwrap();
    step.init_transactions(Duration::from_secs(20)).unwrap();
    step.begin_transaction().unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic.name(), 0, Offset::Offset(1)).unwrap();
    let member = member.group_metadata().unwrap();
    step.send_offsets_to_transaction(&place, &member, Duration::from_secs(20)).unwrap();
    let mut consumer = broker.consumer(Subscription::new(&topic, &group)).await.unwrap();
    // Longer than it takes to connect.
    let early = consumer.recv_within(Duration::from_secs(6)).await.unwrap();
    assert!(early.is_none(), "the place was not known yet, but {early:?} came");
    step.commit_transaction(Duration::from_secs(20)).unwrap();
    let first = consumer.recv_within(Duration::from_secs(20)).await.unwrap().expect("the second message");
    assert_eq!(first.message().body_bytes().map(|body| &**body), Some(&b"two"[..]));
    first.ack().await.unwrap();
    consumer.close().await.unwrap();
}
