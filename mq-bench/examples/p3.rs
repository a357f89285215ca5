//! P3: what the sequential worker costs by message, in instructions and allocations, on the memory broker.
//!
//! `cargo run --release -p mq-bench --no-default-features --example p3` runs itself under valgrind (Debian's package
//! `valgrind`) twice for each way of consuming, once for few and once for many messages. The topic holds the same
//! number of messages in both, so the difference is what the messages cost and nothing else. Unlike a rate, the figure
//! does not depend on what else the machine does.

use std::io::Write;
use std::process::{Command, Stdio};

use mq::driver::{GroupSpec, TopicSpec};
use mq::{Body, Broker, Group, HandlerError, Json, Message, Result, Subscription, Topic, Worker};
use serde::{Deserialize, Serialize};

const FEW: u64 = 10_000;
const MANY: u64 = 30_000;
const PREFETCH: usize = 256;
/// Instructions the worker may take by message, by the project's budgets, the broker's own included.
const BUDGET: f64 = 1_600.0;

/// What consumes; the name is the argument of the child process.
const WAYS: [(&str, &str); 3] = [
    ("consumer", "pull consumer, an ack per message"),
    ("worker", "worker, the body as bytes"),
    ("json", "worker, the body read as JSON (serde_json included)"),
];

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(way), Some(messages)) = (arguments.next(), arguments.next()) {
        let messages = messages.parse()?;
        // One thread: the instructions of idle ones would be counted, too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return Ok(runtime.block_on(consume(&way, messages))?);
    }
    let mut out = std::io::stdout().lock();
    for (way, what) in WAYS {
        let instructions = by_message(|messages| callgrind(way, messages))?;
        let blocks = by_message(|messages| dhat(way, messages))?;
        writeln!(out, "{what:<52} {instructions:>7.0} instructions {blocks:>7.3} allocations")?;
        if way == "worker" && (instructions > BUDGET || blocks >= 0.01) {
            writeln!(out, "  MISSED: the budget is {BUDGET} instructions and no allocation")?;
        }
    }
    Ok(())
}

/// The difference of a long and a short run, by message.
fn by_message(run: impl Fn(u64) -> std::io::Result<u64>) -> std::io::Result<f64> {
    let (few, many) = (run(FEW)?, run(MANY)?);
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64)
}

fn callgrind(way: &str, messages: u64) -> std::io::Result<u64> {
    number_after(&valgrind(&["--tool=callgrind", "--callgrind-out-file=/dev/null"], way, messages)?, "Collected : ")
}

fn dhat(way: &str, messages: u64) -> std::io::Result<u64> {
    let report = valgrind(&["--tool=dhat", "--dhat-out-file=/dev/null"], way, messages)?;
    // `Total: 1,234 bytes in 56 blocks`
    let total = report.lines().find(|line| line.contains("Total:")).unwrap_or_default();
    number_after(total, " in ")
}

/// The report of valgrind about this program, consuming that many messages that way.
fn valgrind(tool: &[&str], way: &str, messages: u64) -> std::io::Result<String> {
    let child = Command::new("valgrind")
        .args(tool)
        .arg(std::env::current_exe()?)
        .args([way, &messages.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| std::io::Error::new(error.kind(), format!("cannot run valgrind: {error}")))?;
    let report = String::from_utf8_lossy(&child.stderr).into_owned();
    if child.status.success() { Ok(report) } else { Err(std::io::Error::other(report)) }
}

fn number_after(report: &str, label: &str) -> std::io::Result<u64> {
    let found = report.split_once(label).map(|(_, rest)| rest);
    let digits = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',').filter(char::is_ascii_digit).collect()
    };
    found
        .and_then(|rest| digits(rest).parse().ok())
        .ok_or_else(|| std::io::Error::other(format!("valgrind's report has no `{label}`: {report}")))
}

/// 512 bytes as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
    cents: u64,
    note: String,
}

fn order() -> Order {
    let mut order = Order { id: 4711, customer: "customer-17".to_owned(), cents: 1999, note: String::new() };
    let size = serde_json::to_vec(&order).map_or(0, |json| json.len());
    order.note = "n".repeat(512_usize.saturating_sub(size));
    order
}

async fn consume(way: &str, messages: u64) -> Result<()> {
    let broker = filled().await?;
    let subscription = Subscription::new("orders", "p3").prefetch(PREFETCH);
    let worker = Worker::new(&broker, subscription.clone()).max_messages(messages);
    let summary = match way {
        "consumer" => return pull(&broker, subscription, messages).await,
        "json" => {
            let handler = |Json(order): Json<Order>| async move {
                std::hint::black_box((order.id, order.customer.len(), order.cents, order.note.len()));
                Ok::<(), HandlerError>(())
            };
            worker.handle(handler).run_until(std::future::pending()).await?
        }
        _ => {
            let handler = |Body(body): Body| async move {
                std::hint::black_box(&body);
                Ok::<(), HandlerError>(())
            };
            worker.handle(handler).run_until(std::future::pending()).await?
        }
    };
    if summary.handled == messages {
        return Ok(());
    }
    Err(mq::Error::config(format!("{} of {messages} messages were handled", summary.handled)))
}

async fn pull(broker: &Broker, subscription: Subscription, messages: u64) -> Result<()> {
    let mut consumer = broker.consumer(subscription).await?;
    for _ in 0..messages {
        let delivery = consumer.recv().await?;
        std::hint::black_box(delivery.message().body_bytes());
        delivery.ack();
    }
    consumer.close().await
}

/// A broker whose topic holds [`MANY`] messages.
async fn filled() -> Result<Broker> {
    let broker = mq::connect("memory:").await?;
    let (topic, group) = (Topic::parse("orders")?, Group::parse("p3")?);
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await?;
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group)).await?;
    let producer = broker.producer().await?;
    let message = Message::json(topic, &order())?;
    for _ in 0..MANY {
        producer.send(message.clone()).await?;
    }
    Ok(broker)
}
