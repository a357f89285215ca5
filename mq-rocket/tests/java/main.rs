//! The Java client of the RocketMQ project and the adapter understand each other, both ways: plain, delayed, ordered and
//! half messages. On a real RocketMQ; `cargo xtask brokers up rocket-5.4` prints the environment, with the folder of the
//! client's libraries. Needs a JDK.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::config::Url;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, Subscription};
use mq_core::{Broker, Verdict};
use mq_rocket::{RocketBroker, RocketConfig};
use tokio::process::Command;

/// The program compiles itself first.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a message may take beyond its delay.
const WAIT: Duration = Duration::from_secs(15);

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask brokers up rocket-5.4 prints what to set"))
}

/// Runs the Java client; the messages it printed.
async fn java(arguments: &[&str]) -> Vec<String> {
    let url = variable("MQ_TEST_ROCKET");
    let names = url.strip_prefix("rocketmq://").expect("the URL of a name server");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/Stock.java");
    // Its logs go where the build's files are.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (verb, rest) = arguments.split_first().expect("a verb");
    let mut command = Command::new("java");
    command
        .arg(format!("-Duser.home={}", home.display()))
        .args(["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Xmx256m", "-cp"])
        .arg(format!("{}/*", variable("MQ_TEST_ROCKET_JARS")))
        .arg(program)
        .args([*verb, names])
        .args(rest)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("the Java client ends");
    let output = ended.expect("a JDK is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().filter_map(|line| line.strip_prefix("message\t")).map(ToOwned::to_owned).collect()
}

async fn connect() -> Broker {
    let config = RocketConfig::from_url(&Url::parse(&variable("MQ_TEST_ROCKET")).unwrap()).unwrap();
    Broker::from_driver(Arc::new(RocketBroker::connect(config).await.unwrap()))
}

/// Of the topic's own: members of a group of RocketMQ's must all read the same topics.
fn group(topic: &Topic) -> Group {
    Group::parse(topic.as_str()).unwrap()
}

/// A topic with a group that was there before the first message.
async fn place(broker: &Broker, name: &str) -> Topic {
    let topic = Topic::parse(format!("java-{name}-{}", MessageId::generate(SystemTime::now()))).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(3)).await.unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group(&topic))).await.unwrap();
    topic
}

/// Receives and acknowledges so many, and sees that no more come.
async fn take(broker: &Broker, topic: &Topic, count: usize, mode: GroupMode) -> Vec<Message> {
    let got = take_all(broker, topic, count, mode).await;
    assert_eq!(got.len(), count, "too many: {got:?}");
    got
}

/// Receives and acknowledges so many, and those that come behind them.
async fn take_all(broker: &Broker, topic: &Topic, count: usize, mode: GroupMode) -> Vec<Message> {
    let subscription = Subscription::new(topic.clone(), group(topic).as_str()).mode(mode);
    let mut consumer = broker.consumer(subscription).await.unwrap();
    let mut got = Vec::new();
    loop {
        let patience = if got.len() < count { WAIT } else { Duration::from_secs(2) };
        let Some(delivery) = consumer.recv_within(patience).await.unwrap() else { break };
        got.push(delivery.message().clone());
        delivery.ack().await.unwrap();
    }
    assert!(got.len() >= count, "{} of {count} messages came", got.len());
    consumer.close().await.unwrap();
    got
}

fn text(message: &Message) -> String {
    String::from_utf8(message.body_bytes().unwrap().to_vec()).unwrap()
}

async fn done(broker: Broker, topic: &Topic) {
    broker.admin().delete_topic(topic).await.unwrap();
    broker.close().await.unwrap();
}

/// A message such as the Java client writes them.
fn message(topic: &Topic, key: &str, text: &str) -> Message {
    Message::to(topic.clone()).key(key).header("TAGS", "TagA").header("shop", "Zürich").body(text.to_owned())
}

fn line(queue: &str, key: &str, text: &str) -> String {
    format!("{queue}\t{key}\tTagA\tZürich\t{text}")
}

/// Without the queue, sorted.
fn without_queues(lines: &[String]) -> Vec<String> {
    let mut texts: Vec<String> = lines.iter().map(|line| line.split_once('\t').unwrap().1.to_owned()).collect();
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_from_java() {
    let broker = connect().await;
    let topic = place(&broker, "plain").await;
    java(&["plain", topic.as_str()]).await;
    let got = take(&broker, &topic, 1, GroupMode::Shared).await;
    let message = got.first().unwrap();
    assert_eq!((text(message).as_str(), message.key_bytes().unwrap().as_ref()), ("plain", b"k".as_slice()));
    assert_eq!(message.headers().get_str("TAGS"), Some("TagA"));
    assert_eq!(message.headers().get_str("shop"), Some("Zürich"));
    assert!(message.message_id().is_some());
    done(broker, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_delayed_to_java() {
    let broker = connect().await;
    let topic = place(&broker, "to").await;
    let producer = broker.producer().await.unwrap();
    let (began, delay) = (Instant::now(), Duration::from_secs(4));
    producer.send_after(message(&topic, "d", "delayed"), delay).await.unwrap();
    producer.send(message(&topic, "k", "plain")).await.unwrap();
    let lines = java(&["receive", topic.as_str(), group(&topic).as_str(), "2"]).await;
    assert!(began.elapsed() >= delay, "the delayed one was early");
    assert_eq!(without_queues(&lines), ["d\tTagA\tZürich\tdelayed", "k\tTagA\tZürich\tplain"]);
    done(broker, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_from_java() {
    let broker = connect().await;
    let topic = place(&broker, "delayed").await;
    // Longer than the program takes to end.
    java(&["delayed", topic.as_str(), "6000"]).await;
    let got = take(&broker, &topic, 1, GroupMode::Shared).await;
    let message = got.first().unwrap();
    assert_eq!(text(message), "delayed");
    let waited = SystemTime::now().duration_since(message.made_at().unwrap()).unwrap();
    assert!(waited >= Duration::from_secs(6), "after {waited:?}");
    assert!(message.headers().iter().all(|(name, _)| ["TAGS", "shop"].contains(&&**name)), "{:?}", message.headers());
    done(broker, &topic).await;
}

fn in_order(numbers: &BTreeMap<String, Vec<usize>>, count: usize) {
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), count);
    for (key, numbers) in numbers {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_from_java() {
    let broker = connect().await;
    let topic = place(&broker, "ordered").await;
    java(&["ordered", topic.as_str(), "60"]).await;
    let mut numbers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for message in take(&broker, &topic, 60, GroupMode::Ordered).await {
        let text = text(&message);
        let (key, number) = text.split_once(' ').unwrap();
        assert_eq!(message.key_bytes().unwrap().as_ref(), key.as_bytes());
        numbers.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    in_order(&numbers, 60);
    done(broker, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_to_java() {
    let broker = connect().await;
    let topic = place(&broker, "keys").await;
    let producer = broker.producer().await.unwrap();
    let mut pending = Vec::new();
    for number in 0..60 {
        let key = format!("k{}", number % 5);
        pending.push(producer.enqueue(message(&topic, &key, &number.to_string())).await.unwrap());
    }
    for pending in pending {
        pending.await.unwrap();
    }
    let lines = java(&["receive", topic.as_str(), group(&topic).as_str(), "60"]).await;
    let (mut numbers, mut queues) = (BTreeMap::<String, Vec<usize>>::new(), BTreeMap::<String, String>::new());
    for one in &lines {
        let parts: Vec<&str> = one.split('\t').collect();
        let [queue, key, _, _, number] = parts[..] else { panic!("{one}") };
        assert_eq!(*one, line(queue, key, number));
        assert_eq!(queues.entry(key.to_owned()).or_insert_with(|| queue.to_owned()), queue, "{key} on two queues");
        numbers.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    in_order(&numbers, 60);
    done(broker, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_messages_from_java() {
    let broker = connect().await;
    let topic = place(&broker, "half").await;
    java(&["half", topic.as_str()]).await;
    let mut got = take_all(&broker, &topic, 2, GroupMode::Shared).await;
    // The broker notes a decision up to 3 s after it was told of it, and asks again until then. The Java client answers each
    // question, and each answer makes a message: repeats, but under one id.
    got.sort_by(|one, other| one.message_id().cmp(&other.message_id()));
    got.dedup_by(|one, other| one.message_id() == other.message_id());
    let mut texts: Vec<String> = got.iter().map(text).collect();
    texts.sort();
    assert_eq!(texts, ["at once", "later"]);
    done(broker, &topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_messages_to_java() {
    let broker = connect().await;
    let topic = place(&broker, "half-to").await;
    let check =
        |message: Message| async move { if text(&message) == "later" { Verdict::Commit } else { Verdict::Rollback } };
    let producer = broker.half_producer("java.half", check).await.unwrap();
    producer.prepare(message(&topic, "a", "at once")).await.unwrap().commit().await.unwrap();
    producer.prepare(message(&topic, "b", "never")).await.unwrap().rollback().await.unwrap();
    for body in ["later", "never later"] {
        drop(producer.prepare(message(&topic, "c", body)).await.unwrap());
    }
    let lines = java(&["receive", topic.as_str(), group(&topic).as_str(), "2"]).await;
    assert_eq!(without_queues(&lines), ["a\tTagA\tZürich\tat once", "c\tTagA\tZürich\tlater"]);
    done(broker, &topic).await;
}
