//! What only a cluster can do to its clients: a slot moves, a master dies and its replica takes over. With
//! `MQ_TEST_REDIS` and `MQ_TEST_REDIS_CONTROL`, as `cargo xtask brokers up redis-cluster` prints them.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mq_core::capability::Feature;
use mq_core::config::Url;
use mq_core::driver::{BrokerDriver as _, TopicSpec};
use mq_core::error::{Error, ErrorKind};
use mq_core::message::{Message, MessageId, Position};
use mq_core::name::Topic;
use mq_core::subscription::{GroupMode, StartFrom, Subscription};
use mq_core::{Broker, Consumer, Producer};
use mq_redis_stream::{RedisBroker, RedisConfig};
use redis::{Cmd, FromRedisValue, RedisResult, Value, cmd};
use tokio::sync::Mutex;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(40);

/// There is one cluster, and each of these tests changes it.
static ALONE: Mutex<()> = Mutex::const_new(());

fn url() -> String {
    std::env::var("MQ_TEST_REDIS")
        .unwrap_or_else(|_| panic!("MQ_TEST_REDIS is not set: cargo xtask brokers up redis-cluster prints what to set"))
}

fn config() -> RedisConfig {
    RedisConfig::from_url(&Url::parse(&url()).unwrap()).unwrap()
}

async fn broker() -> Broker {
    Broker::from_driver(Arc::new(RedisBroker::connect(config()).await.unwrap()))
}

/// Asks one node as a stock client.
fn ask<T: FromRedisValue>(port: u16, command: &Cmd) -> RedisResult<T> {
    command.query(&mut redis::Client::open(("127.0.0.1", port))?.get_connection()?)
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

/// A master with its slots and its replica.
#[derive(Debug, Clone)]
struct Node {
    first: u16,
    last: u16,
    port: u16,
    id: String,
    replica: Option<u16>,
}

fn nodes() -> Vec<Node> {
    let config = config();
    let seeds = config.seeds.iter().filter_map(|seed| seed.rsplit_once(':')?.1.parse().ok());
    let ports: Vec<u16> = std::iter::once(config.port).chain(seeds).collect();
    let slots = ports.iter().find_map(|port| ask::<Vec<Vec<Value>>>(*port, cmd("CLUSTER").arg("SLOTS")).ok());
    let node = |value: &Value| redis::from_redis_value::<(String, u16, String, Value)>(value.clone()).unwrap();
    let number = |value: &Value| redis::from_redis_value::<u16>(value.clone()).unwrap();
    let of = |range: Vec<Value>| {
        let (_, port, id, _) = node(&range[2]);
        let replica = range.get(3).map(|replica| node(replica).1);
        Node { first: number(&range[0]), last: number(&range[1]), port, id, replica }
    };
    slots.expect("no node answers").into_iter().map(of).collect()
}

fn slot(key: &str) -> u16 {
    ask(nodes()[0].port, cmd("CLUSTER").arg("KEYSLOT").arg(key)).unwrap()
}

fn owner(slot: u16) -> Node {
    nodes().into_iter().find(|node| (node.first..=node.last).contains(&slot)).expect("a slot without a node")
}

/// The nodes that were killed come back.
fn start_all() {
    let control = std::env::var("MQ_TEST_REDIS_CONTROL").expect("MQ_TEST_REDIS_CONTROL is not set");
    let done = Command::new("sh").args(["-c", &control]).env("VERB", "start").stdout(Stdio::null()).status().unwrap();
    assert!(done.success(), "the cluster does not start again");
}

async fn topic(broker: &Broker, name: &str, partitions: u32) -> Topic {
    let topic = Topic::parse(format!("{name}-{}", MessageId::generate(SystemTime::now()))).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(partitions)).await.unwrap();
    topic
}

async fn consumer(broker: &Broker, topic: &Topic) -> Consumer {
    broker.consumer(Subscription::new(topic, "g").mode(GroupMode::Ordered).start(StartFrom::Earliest)).await.unwrap()
}

/// What was confirmed: the number within its key, with its partition and when.
type Confirmed = BTreeMap<(u32, u32), (u32, Instant)>;

/// Sends to each of these keys, one message after the other, until told to stop; what fails is sent again.
async fn send(producer: Producer, topic: Topic, keys: u32, stop: Arc<AtomicBool>) -> (Confirmed, Vec<Error>) {
    let (mut confirmed, mut errors) = (Confirmed::new(), Vec::new());
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        for key in 0..keys {
            let message = || {
                let id = format!("{key}:{number}");
                Message::to(topic.clone()).key(format!("k{key}")).id(id.clone()).body(id)
            };
            loop {
                match producer.send(message()).await {
                    Ok(receipt) => {
                        let Position::Entry { partition, .. } = receipt.position else { panic!("no position") };
                        confirmed.insert((key, number), (partition, Instant::now()));
                        break;
                    }
                    Err(cause) => {
                        let cause = cause.into_parts().0;
                        assert!(cause.is_transient() || cause.is_ambiguous(), "{cause}");
                        errors.push(cause);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    }
    (confirmed, errors)
}

/// Receives until nothing has come for a while and all that is wanted has: in order of arrival.
async fn receive(consumer: &mut Consumer, quiet: Duration) -> Vec<(u32, u32)> {
    let mut seen = Vec::new();
    while let Some(delivery) = consumer.recv_within(quiet).await.unwrap() {
        let body = String::from_utf8(delivery.message().body_bytes().expect("a body").to_vec()).unwrap();
        let (key, number) = body.split_once(':').unwrap();
        seen.push((key.parse().unwrap(), number.parse().unwrap()));
        delivery.ack().await.unwrap();
    }
    seen
}

/// Key by key while messages are sent and consumed: commands for it are asked of both nodes, and refused by both.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_moves_under_load() {
    let _alone = ALONE.lock().await;
    let broker = broker().await;
    let topic = topic(&broker, "moved", 3).await;
    let mut consumer = consumer(&broker, &topic).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send(broker.producer().await.unwrap(), topic.clone(), 12, Arc::clone(&stop)));
    let moving = {
        let (topic, stop) = (topic.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(300));
            for partition in 0..3 {
                let slot = slot(&format!("{{mq:{topic}:{partition}}}:s"));
                let from = owner(slot);
                let to = nodes().into_iter().find(|node| node.id != from.id).unwrap();
                move_slot(slot, &from, &to);
                std::thread::sleep(Duration::from_millis(100));
            }
            stop.store(true, Ordering::Release);
        })
    };
    let seen = receive(&mut consumer, Duration::from_secs(3)).await;
    moving.await.unwrap();
    let (confirmed, errors) = sending.await.unwrap();
    assert!(errors.is_empty(), "a send failed while a slot moved: {}", errors[0]);
    let missing: Vec<_> = confirmed.keys().filter(|id| !seen.contains(id)).collect();
    assert!(missing.is_empty(), "{} of {} were lost: {missing:?}", missing.len(), confirmed.len());
    assert_eq!(seen.len(), confirmed.len(), "something came twice");
    let mut last = BTreeMap::new();
    for (key, number) in seen {
        let before = last.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{number} of key {key} came after {before:?}");
    }
    assert!(confirmed.len() > 100, "only {} were sent meanwhile", confirmed.len());
    consumer.close().await.unwrap();
}

fn move_slot(slot: u16, from: &Node, to: &Node) {
    let set = |port: u16, how: &str, node: &str| {
        let _: () = ask(port, cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(how).arg(node)).unwrap();
    };
    set(to.port, "IMPORTING", &from.id);
    set(from.port, "MIGRATING", &to.id);
    loop {
        let keys: Vec<String> = ask(from.port, cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(1)).unwrap();
        let Some(key) = keys.first() else { break };
        let _: Value = ask(from.port, cmd("MIGRATE").arg("127.0.0.1").arg(to.port).arg(key).arg(0).arg(5000)).unwrap();
        // In between some keys of a script are here, and others there.
        std::thread::sleep(Duration::from_millis(10));
    }
    set(to.port, "NODE", &to.id);
    set(from.port, "NODE", &to.id);
}

/// Its replica knows nothing of the last messages: they are lost, and only they.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_only_what_was_not_copied() {
    let _alone = ALONE.lock().await;
    let broker = broker().await;
    let refused = broker.require([Feature::NoLossOnFailover]).unwrap_err();
    assert_eq!((refused.kind(), refused.feature()), (ErrorKind::Unsupported, Some(Feature::NoLossOnFailover)));
    let topic = topic(&broker, "failover", 6).await;
    let mut consumer = consumer(&broker, &topic).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send(broker.producer().await.unwrap(), topic.clone(), 30, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Nothing is consumed yet: what is lost is seen.
    let slots: Vec<u16> = (0..6).map(|partition| slot(&format!("{{mq:{topic}:{partition}}}:s"))).collect();
    let victim = owner(slots[0]);
    let replica = victim.replica.expect("the master has a replica");
    let hit: BTreeSet<u32> =
        (0_u32..).zip(&slots).filter(|(_, slot)| owner(**slot).id == victim.id).map(|(p, _)| p).collect();
    // From here on the replica gets nothing: it may not log in any more.
    let set = |name: &str, value: &str| {
        let _: () = ask(replica, cmd("CONFIG").arg("SET").arg(name).arg(value)).unwrap();
    };
    let cut = Instant::now();
    set("masterauth", "wrong");
    set("masteruser", "nobody");
    let _: i64 = ask(replica, cmd("CLIENT").arg("KILL").arg("TYPE").arg("master")).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let info: String = ask(victim.port, cmd("INFO").arg("server")).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned();
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    until("the replica takes over", || owner(slots[0]).port == replica);
    let taken = killed.elapsed();
    set("masteruser", "");
    set("masterauth", "");
    // The same producer goes on.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Release);
    let (confirmed, errors) = tokio::time::timeout(PATIENCE, sending).await.expect("the producer hangs").unwrap();
    let after = confirmed.values().filter(|(partition, at)| hit.contains(partition) && *at > killed + taken).count();
    assert!(after > 0, "nothing was sent to the new master");
    // And so does the same consumer.
    let seen: BTreeSet<_> = receive(&mut consumer, Duration::from_secs(8)).await.into_iter().collect();
    let lost: Vec<_> = confirmed.iter().filter(|(id, _)| !seen.contains(id)).collect();
    let window = confirmed.values().filter(|(partition, at)| hit.contains(partition) && *at >= cut && *at <= killed);
    let window = window.count();
    println!(
        "a fail-over after {taken:?}: {} of {} confirmed messages were lost, of {window} that were not copied; {} sends \
         failed meanwhile and were sent again",
        lost.len(),
        confirmed.len(),
        errors.len()
    );
    for (id, (partition, at)) in &lost {
        let uncopied = hit.contains(partition) && *at >= cut && *at <= killed + Duration::from_millis(50);
        assert!(uncopied, "{id:?} of partition {partition} was lost, confirmed {:?} after the cut", *at - cut);
    }
    assert!(!lost.is_empty() && window > 0, "nothing was lost: this test has shown nothing");
    consumer.close().await.unwrap();
    start_all();
}

/// What one step cannot reach is refused before anything is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_over_several_slots_is_refused() {
    let _alone = ALONE.lock().await;
    let driver = RedisBroker::connect(config()).await.unwrap();
    let broker = broker().await;
    let topic = topic(&broker, "step", 6).await;
    let producer = driver.open_producer().await.unwrap();
    let keyed = |key: u32| Message::to(topic.clone()).key(format!("k{key}")).body("x");
    let error = producer.atomic((0..20).map(keyed).collect(), Vec::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.feature()), (ErrorKind::Unsupported, Some(Feature::AtomicBatch)), "{error}");
    assert!(error.to_string().contains("one key"), "it says what to do: {error}");
    let keyless = Message::to(topic.clone()).body("x");
    producer.atomic(vec![keyed(1), keyless.clone(), keyed(1), keyless], Vec::new()).await.unwrap();
    let stored = broker.admin().describe_topic(&topic).await.unwrap();
    assert!(format!("{stored:?}").contains("(\"entries\", \"4\")"), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_no_single_server() {
    let _alone = ALONE.lock().await;
    let mut single = config();
    single.deployment = mq_redis_stream::Deployment::Single;
    single.seeds.clear();
    let error = RedisBroker::connect(single).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("redis-cluster://"), "{error}");
}

/// The first node named need not be there.
#[tokio::test(flavor = "multi_thread")]
async fn any_node_finds_the_others() {
    let _alone = ALONE.lock().await;
    let mut config = config();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.seeds = vec![format!("127.0.0.1:{}", nodes()[1].replica.expect("a replica"))];
    config.port = free;
    RedisBroker::connect(config).await.unwrap();
}

/// No tag puts the SDK's keys beside such a stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_slot_has_no_tag_is_refused() {
    let _alone = ALONE.lock().await;
    let broker = broker().await;
    let topic = Topic::parse("stream:odd}key").unwrap();
    let error = broker.consumer(Subscription::new(&topic, "g")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
