//! P6: how long after the return of a killed broker the first message is handled, beside a raw client's probe.
//!
//! ```text
//! cargo run --release -p mq-bench --example recovery -- --url kafka://127.0.0.1:9092?profile=development \
//!     --control 'cargo xtask brokers "$VERB" kafka'
//! ```
//!
//! The control is a shell command that kills or starts the broker, as the variable VERB says; `cargo xtask brokers up`
//! prints one as `MQ_TEST_…_CONTROL`. Both clients read the same messages in groups of their own: a raw client that does
//! nothing but receive, with the group settings of `mq`, and a worker. Even rounds kill under load, odd ones while both
//! are idle.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use mq::driver::{GroupSpec, TopicSpec};
use mq::{Body, Broker, Error, ErrorKind, Group, HandlerError, Message, Result, Subscription, Topic, Worker};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two messages of the feed.
const PACE: Duration = Duration::from_millis(10);
/// How long the broker stays down.
const DOWN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Parser)]
struct Arguments {
    /// The broker
    #[arg(long, env = "MQ_URL")]
    url: String,
    /// Kills or starts it, as the variable VERB says
    #[arg(long)]
    control: String,
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

/// When somebody received a message last.
type Seen = watch::Sender<Instant>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let broker = mq::connect(&arguments.url).await?;
    let topic = Topic::parse(format!("mq-recovery-{:08x}", fastrand::u32(..)))?;
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await?;
    let mut groups = Vec::new();
    for name in ["raw", "mq"] {
        let group = Group::parse(name)?;
        broker.admin().declare_group(&GroupSpec::new(topic.clone(), group.clone())).await?;
        groups.push(group);
    }
    let (raw_seen, _) = watch::channel(Instant::now());
    let (our_seen, _) = watch::channel(Instant::now());
    let feeding = Arc::new(AtomicBool::new(true));
    let feed = feed(&broker, &topic, Arc::clone(&feeding)).await?;
    let probe = raw::probe(&arguments.url, &topic, &groups[0], raw_seen.clone())?;
    let worker = work(&broker, Subscription::new(&topic, &groups[1]), our_seen.clone());
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        let began = Instant::now();
        let (raw_first, our_first) = tokio::join!(after(&raw_seen, began), after(&our_seen, began));
        raw_first.and(our_first)?;
        let idle = round % 2 == 1;
        feeding.store(!idle, Ordering::Release);
        if idle {
            tokio::time::sleep(DOWN).await;
        }
        control(&arguments.control, "kill").await?;
        tokio::time::sleep(DOWN).await;
        control(&arguments.control, "start").await?;
        let answered = Instant::now();
        feeding.store(true, Ordering::Release);
        let (raw_first, our_first) = tokio::join!(after(&raw_seen, answered), after(&our_seen, answered));
        let (raw_first, our_first) = (raw_first?, our_first?);
        println!(
            "round {round}, {}: raw probe {:.2} s, mq {:.2} s after the broker answered",
            if idle { "idle" } else { "under load" },
            raw_first.as_secs_f64(),
            our_first.as_secs_f64()
        );
        raw.push(raw_first.as_secs_f64());
        ours.push(our_first.as_secs_f64());
    }
    let (raw, ours) = (median(raw), median(ours));
    let kept = ours <= raw + 1.0;
    println!("P6 median: raw {raw:.2} s, mq {ours:.2} s; budget raw + 1 s: {}", if kept { "kept" } else { "MISSED" });
    for task in [feed, probe, worker] {
        task.abort();
    }
    if let Err(error) = broker.admin().delete_topic(&topic).await {
        println!("{topic} is left behind: {error}");
    }
    broker.close().await?;
    if kept { Ok(()) } else { Err(Error::new(ErrorKind::Rejected, "P6 is missed")) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long after `since` a message was received.
async fn after(seen: &Seen, since: Instant) -> Result<Duration> {
    let mut seen = seen.subscribe();
    let found = tokio::time::timeout(PATIENCE, seen.wait_for(|at| *at > since)).await;
    let at = found
        .map_err(|_| Error::new(ErrorKind::Timeout, format!("no message within {PATIENCE:?}")))?
        .map_err(|_| Error::new(ErrorKind::Internal, "nobody receives any more"))?;
    Ok(at.duration_since(since))
}

async fn control(command: &str, verb: &str) -> Result<()> {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]).env("VERB", verb).stdin(Stdio::null()).stdout(Stdio::null());
    let failed = |error| Error::new(ErrorKind::Internal, "no shell").with_source(error);
    let status = tokio::task::spawn_blocking(move || shell.status()).await.map_err(std::io::Error::other);
    let status = status.and_then(|status| status).map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Rejected, format!("`{command}` failed with VERB={verb} ({status})")))
}

/// Sends all the time; what fails is of no interest.
async fn feed(broker: &Broker, topic: &Topic, feeding: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let (producer, topic) = (broker.producer().await?, topic.clone());
    Ok(tokio::spawn(async move {
        let mut pace = tokio::time::interval(PACE);
        loop {
            pace.tick().await;
            if feeding.load(Ordering::Acquire)
                && let Ok(pending) = producer.enqueue(Message::to(topic.clone()).body("x")).await
            {
                tokio::spawn(pending);
            }
        }
    }))
}

fn work(broker: &Broker, subscription: Subscription, seen: Seen) -> JoinHandle<()> {
    let worker = Worker::new(broker, subscription).handle(move |Body(_): Body| {
        seen.send_replace(Instant::now());
        async { Ok::<(), HandlerError>(()) }
    });
    tokio::spawn(async move {
        if let Err(error) = worker.run_until(std::future::pending()).await {
            println!("the worker ended: {error}");
        }
    })
}

/// The raw clients: they receive, and settle at once.
mod raw {
    use std::time::{Duration, Instant};

    use futures_util::StreamExt as _;
    use lapin::options::{BasicConsumeOptions, BasicQosOptions};
    use lapin::types::FieldTable;
    use lapin::{Connection, ConnectionProperties};
    use mq::config::Url;
    use mq::{Error, ErrorKind, Group, Result, Topic};
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use tokio::task::JoinHandle;

    use super::Seen;

    pub(super) fn probe(url: &str, topic: &Topic, group: &Group, seen: Seen) -> Result<JoinHandle<()>> {
        let parsed = Url::parse(url)?;
        match parsed.scheme.as_str() {
            "kafka" => kafka(&parsed, topic, group, seen),
            "amqp" => Ok(tokio::spawn(rabbit(url.to_owned(), format!("{}--{group}", topic.name()), seen))),
            _ => {
                let (url, topic, group) = (url.to_owned(), topic.clone(), group.clone());
                Ok(tokio::spawn(async move {
                    let received = move || {
                        seen.send_replace(Instant::now());
                    };
                    if let Err(error) = mq_bench::probe(&url, &topic, &group, received).await {
                        println!("the probe ended: {error}");
                    }
                }))
            }
        }
    }

    fn kafka(url: &Url, topic: &Topic, group: &Group, seen: Seen) -> Result<JoinHandle<()>> {
        let failed = |error| Error::new(ErrorKind::Internal, "the raw client").with_source(error);
        let hosts: Vec<String> =
            url.hosts.iter().map(|(host, port)| format!("{host}:{}", port.unwrap_or(9092))).collect();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", hosts.join(","))
            .set("group.id", format!("{group}-probe"))
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "3000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .create()
            .map_err(failed)?;
        consumer.subscribe(&[topic.name()]).map_err(failed)?;
        let poll = move || {
            loop {
                if let Some(Ok(_)) = consumer.poll(Duration::from_millis(100)) {
                    seen.send_replace(Instant::now());
                }
            }
        };
        Ok(tokio::spawn(async move {
            std::thread::spawn(poll);
            std::future::pending::<()>().await;
        }))
    }

    /// Connects until it succeeds, receives until that ends, and again.
    async fn rabbit(url: String, queue: String, seen: Seen) {
        loop {
            let receive = async {
                let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                channel.basic_qos(100, BasicQosOptions::default()).await?;
                let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
                let none = FieldTable::default();
                let mut stream = channel.basic_consume(queue.as_str().into(), "".into(), options, none).await?;
                while let Some(delivery) = stream.next().await {
                    delivery?;
                    seen.send_replace(Instant::now());
                }
                Ok::<(), lapin::Error>(())
            };
            // An end of any kind: try again, soon.
            let _ = receive.await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
