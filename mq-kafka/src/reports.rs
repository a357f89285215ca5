//! What the client says of each record, and what is done then.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use mq_core::driver::{Publish, Receipt};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message as _, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::{Notify, oneshot};

use crate::client::{Stranded, Watch};
use crate::error::{fault, from_client};
use crate::first::{Firsts, Ticket};
use crate::outgoing::Way;

/// What learns the outcome of a record.
pub(crate) enum Outcome {
    /// A message of the user's; with a ticket when it is the first of its partition.
    Publish(Publish, Option<Ticket>),
    /// One of ours: a retry, a dead letter.
    Own(oneshot::Sender<Result<Position>>),
}

/// What the client keeps with a record.
pub(crate) struct Underway {
    pub(crate) outcome: Outcome,
    /// It was reported as delivered without a place before.
    pub(crate) again: bool,
}

/// Completes sends as their reports come.
pub(crate) struct Reports {
    watch: Watch,
    pub(crate) room: Arc<Room>,
    pub(crate) firsts: Firsts,
    producer: OnceLock<Weak<BaseProducer<Self>>>,
    /// Records to send again, and whether they wait for room in the client's queue.
    repeats: Mutex<VecDeque<(OwnedMessage, Outcome)>>,
    stuck: AtomicBool,
    pub(crate) stranded: Stranded,
    /// Another client has taken its place.
    replaced: AtomicBool,
}

/// Wakes those who wait for room in the client's queue.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) waiting: AtomicUsize,
    pub(crate) freed: Notify,
    /// Records handed to the client and not reported yet, and those to be sent again.
    pub(crate) open: AtomicUsize,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.watch.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats_raw(&self, figures: &[u8]) {
        self.stranded.look(figures);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Underway>;

    fn delivery(&self, report: &DeliveryResult<'_>, underway: Box<Underway>) {
        let Underway { outcome, again } = *underway;
        match report {
            Ok(record) => match place(record) {
                Some(place) => self.end(outcome, Ok(place)),
                None if again => self.end(outcome, Err(placeless(record))),
                None => self.repeat(record, outcome),
            },
            Err((error, record)) => self.end(outcome, Err(self.explain(error, record.topic()))),
        }
        self.room.open.fetch_sub(1, Ordering::AcqRel);
        if self.room.waiting.load(Ordering::Relaxed) > 0 {
            self.room.freed.notify_waiters();
        }
        if self.firsts.crowded() || self.stuck.load(Ordering::Relaxed) {
            self.go_on();
        }
    }
}

impl Reports {
    pub(crate) fn new(watch: Watch, room: Arc<Room>, limit: Duration) -> Self {
        Self {
            watch,
            room,
            firsts: Firsts::new(limit),
            producer: OnceLock::new(),
            repeats: Mutex::default(),
            stuck: AtomicBool::new(false),
            stranded: Stranded::default(),
            replaced: AtomicBool::new(false),
        }
    }

    /// Sends nothing more: what waits its turn or is to be sent again ends, and what the client has ends as its purge
    /// is reported.
    pub(crate) fn give_up(&self) {
        self.replaced.store(true, Ordering::Release);
        self.firsts.give_up();
        let repeats = std::mem::take(&mut *self.repeats.lock().unwrap_or_else(PoisonError::into_inner));
        for (record, outcome) in repeats {
            self.room.open.fetch_sub(1, Ordering::AcqRel);
            self.end(outcome, Err(lost(record.topic())));
        }
    }

    /// Names the client these are the reports of: once, by the one who made both.
    pub(crate) fn come_from(&self, producer: &Arc<BaseProducer<Self>>) {
        let _ = self.producer.set(Arc::downgrade(producer));
    }

    /// The client, unless it is being ended.
    fn producer(&self) -> Option<Arc<BaseProducer<Self>>> {
        self.producer.get().and_then(Weak::upgrade)
    }

    fn end(&self, outcome: Outcome, result: Result<Position>) {
        match outcome {
            Outcome::Publish(publish, ticket) => {
                let partition = result.as_ref().ok().and_then(Position::partition);
                publish.complete(result.map(Receipt::at));
                if let Some(ticket) = ticket
                    && let Some(producer) = self.producer()
                {
                    self.firsts.ended(&ticket, partition, &Way(&producer));
                }
            }
            // Nobody waits any more: the caller timed out and has reported it.
            Outcome::Own(sender) => drop(sender.send(result)),
        }
    }

    /// The client counts a record as stored when one behind it is, and names no place then; in a partition that knew
    /// nothing of this client that is wrong (docs/decisions/kafka-first-messages.md). Sent again it is there once or
    /// twice, and not lost.
    fn repeat(&self, record: &BorrowedMessage<'_>, outcome: Outcome) {
        tracing::warn!(
            topic = record.topic(),
            partition = record.partition(),
            "delivered to no known place: sent again"
        );
        self.room.open.fetch_add(1, Ordering::AcqRel);
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner).push_back((record.detach(), outcome));
        self.go_on();
    }

    /// Sends again what is to be, and what waits its turn; what finds no room waits for the next report.
    fn go_on(&self) {
        let Some(producer) = self.producer() else { return };
        self.stuck.store(false, Ordering::Release);
        loop {
            let next = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((record, outcome)) = next else { break };
            if let Some(back) = self.send_again(&producer, record, outcome) {
                self.repeats.lock().unwrap_or_else(PoisonError::into_inner).push_front(back);
                self.stuck.store(true, Ordering::Release);
                break;
            }
        }
        self.firsts.freed(&Way(&producer));
    }

    /// Gives it back when the client's queue is full.
    fn send_again(
        &self,
        producer: &BaseProducer<Self>,
        mut record: OwnedMessage,
        outcome: Outcome,
    ) -> Option<(OwnedMessage, Outcome)> {
        let headers = record.detach_headers();
        let again = BaseRecord {
            topic: record.topic(),
            partition: Some(record.partition()),
            payload: record.payload(),
            key: record.key(),
            timestamp: record.timestamp().to_millis(),
            headers: headers.clone(),
            delivery_opaque: Box::new(Underway { outcome, again: true }),
        };
        let refused = producer.send(again).map_err(|(error, back)| (error, back.delivery_opaque.outcome));
        if let Err((error, outcome)) = refused {
            if error.rdkafka_error_code() == Some(Code::QueueFull) {
                return Some((record.replace_headers(headers), outcome));
            }
            self.end(outcome, Err(self.explain(&error, record.topic()).ambiguous()));
            self.room.open.fetch_sub(1, Ordering::AcqRel);
        }
        None
    }

    /// The error of a record, in the words of the contract.
    pub(crate) fn explain(&self, error: &KafkaError, topic: &str) -> Error {
        if self.replaced.load(Ordering::Acquire) {
            return lost(topic);
        }
        let mapped = from_client(error, "send").with_context("topic", topic);
        let stopped = error.rdkafka_error_code() == Some(Code::Fatal);
        // The client throws away what waits and refuses what comes, and says only that.
        if (stopped || mapped.kind() == ErrorKind::Closed)
            && let Some(cause) = self.ended()
        {
            return cause.with_operation("send").with_context("topic", topic);
        }
        // A timeout says little: say what the network or the broker said meanwhile.
        match self.watch.seen() {
            Some(cause) if mapped.kind() == ErrorKind::Timeout => mapped.with_source(cause),
            _ => mapped,
        }
    }

    /// The client has stopped for good, and why: as its log told, or before it did.
    fn ended(&self) -> Option<Error> {
        self.watch.ended().or_else(|| {
            let (_, reason) = self.producer()?.client().fatal_error()?;
            Some(crate::refusal::explain(Code::Fatal, &self.watch.redact(&reason)))
        })
    }
}

fn place(record: &BorrowedMessage<'_>) -> Option<Position> {
    let partition = u32::try_from(record.partition()).ok()?;
    (record.offset() >= 0).then(|| Position::Log { partition, offset: record.offset() })
}

/// The error of what a client had that was replaced: some of it may have reached a broker.
fn lost(topic: &str) -> Error {
    fault(ErrorKind::Unavailable, "the client had lost every broker, and another took its place")
        .with_operation("send")
        .with_context("topic", topic)
        .with_hint("send it again under the same id")
        .ambiguous()
}

fn placeless(record: &BorrowedMessage<'_>) -> Error {
    fault(ErrorKind::Unavailable, "the broker took the message twice and named no place for it")
        .with_operation("send")
        .with_context("topic", record.topic())
        .ambiguous()
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
}
