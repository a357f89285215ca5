//! What a broker still asks about although it was decided: on a real RocketMQ (`cargo xtask brokers up rocket-5.4` prints
//! the environment), which asks back after 2 s.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mq_core::config::Url;
use mq_core::driver::TopicSpec;
use mq_core::message::{Message, MessageId};
use mq_core::name::Topic;
use mq_core::subscription::{StartFrom, Subscription};
use mq_core::{Broker, Verdict};
use mq_rocket::{RocketBroker, RocketConfig};
use tokio::sync::mpsc;

async fn connect() -> Broker {
    let url = std::env::var("MQ_TEST_ROCKET")
        .unwrap_or_else(|_| panic!("MQ_TEST_ROCKET is not set: cargo xtask brokers up rocket-5.4 prints what to set"));
    let config = RocketConfig::from_url(&Url::parse(&url).unwrap()).unwrap();
    Broker::from_driver(Arc::new(RocketBroker::connect(config).await.unwrap()))
}

async fn topic(broker: &Broker, name: String) -> Topic {
    let topic = Topic::parse(name).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    topic
}

fn name() -> String {
    MessageId::generate(SystemTime::now()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_behind_the_first_question_comes_once() {
    let broker = connect().await;
    let topic = topic(&broker, name()).await;
    let (asked, mut questions) = mpsc::unbounded_channel();
    let committed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let known = Arc::clone(&committed);
    let check = move |message: Message| {
        asked.send(message.message_id().cloned()).unwrap();
        let known = known.load(std::sync::atomic::Ordering::SeqCst);
        async move { if known { Verdict::Commit } else { Verdict::Unknown } }
    };
    let producer = broker.half_producer(name().as_str(), check).await.unwrap();
    let prepared = producer.prepare(Message::to(topic.clone()).body("late")).await.unwrap();
    let wait = Duration::from_secs(20);
    let question = tokio::time::timeout(wait, questions.recv()).await.expect("the broker asks back");
    assert_eq!(question, Some(Some(prepared.id().clone())));
    // The broker has written it down anew to ask again, and knows that copy for another message.
    committed.store(true, std::sync::atomic::Ordering::SeqCst);
    prepared.commit().await.unwrap();
    let subscription = Subscription::new(topic.clone(), "g").start(StartFrom::Earliest);
    let mut consumer = broker.consumer(subscription).await.unwrap();
    let delivery = consumer.recv_within(wait).await.unwrap().expect("what was committed");
    delivery.ack().await.unwrap();
    // Several rounds of questions, and the batch in which the broker notes decisions (3 s).
    let again = consumer.recv_within(Duration::from_secs(8)).await.unwrap();
    assert!(again.is_none(), "it came twice: {again:?}");
    consumer.close().await.unwrap();
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_names_a_topic_whose_name_the_broker_cut() {
    let broker = connect().await;
    let topic = topic(&broker, format!("{}.{}", "x".repeat(140), name())).await;
    let (asked, mut questions) = mpsc::unbounded_channel();
    let check = move |message: Message| {
        asked.send(message.topic().clone()).unwrap();
        async { Verdict::Rollback }
    };
    let producer = broker.half_producer("long.names", check).await.unwrap();
    drop(producer.prepare(Message::to(topic.clone()).body("x")).await.unwrap());
    let question = tokio::time::timeout(Duration::from_secs(20), questions.recv()).await.expect("the broker asks back");
    assert_eq!(question, Some(topic.clone()));
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
