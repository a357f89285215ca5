//! What is kept and what goes, on a real Redis: trimming, groups nobody reads any more, and replicas.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_core::config::Url;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::ErrorKind;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{StartFrom, Subscription};
use mq_core::{Broker, Consumer};
use mq_redis_stream::{RedisBroker, RedisConfig};
use redis::{Cmd, FromRedisValue, cmd};

const HOUR: Duration = Duration::from_secs(3600);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> RedisConfig {
    let url = std::env::var("MQ_TEST_REDIS")
        .unwrap_or_else(|_| panic!("MQ_TEST_REDIS is not set: cargo xtask brokers up redis-8.0 prints what to set"));
    RedisConfig::from_url(&Url::parse(&url).unwrap()).unwrap()
}

async fn connect(config: RedisConfig) -> Broker {
    Broker::from_driver(Arc::new(RedisBroker::connect(config).await.unwrap()))
}

/// Asks as a stock client.
fn ask<T: FromRedisValue>(command: &Cmd) -> T {
    let config = config();
    let client = redis::Client::open((config.host.as_str(), config.port)).unwrap();
    command.query(&mut client.get_connection().unwrap()).unwrap()
}

/// Waits until what is asked for is so.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A topic of one partition that keeps messages for an hour.
struct Place {
    broker: Broker,
    topic: Topic,
}

impl Place {
    async fn new(name: &str) -> Self {
        let topic = Topic::parse(format!("{name}-{}", MessageId::generate(std::time::SystemTime::now()))).unwrap();
        let broker = connect(config()).await;
        let mut spec = TopicSpec::new(topic.clone()).partitions(1);
        spec.retention = Some(HOUR);
        broker.admin().declare_topic(&spec).await.unwrap();
        Self { broker, topic }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{{mq:{}:0}}:{suffix}", self.topic)
    }

    /// Messages of long ago.
    fn old(&self, ids: std::ops::RangeInclusive<u32>) {
        for id in ids {
            let _: String = ask(cmd("XADD").arg(self.key("s")).arg(format!("1000-{id}")).arg("body").arg(id));
        }
    }

    /// The ids in the stream.
    fn ids(&self) -> Vec<String> {
        let entries: Vec<(String, Vec<String>)> = ask(cmd("XRANGE").arg(self.key("s")).arg("-").arg("+"));
        entries.into_iter().map(|(id, _)| id).collect()
    }

    fn groups(&self) -> Vec<String> {
        let groups: Vec<std::collections::HashMap<String, redis::Value>> =
            ask(cmd("XINFO").arg("GROUPS").arg(self.key("s")));
        groups.into_iter().map(|group| redis::from_redis_value(group["name"].clone()).unwrap()).collect()
    }

    async fn consumer(&self, group: &str) -> Consumer {
        self.broker.consumer(Subscription::new(self.topic.clone(), group)).await.unwrap()
    }

    async fn group(&self, group: &str) {
        let mut spec = GroupSpec::new(self.topic.clone(), Group::parse(group).unwrap());
        spec.start = StartFrom::Earliest;
        self.broker.admin().declare_group(&spec).await.unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let keys: Vec<String> = ask(cmd("KEYS").arg(format!("*mq:{}*", self.topic)));
        let _: i64 = if keys.is_empty() { 0 } else { ask(cmd("DEL").arg(keys)) };
    }
}

/// Receives that many, and acknowledges all but those of these ids.
async fn work(consumer: &mut Consumer, count: usize, except: &[&str]) {
    for _ in 0..count {
        let delivery = consumer.recv_within(PATIENCE).await.unwrap().expect("a message");
        let id = delivery.position().to_string();
        if !except.iter().any(|except| id.ends_with(except)) {
            delivery.ack().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_goes_and_what_is_not_stays() {
    let place = Place::new("trimmed").await;
    place.old(1..=6);
    let mut holder = place.consumer("g").await;
    work(&mut holder, 6, &["1000-3", "1000-5"]).await;
    // A session begins with trimming.
    let second = place.consumer("g").await;
    until("what lies before the unacknowledged goes", || place.ids().len() < 5);
    assert_eq!(place.ids(), ["1000-3", "1000-4", "1000-5", "1000-6"], "nothing from the first unacknowledged on");
    second.close().await.unwrap();
    // A group that has not read it yet holds everything back, though all others are done.
    place.group("late").await;
    holder.close().await.unwrap();
    let mut again = place.consumer("g").await;
    work(&mut again, 2, &[]).await;
    again.close().await.unwrap();
    assert_eq!(place.ids().len(), 4);
    let mut late = place.consumer("late").await;
    work(&mut late, 4, &[]).await;
    let last = place.consumer("late").await;
    until("all is settled by all", || place.ids().len() < 2);
    assert_eq!(place.ids(), ["1000-6"], "what was delivered last is kept as a mark");
    late.close().await.unwrap();
    last.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_stays() {
    let place = Place::new("young").await;
    place.old(1..=2);
    place.broker.producer().await.unwrap().send(Message::to(place.topic.clone()).body("new")).await.unwrap();
    let mut first = place.consumer("g").await;
    work(&mut first, 3, &[]).await;
    let second = place.consumer("g").await;
    until("the old ones go", || place.ids().len() < 2);
    assert_eq!(place.ids().len(), 1);
    first.close().await.unwrap();
    second.close().await.unwrap();
}

/// The broadcast consumer's process dies, and leaves its group behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_group_of_a_dead_broadcast_consumer_goes() {
    let place = Place::new("broadcast").await;
    place.group("g").await;
    let topic = place.topic.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let consumer = runtime.block_on(async {
            let broker = connect(config()).await;
            broker.consumer(Subscription::broadcast(topic)).await.unwrap()
        });
        // Its tasks end where they are, before it could say goodbye.
        runtime.shutdown_background();
        drop(consumer);
    })
    .join()
    .unwrap();
    let dead = place.groups().into_iter().find(|name| name.starts_with("broadcast-")).expect("it was left behind");
    let mut alive = place.broker.consumer(Subscription::broadcast(place.topic.clone())).await.unwrap();
    place.old(1..=3);
    work(&mut alive, 3, &[]).await;
    let mut consumer = place.consumer("g").await;
    work(&mut consumer, 3, &[]).await;
    consumer.close().await.unwrap();
    // Not yet: it might only have lost its connection.
    assert!(place.groups().contains(&dead) && place.ids().len() == 3);
    // Its last sign of life was two hours ago.
    let members = place.key(&format!("m:{dead}"));
    let names: Vec<String> = ask(cmd("ZRANGE").arg(&members).arg(0).arg(-1));
    assert_eq!(names.len(), 1);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let _: i64 = ask(cmd("ZADD").arg(&members).arg((now - HOUR * 2).as_millis() as u64).arg(&names[0]));
    let consumer = place.consumer("g").await;
    until("its group goes", || !place.groups().contains(&dead));
    until("it holds nothing back", || place.ids() == ["1000-3"]);
    let left: Vec<String> = ask(cmd("KEYS").arg(format!("*{dead}*")));
    assert_eq!(left, [""; 0]);
    // The living one goes on.
    assert!(place.groups().iter().any(|name| name.starts_with("broadcast-")));
    place.broker.producer().await.unwrap().send(Message::to(place.topic.clone()).body("new")).await.unwrap();
    work(&mut alive, 1, &[]).await;
    consumer.close().await.unwrap();
    alive.close().await.unwrap();
    assert_eq!(place.groups(), ["g"]);
}

/// Copies are demanded that nobody keeps: stored, and not confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas() {
    let place = Place::new("replicas").await;
    let mut demanding = config();
    demanding.replicas = 1;
    demanding.send_timeout = Duration::from_secs(2);
    let demanding = connect(demanding).await;
    let producer = demanding.producer().await.unwrap();
    for stored in 1..=2 {
        let began = Instant::now();
        let error = producer.send(Message::to(place.topic.clone()).body("x")).await.unwrap_err().into_parts().0;
        assert!(began.elapsed() < Duration::from_secs(3), "took {:?}", began.elapsed());
        assert!(error.is_ambiguous() && error.kind() == ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("replicas") && error.hint().is_some(), "{error}");
        // The second shows that the connection is still of use.
        assert_eq!(place.ids().len(), stored);
    }
    demanding.close().await.unwrap();
}
