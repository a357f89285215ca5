//! A user without a right hears which, at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mq_core::Broker;
use mq_core::driver::TopicSpec;
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::subscription::Subscription;

use crate::place::{CONNECT, MARGIN, broker, config, topic, unique, url};

const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const READ: u8 = 3;
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;

/// Gives the user `limited` a right, by Kafka's own protocol: neither the SDK nor its client does that.
fn grant(kind: u8, name: &str, prefix: bool, right: u8) {
    let mut stream = TcpStream::connect(url("MQ_TEST_KAFKA").trim_start_matches("kafka://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let mut request = Vec::new();
    // CreateAcls, version 1, a number of ours, no name of the client; one right.
    request.extend([0, 30, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 1, kind]);
    request.extend(text(name));
    request.push(if prefix { 4 } else { 3 });
    request.extend(text("User:limited"));
    request.extend(text("*"));
    request.extend([right, 3]);
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut size = [0; 4];
    stream.read_exact(&mut size).unwrap();
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
    stream.read_exact(&mut answer).unwrap();
    // The number, the throttling, one result, and its code: none.
    assert_eq!(answer.get(8..14), Some([0, 0, 0, 1, 0, 0].as_slice()), "CreateAcls answered {answer:?}");
}

fn limited() -> Broker {
    broker(config(&url("MQ_TEST_KAFKA_LIMITED")))
}

fn in_time(began: Instant) {
    assert!(began.elapsed() < CONNECT + MARGIN, "took {:?}", began.elapsed());
}

async fn send(topic: &Topic) -> mq_core::Error {
    let began = Instant::now();
    let producer = limited().producer().await.unwrap();
    let error = producer.send(Message::to(topic.clone()).body("x")).await.unwrap_err();
    in_time(began);
    error.into_parts().0
}

async fn receive(topic: &Topic) -> mq_core::Error {
    let began = Instant::now();
    let error = match limited().consumer(Subscription::new(topic.clone(), "g")).await {
        Err(error) => error,
        Ok(mut consumer) => consumer.recv_within(CONNECT).await.map(drop).unwrap_err(),
    };
    in_time(began);
    error
}

fn named(error: &mq_core::Error, name: &str) {
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("ACL")), "{error}");
    assert!(error.to_string().contains(name), "it does not name `{name}`: {error}");
    assert!(!error.to_string().contains("mq-test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_may_not_send() {
    let topic = topic("no-rights").await;
    named(&send(&topic).await, topic.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_only_look_may_not_send() {
    let topic = topic("look").await;
    grant(TOPIC, topic.name(), false, DESCRIBE);
    named(&send(&topic).await, topic.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_write_sends() {
    let topic = topic("write").await;
    grant(TOPIC, topic.name(), false, WRITE);
    let producer = limited().producer().await.unwrap();
    producer.send(Message::to(topic).body("x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_may_not_receive() {
    let topic = topic("no-rights").await;
    named(&receive(&topic).await, topic.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_join_the_group_may_not_receive() {
    let topic = topic("no-group").await;
    crate::place::owner().consumer(Subscription::new(topic.clone(), "g")).await.unwrap().close().await.unwrap();
    grant(TOPIC, topic.name(), true, READ);
    named(&receive(&topic).await, "g");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_read_the_topic_may_not_receive() {
    let topic = topic("no-read").await;
    crate::place::owner().consumer(Subscription::new(topic.clone(), "g")).await.unwrap().close().await.unwrap();
    grant(TOPIC, topic.name(), true, DESCRIBE);
    grant(GROUP, topic.name(), true, READ);
    named(&receive(&topic).await, topic.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_may_not_declare_or_delete() {
    let there = topic("there").await;
    let (began, topic) = (Instant::now(), unique("declared"));
    let admin = limited().admin();
    let error = admin.declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap_err();
    named(&error, topic.name());
    let error = admin.delete_topic(&there).await.unwrap_err();
    named(&error, there.name());
    in_time(began);
}
