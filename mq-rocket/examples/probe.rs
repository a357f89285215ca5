//! What a RocketMQ does, measured: `MQ_URL=rocketmq://127.0.0.1:9876 cargo run -p mq-rocket --example probe`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::config::Url;
use mq_core::driver::{AdminDriver, BrokerDriver, ConsumerSpec, Destination, Event, GroupSpec, Settle, Settlement};
use mq_core::driver::{Incoming, TopicSpec, in_flight};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, Subscription};
use mq_rocket::{RocketBroker, RocketConfig};

const COUNT: usize = 10_000;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("MQ_URL").map_err(|_| Error::config("MQ_URL names no broker"))?;
    let broker: Arc<dyn BrokerDriver> =
        Arc::new(RocketBroker::connect(RocketConfig::from_url(&Url::parse(&url)?)?).await?);
    let admin = broker.admin();
    let topic = Topic::parse(format!("probe-{}", fastrand::u32(..)))?;
    admin.declare_topic(&TopicSpec::new(topic.clone()).partitions(8)).await?;
    let done = probe(&*broker, &*admin, &topic).await;
    admin.delete_topic(&topic).await?;
    done
}

async fn probe(broker: &dyn BrokerDriver, admin: &dyn AdminDriver, topic: &Topic) -> Result<()> {
    let mut alone = Vec::new();
    for number in 0..200 {
        let began = Instant::now();
        send(broker, [message(topic, number)], None).await?;
        alone.push(began.elapsed());
    }
    alone.sort();
    println!("a lone confirmed send: p50 {:?}, p99 {:?}", alone[100], alone[198]);
    let began = Instant::now();
    send(broker, (0..COUNT).map(|number| message(topic, number)), None).await?;
    println!("confirmed sends, pipelined, 1 KiB: {:.0}/s", rate(COUNT, began));
    for (name, mode) in [("shared", GroupMode::Shared), ("ordered", GroupMode::Ordered)] {
        let (count, took, disordered) = consume(broker, admin, topic, name, mode).await?;
        println!(
            "{name}: taken and acknowledged one by one, from the oldest on: {:.0}/s, {disordered} out of order",
            count as f64 / took.as_secs_f64()
        );
    }
    for (what, action) in [("given back", 0), ("retried after 1 s", 1)] {
        let mut waits = Vec::new();
        for _ in 0..5 {
            waits.push(again(broker, topic, action).await?);
        }
        waits.sort();
        println!("{what}: comes again after {:?} to {:?}", waits[0], waits[4]);
    }
    let mut late = Vec::new();
    let subscription = Subscription::new(topic, "delay").start(mq_core::StartFrom::Latest);
    let (mut consumer, settler) = broker.open_consumer(ConsumerSpec::new(subscription)).await?;
    for number in 0..5 {
        let due = SystemTime::now() + Duration::from_millis(1500 + number * 230);
        send(broker, [message(topic, 0)], Some(due)).await?;
        let incoming = next(&mut *consumer).await?;
        late.push(SystemTime::now().duration_since(due).map_err(|_| Error::new(ErrorKind::Internal, "it came early"))?);
        settle(&*settler, incoming, Settle::Ack).await?;
    }
    consumer.close(Duration::from_secs(5)).await?;
    late.sort();
    println!("delayed: late by {:?} to {:?}", late[0], late[4]);
    Ok(())
}

fn message(topic: &Topic, number: usize) -> Message {
    Message::to(topic.clone()).id(format!("m{number}")).key(format!("k{}", number % 100)).body(vec![b'x'; 1024])
}

fn rate(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

async fn send(
    broker: &dyn BrokerDriver,
    messages: impl IntoIterator<Item = Message>,
    at: Option<SystemTime>,
) -> Result<()> {
    let producer = broker.open_producer().await?;
    let (publishes, pending): (Vec<_>, Vec<_>) =
        messages.into_iter().map(|message| in_flight(message, Destination::Topic, at, true)).unzip();
    producer.publish(publishes).await;
    for pending in pending {
        pending.await.map_err(|(error, _)| error)?;
    }
    producer.close(Duration::from_secs(5)).await
}

type Opened = (Box<dyn mq_core::driver::ConsumerDriver>, Arc<dyn mq_core::driver::SettlerDriver>);

async fn open(broker: &dyn BrokerDriver, topic: &Topic, group: &str, mode: GroupMode) -> Result<Opened> {
    let subscription = Subscription::new(topic, group).prefetch(512).mode(mode);
    broker.open_consumer(ConsumerSpec::new(subscription)).await
}

async fn poll(consumer: &mut dyn mq_core::driver::ConsumerDriver) -> Result<Vec<Incoming>> {
    let mut events = Vec::new();
    consumer.poll(&mut events, 512, Duration::from_secs(20)).await?;
    Ok(events.into_iter().filter_map(|event| if let Event::Message(it) = event { Some(it) } else { None }).collect())
}

async fn next(consumer: &mut dyn mq_core::driver::ConsumerDriver) -> Result<Incoming> {
    let mut came = poll(consumer).await?;
    came.pop().ok_or_else(|| Error::new(ErrorKind::Timeout, "nothing came"))
}

async fn settle(settler: &dyn mq_core::driver::SettlerDriver, incoming: Incoming, action: Settle) -> Result<()> {
    let mut batch = vec![Settlement { token: incoming.token, action }];
    settler.settle(&mut batch).await.into_iter().try_for_each(|result| result.map(drop))
}

async fn consume(
    broker: &dyn BrokerDriver,
    admin: &dyn AdminDriver,
    topic: &Topic,
    group: &str,
    mode: GroupMode,
) -> Result<(usize, Duration, usize)> {
    let mut spec = GroupSpec::new(topic.clone(), Group::parse(group.to_owned())?);
    spec.mode = mode;
    admin.declare_group(&spec).await?;
    let (mut consumer, settler) = open(broker, topic, group, mode).await?;
    let began = Instant::now();
    let (mut count, mut disordered) = (0, 0);
    let mut last = std::collections::HashMap::new();
    while count < COUNT {
        let came = poll(&mut *consumer).await?;
        if came.is_empty() {
            return Err(Error::new(ErrorKind::Timeout, format!("{group}: nothing came after {count}")));
        }
        count += came.len();
        for incoming in &came {
            if let mq_core::message::Position::Log { partition, offset } = incoming.position {
                disordered += usize::from(last.insert(partition, offset).is_some_and(|before| before > offset));
            }
        }
        let mut batch = came.iter().map(|it| Settlement { token: it.token, action: Settle::Ack }).collect();
        for result in settler.settle(&mut batch).await {
            result?;
        }
    }
    let took = began.elapsed();
    consumer.close(Duration::from_secs(5)).await?;
    Ok((count, took, disordered))
}

/// How long after it was given back (0) or retried (1) a message comes again.
async fn again(broker: &dyn BrokerDriver, topic: &Topic, how: u8) -> Result<Duration> {
    let mut subscription = ConsumerSpec::new(Subscription::new(topic, "again").start(mq_core::StartFrom::Latest));
    subscription.retry_delays = vec![Duration::from_secs(1)];
    let (mut consumer, settler) = broker.open_consumer(subscription).await?;
    send(broker, [message(topic, 0)], None).await?;
    let incoming = next(&mut *consumer).await?;
    let action = if how == 0 {
        Settle::Requeue
    } else {
        let message = incoming.message.clone();
        let (due, delay) = (SystemTime::now() + Duration::from_secs(1), Duration::from_secs(1));
        Settle::Retry(Box::new(mq_core::driver::Retry {
            message,
            delay,
            due,
            attempt: 2,
            first_failed: None,
            redrives: 0,
        }))
    };
    let began = Instant::now();
    settle(&*settler, incoming, action).await?;
    let incoming = next(&mut *consumer).await?;
    let took = began.elapsed();
    settle(&*settler, incoming, Settle::Ack).await?;
    consumer.close(Duration::from_secs(5)).await?;
    Ok(took)
}
