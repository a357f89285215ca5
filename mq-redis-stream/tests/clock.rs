//! The clock of the server is set forward and back while consumers work. These tests start a server of their own, that of
//! `MQ_TEST_REDIS_SERVER` as `cargo xtask brokers up` prints it, and a library that the C compiler makes of `clock.c` tells
//! it the time.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::driver::{ConsumerSpec, Settled, TopicSpec};
use mq_core::message::{Message, MessageId};
use mq_core::name::Topic;
use mq_core::subscription::Subscription;
use mq_core::{Broker, Consumer};
use mq_redis_stream::{RedisBroker, RedisConfig};
use redis::cmd;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
const SESSION: Duration = Duration::from_secs(2);

/// A server whose clock these tests set.
struct Server {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(MessageId::generate(SystemTime::now()).to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let library = folder.join("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clock.c");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(made.expect("there is no C compiler").success(), "{source} cannot be compiled");
        std::fs::write(folder.join("clock"), 0_i64.to_ne_bytes()).unwrap();
        let server = Self { process: spawn(&folder, port, &library), folder, port };
        let began = Instant::now();
        while redis::Client::open(("127.0.0.1", port)).unwrap().get_connection().is_err() {
            assert!(began.elapsed() < PATIENCE, "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// How far its clock is from ours, in seconds.
    fn offset(&self) -> i64 {
        let mut connection = redis::Client::open(("127.0.0.1", self.port)).unwrap().get_connection().unwrap();
        let (seconds, _): (i64, i64) = cmd("TIME").query(&mut connection).unwrap();
        seconds - i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
    }

    /// So many seconds from the true time.
    fn step(&self, seconds: i64) {
        // In place: the server has this file mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(self.folder.join("clock")).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
        let began = Instant::now();
        while (self.offset() - seconds).abs() > 1 {
            assert!(began.elapsed() < PATIENCE, "the clock of the server does not move: {}", self.offset());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn broker(&self) -> Broker {
        let config = RedisConfig { port: self.port, session: SESSION, ..RedisConfig::default() };
        Broker::from_driver(Arc::new(RedisBroker::connect(config).await.unwrap()))
    }
}

fn spawn(folder: &Path, port: u16, library: &Path) -> Child {
    let server = std::env::var("MQ_TEST_REDIS_SERVER").unwrap_or_else(|_| {
        panic!("MQ_TEST_REDIS_SERVER is not set: cargo xtask brokers up redis-8.0 prints what to set")
    });
    let mut words = server.split_ascii_whitespace();
    Command::new(words.next().expect("MQ_TEST_REDIS_SERVER is empty"))
        .args(words)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--dir"])
        .arg(folder)
        .env("LD_PRELOAD", library)
        .env("MQ_CLOCK", folder.join("clock"))
        .stdout(Stdio::null())
        .spawn()
        .expect("the server cannot be started")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn topic(broker: &Broker) -> Topic {
    let topic = Topic::parse("clock").unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    topic
}

async fn send(broker: &Broker, topic: &Topic, ids: &[&str]) {
    let producer = broker.producer().await.unwrap();
    for id in ids {
        producer.send(Message::to(topic.clone()).id(*id).body("x")).await.unwrap();
    }
}

async fn consumer(broker: &Broker, topic: &Topic) -> Consumer {
    let mut spec = ConsumerSpec::new(Subscription::new(topic, "g"));
    spec.retry_delays = vec![Duration::from_secs(5)];
    broker.consumer_with(spec).await.unwrap()
}

/// Receives and acknowledges until nothing has come for a while: how often each came.
async fn work(consumer: &mut Consumer, quiet: Duration) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    while let Some(delivery) = consumer.recv_within(quiet).await.unwrap() {
        *seen.entry(delivery.message().message_id().unwrap().to_string()).or_default() += 1;
        let _ = delivery.ack().await;
    }
    seen
}

/// A step longer than the session: what is in flight may come again, to another; what the old one says is void.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_loses_nothing() {
    let server = Server::start();
    let broker = server.broker().await;
    let topic = topic(&broker).await;
    let mut first = consumer(&broker, &topic).await;
    send(&broker, &topic, &["a", "b"]).await;
    let (a, b) = (first.recv().await.unwrap(), first.recv().await.unwrap());
    // Due in five seconds by the server's clock of before.
    let retried = b.message().message_id().unwrap().to_string();
    b.retry_after(Duration::from_secs(5)).unwrap().await.unwrap();
    let mut second = consumer(&broker, &topic).await;
    server.step(60);
    send(&broker, &topic, &["c"]).await;
    let mut seen = BTreeMap::new();
    for _ in 0..4 {
        for consumer in [&mut first, &mut second] {
            for (id, count) in work(consumer, Duration::from_millis(500)).await {
                *seen.entry(id).or_insert(0) += count;
            }
        }
    }
    assert!(seen.contains_key("c") && seen.contains_key(&retried), "{seen:?}");
    // The one in hand: either its session was renewed in time, or it came again and its ack settles nothing.
    let held = a.message().message_id().unwrap().to_string();
    let settled = a.ack().await;
    let again = seen.get(&held).copied().unwrap_or(0);
    match settled {
        Ok(Settled::Stale) | Err(_) => assert!(again > 0, "void, and it did not come again: {seen:?}"),
        Ok(_) => assert_eq!(again, 0, "settled twice: {seen:?}"),
    }
    first.close().await.unwrap();
    second.close().await.unwrap();
    let mut last = consumer(&broker, &topic).await;
    assert_eq!(work(&mut last, Duration::from_secs(1)).await, BTreeMap::new(), "something is left");
    last.close().await.unwrap();
}

/// Sends and reads go on; who dies after the step is noticed within its session, not after the whole step.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_stops_nothing() {
    let server = Server::start();
    let broker = server.broker().await;
    let topic = topic(&broker).await;
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let dying = {
        let (topic, config) =
            (topic.clone(), RedisConfig { port: server.port, session: SESSION, ..RedisConfig::default() });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let held = runtime.block_on(async {
                let broker = Broker::from_driver(Arc::new(RedisBroker::connect(config).await.unwrap()));
                let mut consumer = consumer(&broker, &topic).await;
                let held = consumer.recv().await.unwrap();
                (broker, consumer, held)
            });
            receiver.recv().unwrap();
            // Its tasks end where they are, before they could say goodbye.
            runtime.shutdown_background();
            drop(held);
        })
    };
    send(&broker, &topic, &["a"]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.step(-120);
    send(&broker, &topic, &["b"]).await;
    // Two renewals by the new clock, then it dies.
    tokio::time::sleep(SESSION).await;
    sender.send(()).unwrap();
    tokio::task::spawn_blocking(move || dying.join().unwrap()).await.unwrap();
    let began = Instant::now();
    let mut other = consumer(&broker, &topic).await;
    send(&broker, &topic, &["c"]).await;
    let mut seen = BTreeMap::new();
    while seen.len() < 3 && began.elapsed() < PATIENCE {
        seen.extend(work(&mut other, Duration::from_millis(500)).await);
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(began.elapsed() < SESSION * 4, "the dead one was noticed after {:?}", began.elapsed());
    other.close().await.unwrap();
}
