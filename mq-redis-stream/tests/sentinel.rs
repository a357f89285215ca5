//! A master that is replaced: dead, or alive; and copies that are demanded and cannot be had. With
//! `MQ_TEST_REDIS_SENTINEL` and `MQ_TEST_REDIS_SENTINEL_CONTROL`, as `cargo xtask brokers up redis-sentinel` prints them.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]
#![expect(clippy::print_stdout, reason = "what was measured")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mq_core::config::Url;
use mq_core::driver::TopicSpec;
use mq_core::error::ErrorKind;
use mq_core::message::{Message, MessageId};
use mq_core::name::Topic;
use mq_core::subscription::{StartFrom, Subscription};
use mq_core::{Broker, Consumer, Producer};
use mq_redis_stream::{RedisBroker, RedisConfig};
use redis::{Cmd, FromRedisValue, RedisResult, cmd};
use tokio::sync::Mutex;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// There is one master, and each of these tests disturbs it.
static ALONE: Mutex<()> = Mutex::const_new(());

fn config() -> RedisConfig {
    let url = std::env::var("MQ_TEST_REDIS_SENTINEL").unwrap_or_else(|_| {
        panic!("MQ_TEST_REDIS_SENTINEL is not set: cargo xtask brokers up redis-sentinel prints what to set")
    });
    RedisConfig::from_url(&Url::parse(&url).unwrap()).unwrap()
}

/// With a copy demanded of every send.
async fn broker() -> Broker {
    let mut config = config();
    config.replicas = 1;
    config.send_timeout = Duration::from_secs(4);
    Broker::from_driver(Arc::new(RedisBroker::connect(config).await.unwrap()))
}

/// Asks one server as a stock client.
fn ask<T: FromRedisValue>(port: u16, command: &Cmd) -> RedisResult<T> {
    command.query(&mut redis::Client::open(("127.0.0.1", port))?.get_connection()?)
}

fn info(port: u16, section: &str) -> String {
    ask(port, cmd("INFO").arg(section)).unwrap_or_default()
}

fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

/// Waits until what is asked for is so.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The port of the master.
fn master() -> u16 {
    let config = config();
    let (_, port): (String, u16) =
        ask(config.port, cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&config.master)).unwrap();
    port
}

/// The port of the only replica, once it has copied what there is.
fn replica() -> u16 {
    let copied = || {
        let replica = field(&info(master(), "replication"), "slave0")?;
        let port = replica.split(',').find_map(|part| part.strip_prefix("port=")?.parse().ok())?;
        replica.contains("state=online").then_some(port)
    };
    until("a replica copies", || copied().is_some());
    copied().unwrap()
}

fn process(port: u16) -> String {
    field(&info(port, "server"), "process_id").expect("a process")
}

fn signal(process: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Those that were killed come back.
fn start_all() {
    let control = std::env::var("MQ_TEST_REDIS_SENTINEL_CONTROL").expect("its control is not set");
    let done = Command::new("sh").args(["-c", &control]).env("VERB", "start").stdout(Stdio::null()).status().unwrap();
    assert!(done.success(), "the servers do not start again");
}

async fn place(broker: &Broker, name: &str) -> (Topic, Consumer) {
    let topic = Topic::parse(format!("{name}-{}", MessageId::generate(SystemTime::now()))).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(3)).await.unwrap();
    let consumer = broker.consumer(Subscription::new(&topic, "g").start(StartFrom::Earliest)).await.unwrap();
    (topic, consumer)
}

/// Sends one message after the other until told to stop: those that were confirmed, and how many sends failed.
async fn send(producer: Producer, topic: Topic, stop: Arc<AtomicBool>) -> (BTreeSet<u32>, usize, Instant) {
    let (mut confirmed, mut failed, mut last) = (BTreeSet::new(), 0, Instant::now());
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        match producer.send(Message::to(topic.clone()).body(number.to_string())).await {
            Ok(_) => {
                confirmed.insert(number);
                last = Instant::now();
            }
            Err(cause) => {
                let cause = cause.into_parts().0;
                assert!(cause.is_transient() || cause.is_ambiguous(), "{cause}");
                failed += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    (confirmed, failed, last)
}

async fn receive(consumer: &mut Consumer) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    while let Some(delivery) = consumer.recv_within(Duration::from_secs(5)).await.unwrap() {
        let body = delivery.message().body_bytes().expect("a body");
        seen.insert(String::from_utf8(body.to_vec()).unwrap().parse().unwrap());
        delivery.ack().await.unwrap();
    }
    seen
}

/// The same producer and consumer before and after; what was confirmed had a copy, and is all there.
async fn replaced(name: &str, replace: impl FnOnce(u16) + Send + 'static) {
    let broker = broker().await;
    let (topic, mut consumer) = place(&broker, name).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (old, new) = (master(), replica());
    let sending = tokio::spawn(send(broker.producer().await.unwrap(), topic.clone(), Arc::clone(&stop)));
    let replacing = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        replace(old);
        until("the replica takes over", || master() == new);
        let took = began.elapsed();
        // Copies are demanded: nothing is confirmed until the old master is a replica.
        start_all();
        until("the old master copies the new one", || {
            field(&info(new, "replication"), "connected_slaves").as_deref() == Some("1")
        });
        let whole = Instant::now();
        std::thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Release);
        (took, whole)
    });
    let (took, whole) = replacing.await.unwrap();
    let (confirmed, failed, last) = tokio::time::timeout(PATIENCE, sending).await.expect("the producer hangs").unwrap();
    assert!(last > whole, "nothing was confirmed by the new master");
    let seen = receive(&mut consumer).await;
    let lost: Vec<_> = confirmed.difference(&seen).collect();
    println!(
        "{name}: replaced after {took:?}; {} confirmed, {} lost, {failed} sends failed",
        confirmed.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), confirmed.len());
    consumer.close().await.unwrap();
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_master_is_replaced() {
    let _alone = ALONE.lock().await;
    replaced("dead", |master| signal(&process(master), "-9")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_master_is_replaced() {
    let _alone = ALONE.lock().await;
    replaced("alive", |_| {
        let config = config();
        let failover = || ask::<()>(config.port, cmd("SENTINEL").arg("FAILOVER").arg(&config.master));
        // Not while the Sentinels still remember the one before.
        until("a fail-over begins", || failover().is_ok());
    })
    .await;
}

/// Stored, and not confirmed: the send is ambiguous within its deadline, and well again when the copy is.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_had_is_told() {
    let _alone = ALONE.lock().await;
    let broker = broker().await;
    let (topic, mut consumer) = place(&broker, "copies").await;
    let producer = broker.producer().await.unwrap();
    let message = |body: &str| Message::to(topic.clone()).body(body.to_owned());
    let copy = replica();
    producer.send(message("1")).await.unwrap();
    let stopped = process(copy);
    signal(&stopped, "-STOP");
    let began = Instant::now();
    let error = producer.send(message("2")).await.unwrap_err().into_parts().0;
    let took = began.elapsed();
    signal(&stopped, "-CONT");
    assert!(error.is_ambiguous() && error.kind() == ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("replicas") && took < Duration::from_secs(5), "{error}: {took:?}");
    until("the replica copies again", || {
        field(&info(copy, "replication"), "master_link_status").as_deref() == Some("up")
    });
    producer.send(message("3")).await.unwrap();
    assert_eq!(receive(&mut consumer).await, BTreeSet::from([1, 2, 3]), "what was not confirmed was stored too");
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_the_sentinels_do_not_know_is_refused() {
    let mut config = config();
    config.master = "nobody".to_owned();
    let began = Instant::now();
    let error = RedisBroker::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("nobody") && began.elapsed() < Duration::from_secs(3), "{error}");
}

/// Only some Sentinels need be there.
#[tokio::test(flavor = "multi_thread")]
async fn one_sentinel_is_enough() {
    let mut config = config();
    config.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.seeds.truncate(1);
    RedisBroker::connect(config).await.unwrap();
}
