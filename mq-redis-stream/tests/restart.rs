//! What Redis itself keeps of a delivery over its own death and reload, and what the adapter makes of it. With
//! `MQ_TEST_REDIS` and `MQ_TEST_REDIS_CONTROL`, as `cargo xtask brokers up` prints them.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::Broker;
use mq_core::config::Url;
use mq_core::driver::{ConsumerSpec, TopicSpec};
use mq_core::message::{Message, MessageId};
use mq_core::name::Topic;
use mq_core::subscription::Subscription;
use mq_redis_stream::{RedisBroker, RedisConfig};
use redis::{Cmd, FromRedisValue, cmd};

/// Each of these tests kills the server.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn config() -> RedisConfig {
    let url = std::env::var("MQ_TEST_REDIS")
        .unwrap_or_else(|_| panic!("MQ_TEST_REDIS is not set: cargo xtask brokers up redis-8.0 prints what to set"));
    RedisConfig::from_url(&Url::parse(&url).unwrap()).unwrap()
}

/// Asks as a stock client.
fn ask<T: FromRedisValue>(command: &Cmd) -> T {
    let config = config();
    let client = redis::Client::open((config.host.as_str(), config.port)).unwrap();
    command.query(&mut client.get_connection().unwrap()).unwrap()
}

fn control(verb: &str) {
    let control = std::env::var("MQ_TEST_REDIS_CONTROL").expect("MQ_TEST_REDIS_CONTROL is not set");
    let done = Command::new("sh").args(["-c", &control]).env("VERB", verb).stdout(Stdio::null()).status().unwrap();
    assert!(done.success(), "the server could not be told to {verb}");
}

/// By SIGKILL; it loads what it has written. How long it was away.
fn reload() -> Duration {
    let began = Instant::now();
    control("kill");
    std::thread::sleep(Duration::from_millis(500));
    control("start");
    began.elapsed()
}

fn unique(name: &str) -> String {
    format!("{name}-{}", MessageId::generate(SystemTime::now()))
}

/// A stream with one entry in the hands of `c`.
fn delivered(name: &str) -> (String, String) {
    let key = unique(name);
    let _: String = ask(cmd("XGROUP").arg("CREATE").arg(&key).arg("g").arg("0").arg("MKSTREAM"));
    let id: String = ask(cmd("XADD").arg(&key).arg("*").arg("body").arg("x"));
    let _: redis::Value = ask(cmd("XREADGROUP").arg("GROUP").arg("g").arg("c").arg("STREAMS").arg(&key).arg(">"));
    (key, id)
}

/// In whose hands it is, for how many milliseconds, and how often it was delivered.
fn pending(key: &str) -> (String, u64, u64) {
    let pending: Vec<(String, String, u64, u64)> = ask(cmd("XPENDING").arg(key).arg("g").arg("-").arg("+").arg(10));
    let (_, consumer, idle, deliveries) = pending.into_iter().next().expect("nothing is pending");
    (consumer, idle, deliveries)
}

fn rewritten() {
    let _: String = ask(&cmd("BGREWRITEAOF"));
    let began = Instant::now();
    loop {
        let info: String = ask(cmd("INFO").arg("persistence"));
        if info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0") {
            assert!(info.contains("aof_last_bgrewrite_status:ok"), "{info}");
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the append-only file is not rewritten");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The lease of other programs' consumers rests on it.
#[test]
fn idle_times_and_counters_go_on_over_a_reload() {
    let _alone = ALONE.blocking_lock();
    for compact in [false, true] {
        let (key, id) = delivered("idle");
        let _: redis::Value = ask(cmd("XCLAIM").arg(&key).arg("g").arg("c").arg(0).arg(&id));
        std::thread::sleep(Duration::from_millis(1500));
        if compact {
            rewritten();
        }
        let (_, before, _) = pending(&key);
        assert!(before >= 1400, "{before}");
        let away = reload();
        let (consumer, after, deliveries) = pending(&key);
        assert_eq!((consumer.as_str(), deliveries), ("c", 2), "rewritten: {compact}");
        let least = before + u64::try_from(away.as_millis()).unwrap() - 100;
        assert!(
            (least..least + 3000).contains(&after),
            "idle {before} ms, away for {away:?}, then idle {after} ms; rewritten: {compact}"
        );
        let _: u64 = ask(cmd("DEL").arg(&key));
    }
}

/// Why a retry's time is not kept as an idle time: one that would lie in the future is cut to none.
#[test]
fn an_idle_time_cannot_lie_in_the_future() {
    let _alone = ALONE.blocking_lock();
    let (key, id) = delivered("future");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let due = u64::try_from(now).unwrap() + 60_000;
    let _: redis::Value = ask(cmd("XCLAIM").arg(&key).arg("g").arg("c").arg(0).arg(&id).arg("TIME").arg(due));
    std::thread::sleep(Duration::from_millis(200));
    let (_, idle, _) = pending(&key);
    // Were it kept, it would be idle for no time until a minute has passed.
    assert!((150..5_000).contains(&idle), "{idle}");
    let _: u64 = ask(cmd("DEL").arg(&key));
}

/// Its process dies together with the server: what it held, what waits for a retry, and the attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_while_the_server_is_away() {
    let broker = async || {
        let mut config = config();
        config.session = Duration::from_secs(2);
        Broker::from_driver(Arc::new(RedisBroker::connect(config).await.unwrap()))
    };
    let _alone = ALONE.lock().await;
    let topic = Topic::parse(unique("away")).unwrap();
    let admin = broker().await;
    admin.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    let producer = admin.producer().await.unwrap();
    for body in ["held", "failed"] {
        producer.send(Message::to(topic.clone()).id(body).body(body)).await.unwrap();
    }
    let due = {
        let topic = topic.clone();
        let dying = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let (consumer, held, due) = runtime.block_on(async {
                let mut spec = ConsumerSpec::new(Subscription::new(&topic, "g"));
                spec.retry_delays = vec![Duration::from_secs(3)];
                let mut consumer = broker().await.consumer_with(spec).await.unwrap();
                let held = consumer.recv().await.unwrap();
                let failed = consumer.recv().await.unwrap();
                let due = SystemTime::now() + Duration::from_secs(3);
                failed.retry_after(Duration::from_secs(3)).unwrap().await.unwrap();
                (consumer, held, due)
            });
            // Its tasks end where they are, before they could say goodbye.
            runtime.shutdown_background();
            drop((consumer, held));
            due
        });
        tokio::task::spawn_blocking(move || dying.join().unwrap()).await.unwrap()
    };
    tokio::task::spawn_blocking(reload).await.unwrap();
    let mut consumer = broker().await.consumer(Subscription::new(&topic, "g")).await.unwrap();
    let mut seen = Vec::new();
    while let Some(delivery) = consumer.recv_within(Duration::from_secs(5)).await.unwrap() {
        let id = delivery.message().message_id().unwrap().to_string();
        if id == "failed" {
            assert!(SystemTime::now() >= due, "it came before its time");
        }
        seen.push((id, delivery.attempt()));
        delivery.ack().await.unwrap();
    }
    seen.sort();
    assert_eq!(seen, [("failed".to_owned(), 2), ("held".to_owned(), 1)]);
    consumer.close().await.unwrap();
}
