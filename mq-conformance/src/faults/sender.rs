//! A sender as a careful program writes it: pipelined, and what may be lost is sent again under the same id, in order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::producer::Pending;
use mq_core::{Broker, Error, Producer};

use super::log::Record;
use crate::failure::{Failure, Verdict};
use crate::history::What;

/// Between two tries after a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    pub(crate) topic: Topic,
    /// The number of the first message.
    pub(crate) first: usize,
    pub(crate) messages: usize,
    pub(crate) keys: usize,
    /// Sends in flight at once.
    pub(crate) window: usize,
    /// Messages a second, so that the load lasts as long as its faults.
    pub(crate) rate: u32,
    /// More follow, ten times as many at most, until this is false: a slow machine's faults last longer.
    pub(crate) lasting: Arc<AtomicBool>,
}

/// The numbers still to be sent.
#[derive(Debug)]
struct Numbers {
    /// Those that failed, oldest first.
    again: VecDeque<usize>,
    next: usize,
    enough: usize,
    most: usize,
    lasting: Arc<AtomicBool>,
}

impl Numbers {
    fn new(sending: &Sending) -> Self {
        let enough = sending.first + sending.messages;
        let most = sending.first + sending.messages * 10;
        Self { again: VecDeque::new(), next: sending.first, enough, most, lasting: Arc::clone(&sending.lasting) }
    }
}

impl Iterator for Numbers {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some(number) = self.again.pop_front() {
            return Some(number);
        }
        let more = self.next < self.enough || (self.next < self.most && self.lasting.load(Ordering::Relaxed));
        more.then(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// Message `number`: its body names it, and is large enough to be torn.
pub(crate) fn message(topic: &Topic, number: usize, keys: usize) -> Message {
    Message::to(topic.clone())
        .id(format!("m{number}"))
        .key(format!("k{}", number % keys.max(1)))
        .header("number", number.to_string())
        .body(format!("{number}:{}", "x".repeat(number * 37 % 400)))
}

/// Sends everything, however often that takes, until each is confirmed.
pub(crate) async fn send(broker: &Broker, sending: Sending, record: Record) -> Verdict {
    let producer = open(broker).await?;
    let every = Duration::from_secs(1) / sending.rate.max(1);
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut numbers = Numbers::new(&sending);
    loop {
        let failed = window(&producer, &sending, &record, &mut numbers, &mut pace).await?;
        if failed.is_empty() {
            break;
        }
        // In the order of the first try: what follows of their keys has not been sent, or failed with them.
        for number in failed.into_iter().rev() {
            numbers.again.push_front(number);
        }
        tokio::time::sleep(PAUSE).await;
    }
    producer.close().await?;
    Ok(())
}

/// A producer, once there is a broker to open it at.
async fn open(broker: &Broker) -> Verdict<Producer> {
    loop {
        match broker.producer().await {
            Ok(producer) => return Ok(producer),
            Err(error) if error.is_transient() || error.is_ambiguous() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(Failure::from(error)),
        }
    }
}

/// Sends until there is no more or something fails, and waits for everything in flight. Returns what failed.
async fn window(
    producer: &Producer,
    sending: &Sending,
    record: &Record,
    numbers: &mut Numbers,
    pace: &mut tokio::time::Interval,
) -> Verdict<BTreeSet<usize>> {
    let mut flying: VecDeque<(usize, Pending)> = VecDeque::new();
    let mut failed = BTreeSet::new();
    while failed.is_empty() {
        let Some(number) = numbers.next() else { break };
        pace.tick().await;
        let message = message(&sending.topic, number, sending.keys);
        let id = format!("m{number}");
        record.history.note(&id, "", What::Sent { key: message.key_bytes().cloned(), due: None });
        match producer.enqueue(message).await {
            Ok(pending) => flying.push_back((number, pending)),
            Err(error) => refused(record, number, error.error(), &mut failed)?,
        }
        while flying.len() >= sending.window {
            land(record, &mut flying, &mut failed).await?;
        }
    }
    while !flying.is_empty() {
        land(record, &mut flying, &mut failed).await?;
    }
    Ok(failed)
}

/// Waits for the oldest in flight.
async fn land(record: &Record, flying: &mut VecDeque<(usize, Pending)>, failed: &mut BTreeSet<usize>) -> Verdict {
    let Some((number, pending)) = flying.pop_front() else { return Ok(()) };
    match pending.await {
        Ok(_) => {
            let id = format!("m{number}");
            record.history.note(&id, "", What::Confirmed);
            record.confirmed(&id);
            Ok(())
        }
        Err(error) => refused(record, number, error.error(), failed),
    }
}

fn refused(record: &Record, number: usize, error: &Error, failed: &mut BTreeSet<usize>) -> Verdict {
    let id = format!("m{number}");
    let ambiguous = error.is_ambiguous();
    record.history.note(&id, "", What::Refused { ambiguous, error: error.to_string() });
    if !ambiguous && !error.is_transient() && error.kind() != mq_core::ErrorKind::Fenced {
        return Err(Failure::new(format!(
            "the send of {id} failed for good, though only faults were at work: {error:?}"
        )));
    }
    failed.insert(number);
    Ok(())
}
