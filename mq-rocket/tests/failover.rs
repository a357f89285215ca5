//! Name servers and brokers that die while others live: with `MQ_TEST_ROCKET_CLUSTER` and `MQ_TEST_ROCKET_CLUSTER_CONTROL`, as
//! `cargo xtask brokers up rocket-cluster` prints them.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mq_core::config::Url;
use mq_core::driver::TopicSpec;
use mq_core::error::ErrorKind;
use mq_core::message::{Message, MessageId, Position};
use mq_core::name::Topic;
use mq_core::subscription::{GroupMode, StartFrom, Subscription};
use mq_core::{Broker, Consumer, Producer, Verdict};
use mq_rocket::{RocketBroker, RocketConfig};
use tokio::sync::Mutex;

/// Nothing here takes longer; a broker is a virtual machine that starts.
const PATIENCE: Duration = Duration::from_secs(90);
/// What need not wait for what is away takes less.
const SOON: Duration = Duration::from_secs(5);

/// There is one cluster, and each of these tests changes it.
static ALONE: Mutex<()> = Mutex::const_new(());

fn config() -> RocketConfig {
    let url = std::env::var("MQ_TEST_ROCKET_CLUSTER").unwrap_or_else(|_| {
        panic!("MQ_TEST_ROCKET_CLUSTER is not set: cargo xtask brokers up rocket-cluster prints what to set")
    });
    let mut config = RocketConfig::from_url(&Url::parse(&url).unwrap()).unwrap();
    config.connect_timeout = Duration::from_secs(20);
    config.lease = Duration::from_secs(6);
    config
}

async fn connect() -> Broker {
    Broker::from_driver(Arc::new(RocketBroker::connect(config()).await.unwrap()))
}

/// Kills or starts one process of the cluster.
async fn control(verb: &'static str, node: &'static str) {
    let control = std::env::var("MQ_TEST_ROCKET_CLUSTER_CONTROL").expect("MQ_TEST_ROCKET_CLUSTER_CONTROL is not set");
    let run = move || {
        let mut shell = Command::new("sh");
        shell.args(["-c", &control]).env("VERB", verb).env("NODE", node).stdout(Stdio::null());
        shell.status().unwrap().success()
    };
    assert!(tokio::task::spawn_blocking(run).await.unwrap(), "{verb} of {node}");
}

/// Starts what a test that failed has left dead.
async fn whole() {
    for node in ["names-1", "names-2", "broker-a", "broker-b"] {
        control("start", node).await;
    }
}

async fn topic(broker: &Broker, name: &str) -> Topic {
    let topic = Topic::parse(format!("{name}-{}", MessageId::generate(SystemTime::now()))).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(4)).await.unwrap();
    topic
}

async fn brokers_of(broker: &Broker, topic: &Topic) -> String {
    let info = broker.admin().describe_topic(topic).await.unwrap();
    info.properties.iter().find(|(name, _)| name == "brokers").expect("it says which").1.clone()
}

/// How long it takes, and what comes of it.
async fn timed<T>(what: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let outcome = what.await;
    (began.elapsed(), outcome)
}

/// Confirmed: which broker has it, by its number, and when it was confirmed.
type Confirmed = BTreeMap<String, (u32, Instant)>;

fn broker_of(position: &Position) -> u32 {
    let Position::Log { partition, .. } = position else { panic!("no position: {position:?}") };
    partition / 4096
}

/// Sends one after the other, without keys, until told to stop. What is ambiguous is sent again under its id.
async fn send(producer: Producer, topic: Topic, name: u32, stop: Arc<AtomicBool>) -> (Confirmed, usize) {
    let (mut confirmed, mut ambiguous) = (Confirmed::new(), 0);
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let id = format!("{name}:{number}");
        loop {
            match producer.send(Message::to(topic.clone()).id(id.clone()).body(id.clone())).await {
                Ok(receipt) => {
                    confirmed.insert(id, (broker_of(&receipt.position), Instant::now()));
                    // All of it is to be read again.
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    break;
                }
                Err(cause) => {
                    let cause = cause.into_parts().0;
                    assert!(cause.is_ambiguous(), "a broker less is no reason to fail: {cause}");
                    ambiguous += 1;
                }
            }
        }
    }
    (confirmed, ambiguous)
}

/// Receives until all that is wanted has come.
async fn receive(consumer: &mut Consumer, wanted: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
    let (began, mut seen) = (Instant::now(), BTreeSet::new());
    while !wanted(&seen) {
        assert!(began.elapsed() < PATIENCE, "only {} came", seen.len());
        let Some(delivery) = consumer.recv_within(Duration::from_secs(1)).await.unwrap() else { continue };
        seen.insert(String::from_utf8(delivery.message().body_bytes().expect("a body").to_vec()).unwrap());
        drop(delivery.ack());
    }
    seen
}

/// One that is dead costs next to nothing; one that has just started knows nothing, and is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_dies_and_comes_back_empty() {
    let _alone = ALONE.lock().await;
    whole().await;
    let broker = connect().await;
    let topic = topic(&broker, "names").await;
    control("kill", "names-1").await;
    let (took, ()) = timed(async {
        for _ in 0..10 {
            assert_eq!(brokers_of(&broker, &topic).await, "broker-a,broker-b");
        }
    })
    .await;
    assert!(took < Duration::from_secs(2), "ten questions took {took:?} with one name server of two");
    let (took, other) = timed(connect()).await;
    assert!(took < Duration::from_secs(2), "to connect took {took:?}");
    control("start", "names-1").await;
    // What it answers now: nothing is known there.
    let mut alone = config();
    alone.hosts.truncate(1);
    alone.connect_timeout = Duration::from_secs(1);
    let empty = RocketBroker::connect(alone).await.map(drop).unwrap_err();
    assert!(empty.is_transient(), "it is empty, and says so: {empty}");
    let fresh = connect().await;
    for broker in [&broker, &other, &fresh] {
        assert_eq!(brokers_of(broker, &topic).await, "broker-a,broker-b");
        let names = broker.admin().list_topics().await.unwrap();
        assert!(names.iter().any(|info| info.topic == topic), "the list lacks a topic");
    }
    let mut consumer = fresh.consumer(Subscription::new(&topic, "g").start(StartFrom::Earliest)).await.unwrap();
    fresh.producer().await.unwrap().send(Message::to(topic).body("x")).await.unwrap();
    receive(&mut consumer, |seen| seen.len() == 1).await;
    consumer.close().await.unwrap();
}

/// The consumer is opened while the broker is away: it reads what there is, and the rest when the broker is back.
#[tokio::test(flavor = "multi_thread")]
async fn keyless_sends_go_on_and_nothing_is_lost() {
    let _alone = ALONE.lock().await;
    whole().await;
    let broker = connect().await;
    let topic = topic(&broker, "keyless").await;
    assert_eq!(brokers_of(&broker, &topic).await, "broker-a,broker-b");
    let producer = broker.producer().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> =
        (0..8).map(|name| tokio::spawn(send(producer.clone(), topic.clone(), name, Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    control("kill", "broker-a").await;
    // A group the dead broker does not know.
    let group = format!("new-{topic}");
    let subscription = Subscription::new(&topic, group.as_str()).start(StartFrom::Earliest).prefetch(500);
    let (took, consumer) = timed(broker.consumer(subscription)).await;
    let mut consumer = consumer.unwrap();
    assert!(took < SOON, "to open a consumer took {took:?}");
    let first = receive(&mut consumer, |seen| seen.len() > 200).await;
    control("start", "broker-a").await;
    let back = Instant::now();
    tokio::time::sleep(Duration::from_secs(6)).await;
    stop.store(true, Ordering::Release);
    let (mut confirmed, mut ambiguous) = (Confirmed::new(), 0);
    for sender in sending {
        let (sent, unknown) = tokio::time::timeout(PATIENCE, sender).await.expect("a send hangs").unwrap();
        confirmed.extend(sent);
        ambiguous += unknown;
    }
    let mut times: Vec<Instant> = confirmed.values().map(|(_, at)| *at).collect();
    times.sort_unstable();
    let gap = times.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    println!("{} sent, {ambiguous} ambiguous, the longest pause {gap:?}", confirmed.len());
    assert!(gap < Duration::from_secs(4), "nothing was confirmed for {gap:?}");
    assert!(ambiguous <= 16, "{ambiguous} answers were lost by one death");
    let again = confirmed.values().any(|(broker, at)| *broker == 0 && *at > back);
    assert!(again, "the broker that came back is not used");
    let held = confirmed.values().any(|(broker, at)| *broker == 0 && *at < killed);
    assert!(held && !confirmed.keys().all(|id| first.contains(id)), "the dead broker held nothing: nothing is shown");
    let rest = receive(&mut consumer, |seen| confirmed.keys().all(|id| first.contains(id) || seen.contains(id))).await;
    assert!(!rest.is_empty());
    consumer.close().await.unwrap();
}

/// Keys wait for their broker, or fail saying so; what else can be done and known while it is away is.
#[tokio::test(flavor = "multi_thread")]
async fn keys_keep_their_queue_and_order() {
    let _alone = ALONE.lock().await;
    whole().await;
    let mut settings = config();
    settings.send_timeout = Duration::from_secs(3);
    let broker = Broker::from_driver(Arc::new(RocketBroker::connect(settings).await.unwrap()));
    let topic = topic(&broker, "keyed").await;
    let subscription = Subscription::new(&topic, "g").mode(GroupMode::Ordered).start(StartFrom::Earliest);
    let mut consumer = broker.consumer(subscription).await.unwrap();
    let producer = broker.producer().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> =
        (0..12).map(|key| tokio::spawn(send_keyed(producer.clone(), topic.clone(), key, Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    control("kill", "broker-b").await;
    let later = what_is_known(&broker, &topic).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.store(true, Ordering::Release);
    let (mut last, mut refused) = (BTreeMap::new(), 0);
    for (key, sender) in (0..).zip(sending) {
        let sent = tokio::time::timeout(PATIENCE, sender).await.expect("a send hangs").unwrap();
        assert_eq!(sent.partitions.len(), 1, "key {key} was on {:?}", sent.partitions);
        let receipt =
            later.send(Message::to(topic.clone()).key(format!("k{key}")).body(format!("{key}:{}", sent.next)));
        let Position::Log { partition, .. } = receipt.await.unwrap().position else { panic!("no position") };
        assert!(sent.partitions.contains(&partition), "a producer opened meanwhile put key {key} elsewhere");
        last.insert(key, sent.next);
        refused += sent.refused;
    }
    println!("{refused} sends of keys failed for the broker that was away");
    let (began, mut seen) = (Instant::now(), BTreeMap::<u32, u32>::new());
    while seen != last {
        assert!(began.elapsed() < PATIENCE, "{seen:?} came of {last:?}");
        let Some(delivery) = consumer.recv_within(Duration::from_secs(1)).await.unwrap() else { continue };
        let body = String::from_utf8(delivery.message().body_bytes().expect("a body").to_vec()).unwrap();
        let Some((key, number)) = body.split_once(':') else {
            drop(delivery.ack());
            continue;
        };
        let (key, number) = (key.parse().unwrap(), number.parse::<u32>().unwrap());
        let before = seen.get(&key).copied();
        // The broker's death may bring some again.
        assert!(number <= before.map_or(0, |before| before + 1), "{number} of key {key} came after {before:?}");
        seen.insert(key, before.map_or(number, |before| before.max(number)));
        drop(delivery.ack());
    }
    consumer.close().await.unwrap();
}

struct Keyed {
    partitions: BTreeSet<u32>,
    next: u32,
    refused: usize,
}

/// Sends to one key, one after the other; what fails is sent again.
async fn send_keyed(producer: Producer, topic: Topic, key: u32, stop: Arc<AtomicBool>) -> Keyed {
    let mut sent = Keyed { partitions: BTreeSet::new(), next: 0, refused: 0 };
    while !stop.load(Ordering::Acquire) {
        let id = format!("{key}:{}", sent.next);
        loop {
            match producer.send(Message::to(topic.clone()).key(format!("k{key}")).id(id.clone()).body(id.clone())).await
            {
                Ok(receipt) => {
                    let Position::Log { partition, .. } = receipt.position else { panic!("no position") };
                    sent.partitions.insert(partition);
                    break;
                }
                Err(cause) => {
                    let cause = cause.into_parts().0;
                    assert!(cause.is_transient() || cause.is_ambiguous(), "{cause}");
                    sent.refused += 1;
                }
            }
        }
        sent.next += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sent
}

/// With broker-b away, and then started. Returns a producer which began meanwhile.
async fn what_is_known(broker: &Broker, topic: &Topic) -> Producer {
    let admin = broker.admin();
    let (took, listed) = timed(admin.list_topics()).await;
    assert!(listed.unwrap().iter().any(|info| info.topic == *topic) && took < SOON, "a list took {took:?}");
    let (took, health) = timed(broker.health(Duration::from_secs(10))).await;
    assert!(health.ready && health.detail.contains("broker-b") && took < SOON, "{health:?} took {took:?}");
    let (took, lag) = timed(admin.lag(topic, &"g".parse().unwrap())).await;
    let lag = lag.unwrap_err();
    assert!(
        lag.kind() == ErrorKind::Unavailable && lag.to_string().contains("broker-b") && took < SOON,
        "{lag}, {took:?}"
    );
    let (took, half) = timed(broker.half_producer("halves", |_: Message| async { Verdict::Rollback })).await;
    let half = half.unwrap();
    assert!(took < SOON, "to open a half producer took {took:?}");
    for _ in 0..4 {
        let (took, prepared) = timed(half.prepare(Message::to(topic.clone()).body("x"))).await;
        prepared.unwrap().rollback().await.unwrap();
        assert!(took < SOON, "to prepare took {took:?}");
    }
    half.close().await.unwrap();
    let later = broker.producer().await.unwrap();
    later.send(Message::to(topic.clone()).body("no key")).await.unwrap();
    // Who has not seen the other broker declares where it can; once it is back the rest follows.
    let name = Topic::parse(format!("late-{}", MessageId::generate(SystemTime::now()))).unwrap();
    let spec = TopicSpec::new(name.clone()).partitions(4);
    let refused = admin.declare_topic(&spec).await.unwrap_err();
    assert!(refused.is_transient() && refused.to_string().contains("broker-b"), "{refused}");
    assert_eq!(brokers_of(broker, &name).await, "broker-a");
    control("start", "broker-b").await;
    // It answers before the name servers know it again.
    let began = Instant::now();
    while let Err(refused) = admin.declare_topic(&spec).await {
        assert!(refused.is_transient() && began.elapsed() < PATIENCE, "{refused}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(brokers_of(broker, &name).await, "broker-a,broker-b");
    admin.declare_topic(&spec).await.unwrap();
    later
}
