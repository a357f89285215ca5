//! Messages handled into others in one step: exactly once, whatever breaks (G1, G2, G3).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mq_core::driver::ConsumerSpec;
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::{Broker, Group, Subscription, Topic};

use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::faults::Way;
use crate::lab::{Lab, QUIET};
use crate::reader::Reader;
use crate::scenario::scenarios;

/// Messages on their way from one topic to the next.
const MESSAGES: usize = 300;
/// Handed off in one step at most.
const STEP: usize = 10;
/// A step under way when its broker dies may take its send deadline (30 s), and giving it up as long.
const UNDER_WAY: Duration = Duration::from_secs(60);

scenarios!("atomic":
    what_cannot_be_handed_off_is_given_back [2, 3] [AtomicHandoff];
    of_a_lost_session_nothing_is_handed_off [3, 11] [AtomicHandoff];
    hand_offs_over_cut_connections_happen_once [1, 2, 3, 13] [AtomicHandoff] breaks [Way];
    hand_offs_over_a_brokers_death_happen_once [1, 2, 3, 13] [AtomicHandoff, NoLossOnRestart] breaks [Broker];
);

async fn what_cannot_be_handed_off_is_given_back(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 3).await?;
    // One at a time: a place that is not given back ends this.
    let broker = lab.broker().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(1));
    let mut reader = lab.reader_on(&broker, spec).await?;
    for number in 0..3 {
        let delivery = reader.consumer().recv_within(lab.patience()).await?;
        let delivery = delivery.ok_or_else(|| Failure::new(format!("message {number} did not come")))?;
        let refused = producer.hand_off(vec![Message::to(nowhere.clone())], vec![delivery]).await;
        let (error, back) = refused.err().ok_or_else(|| Failure::new("a step to nowhere was taken"))?.into_parts();
        ensure!(!error.is_ambiguous(), "whether nothing was stored is known: {error}");
        ensure_eq!(back.len(), 1, "deliveries given back");
        producer.hand_off(vec![lab.message(&next, number)], back).await?;
    }
    reader.consumer().flush().await?;
    ensure!(reader.consumer().recv_within(QUIET).await?.is_none(), "a message that was handed off came again");
    let mut reader = lab.reader(&next, &next_group).await?;
    reader.consume(3).await?;
    reader.silent(QUIET).await?;
    reader.close().await
}

async fn of_a_lost_session_nothing_is_handed_off(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 1).await?;
    let mut first = lab.reader(&topic, &group).await?;
    let delivery = first.consumer().recv_within(lab.patience()).await?;
    let delivery = delivery.ok_or_else(|| Failure::new("the message did not come"))?;
    first.close().await?;
    let refused = producer.hand_off(vec![lab.message(&next, 0)], vec![delivery]).await;
    let error = refused.err().ok_or_else(|| Failure::new("a delivery of a closed consumer was handed off"))?;
    ensure_eq!(error.error().kind(), ErrorKind::Rejected, "{error}");
    let mut second = lab.reader(&topic, &group).await?;
    let again = second.consumer().recv_within(lab.patience()).await?;
    let again = again.ok_or_else(|| Failure::new("what was not handed off did not come again"))?;
    producer.hand_off(vec![lab.message(&next, 1)], vec![again]).await?;
    second.close().await?;
    let mut reader = lab.reader(&next, &next_group).await?;
    let numbers: Vec<String> = reader.consume(1).await?.iter().map(number).collect();
    ensure_eq!(numbers, ["1"], "what was handed off");
    reader.silent(QUIET).await?;
    reader.close().await
}

async fn hand_offs_over_cut_connections_happen_once(lab: &Lab) -> Verdict {
    let way = lab.faults()?.way().await?;
    let hop = Hop::new(lab, &*way).await?;
    let cuts = async {
        for part in 1..=3 {
            hop.reached(part * MESSAGES / 5).await;
            way.cut();
        }
        Ok(())
    };
    hop.run(cuts).await
}

async fn hand_offs_over_a_brokers_death_happen_once(lab: &Lab) -> Verdict {
    let way = lab.faults()?.way().await?;
    let hop = Hop::new(lab, &*way).await?;
    let deaths = async {
        for part in 1..=2 {
            hop.reached(part * MESSAGES / 4).await;
            let faults = lab.faults()?;
            faults.kill().await?;
            faults.start().await?;
        }
        Ok(())
    };
    hop.run(deaths).await
}

/// From one topic to the next, over a way that is broken, until every message has arrived.
struct Hop<'a> {
    lab: &'a Lab,
    broker: Broker,
    from: (Topic, Group),
    to: (Topic, Group),
    /// Where each number arrived: the ids of all its results.
    arrived: std::sync::Mutex<BTreeMap<String, BTreeSet<String>>>,
    over: AtomicBool,
    /// What the last hand-off that failed said.
    failed: std::sync::Mutex<String>,
}

impl<'a> Hop<'a> {
    async fn new(lab: &'a Lab, way: &dyn Way) -> Verdict<Self> {
        let from = lab.place().await?;
        let next = lab.topic("next").await?;
        let group = lab.group(&next, "n").await?;
        lab.send_many(&lab.producer().await?, &from.0, MESSAGES).await?;
        let broker = lab.connect_by(way).await?;
        let arrived = std::sync::Mutex::default();
        let failed = std::sync::Mutex::default();
        Ok(Self { lab, broker, from, to: (next, group), arrived, over: false.into(), failed })
    }

    fn arrived(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.arrived.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn reached(&self, count: usize) {
        while self.arrived().len() < count && !self.over.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn run(&self, faults: impl Future<Output = Verdict>) -> Verdict {
        let all = async {
            let (watched, handed, broken) = tokio::join!(self.watch(), self.hand_off(), faults);
            watched.and(handed).and(broken)
        };
        all.await?;
        let arrived = self.arrived();
        let twice: Vec<&String> = arrived.iter().filter(|(_, ids)| ids.len() > 1).map(|(number, _)| number).collect();
        ensure!(twice.is_empty(), "handed off more than once: {twice:?}");
        ensure_eq!(arrived.len(), MESSAGES, "messages handed off");
        Ok(())
    }

    /// Reads results until all are there, and then until nothing more comes.
    async fn watch(&self) -> Verdict {
        let mut reader = self.lab.reader(&self.to.0, &self.to.1).await?;
        let result = self.collect(&mut reader).await;
        self.over.store(true, Ordering::Release);
        result
    }

    async fn collect(&self, reader: &mut Reader<'_>) -> Verdict {
        let mut progress = Instant::now();
        loop {
            let complete = self.arrived().len() == MESSAGES;
            let wait = if complete { QUIET * 3 } else { Duration::from_millis(500) };
            match reader.consumer().recv_within(wait).await? {
                Some(delivery) => {
                    let id = delivery.id().map(|id| id.to_string()).unwrap_or_default();
                    self.arrived().entry(number(delivery.message())).or_default().insert(id);
                    progress = Instant::now();
                    drop(delivery.ack());
                }
                None if complete => return Ok(()),
                None if progress.elapsed() > self.lab.patience() * 2 + UNDER_WAY => {
                    let failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let count = self.arrived().len();
                    let text = format!(
                        "nothing more is handed off after {count} of {MESSAGES} messages; last error: {failed}"
                    );
                    return Err(Failure::new(text));
                }
                None => {}
            }
        }
    }

    async fn hand_off(&self) -> Verdict {
        let producer = self.broker.producer().await?;
        let spec = ConsumerSpec::new(Subscription::new(&self.from.0, &self.from.1));
        let mut consumer = self.broker.consumer_with(spec).await?;
        while !self.over.load(Ordering::Acquire) {
            let deliveries = consumer.recv_batch(STEP, Duration::from_millis(200)).await?;
            if deliveries.is_empty() {
                continue;
            }
            let results = deliveries.iter().map(|delivery| {
                // One key for all: a hand-off of which nobody knows the end must not keep its key from the next.
                Message::to(self.to.0.clone()).key("k").header("number", number(delivery.message())).body("handed off")
            });
            // What failed is released, and comes again.
            if let Err(error) = producer.hand_off(results.collect(), deliveries).await {
                *self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = error.to_string();
            }
        }
        Ok(consumer.close().await?)
    }
}

fn number(message: &Message) -> String {
    let number = message.headers().get("number").map(|value| String::from_utf8_lossy(value.as_ref()).into_owned());
    number.unwrap_or_default()
}
