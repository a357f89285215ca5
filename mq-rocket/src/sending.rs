//! Stores messages: one by itself, or several of one topic in one request.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use tokio::time::Instant;

use crate::core::{Core, wait};
use crate::error::{answer, error, from_answer};
use crate::lanes;
use crate::names;
use crate::remoting::{Command, Failure, Link, code};
use crate::route::{Node, Queue};
use crate::topology;
use crate::wire::{DELIVER_AT, Encoded};

/// The broker's producers have groups; only transactions look at them.
const PRODUCER: &str = "mq";
/// Marks a half message.
const PREPARED: i32 = 4;
/// A broker answers within 5 s, or says that its disk or its copies did not: `syncFlushTimeout`. One that lost a request
/// while it started shall not hold up the queue for as long as a send may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two attempts, while a topic's broker is away or busy.
const PAUSE: Duration = Duration::from_millis(50);

/// One message for one queue.
pub(crate) fn single(topic: &str, queue: &Queue, message: &Encoded) -> Command {
    fields(code::SEND_MESSAGE_V2, topic, queue, message)
        .field("i", message.text())
        .field("m", false)
        .body(message.body.clone())
}

/// One message that nobody sees before it is committed.
pub(crate) fn half(topic: &str, queue: &Queue, message: &Encoded, group: &str) -> Command {
    single(topic, queue, message).field("a", group).field("f", PREPARED)
}

/// Several for one queue, stored together or not at all.
pub(crate) fn several(topic: &str, queue: &Queue, messages: &[&Encoded]) -> Result<Command> {
    let too_large = |_| error(ErrorKind::TooLarge, "a message is larger than a batch can carry");
    let mut body = BytesMut::new();
    let mut born = None;
    for message in messages {
        let properties = message.text();
        let size = 4 * 5 + message.body.len() + 2 + properties.len();
        body.put_u32(u32::try_from(size).map_err(too_large)?);
        // Mark and checksum are the broker's to fill in, the flag nobody's.
        body.put_slice(&[0; 12]);
        body.put_u32(u32::try_from(message.body.len()).map_err(too_large)?);
        body.put_slice(&message.body);
        body.put_u16(u16::try_from(properties.len()).map_err(too_large)?);
        body.put_slice(properties.as_bytes());
        born.get_or_insert(message);
    }
    let first = born.ok_or_else(|| error(ErrorKind::Internal, "a batch of no messages"))?;
    let command = fields(code::SEND_BATCH_MESSAGE, topic, queue, first);
    Ok(command.field("i", "").field("m", true).body(body.freeze()))
}

/// The names of the fields are one letter each: this request is the one sent most.
fn fields(code: i32, topic: &str, queue: &Queue, message: &Encoded) -> Command {
    Command::request(code)
        .field("a", PRODUCER)
        .field("b", topic)
        // What a broker takes for the pattern of a topic it does not have. It shall not make one.
        .field("c", "mq-no-topic-is-made-by-sending")
        .field("d", 1)
        .field("e", queue.id)
        .field("f", 0)
        .field("g", message.born)
        .field("h", 0)
        .field("j", 0)
        .field("k", false)
        .field("n", &queue.broker.name)
}

/// Asks until the broker takes it: a broker that is busy has stored nothing, and wants time. It is tried to be reached, and
/// may be busy, until `reach`; its answer is waited for until `deadline`.
pub(crate) async fn call(
    link: &Link,
    command: &Command,
    reach: Instant,
    deadline: Instant,
) -> Result<Command, Failure> {
    loop {
        let connection = link.ready(reach).await.map_err(Failure::NotSent)?;
        let answer = connection.call(command.clone(), deadline.min(Instant::now() + ANSWER)).await?;
        if !is_busy(&answer) || Instant::now() + PAUSE >= reach {
            return Ok(answer);
        }
        tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
}

pub(crate) fn is_busy(answer: &Command) -> bool {
    matches!(answer.code, answer::SYSTEM_BUSY | answer::FLOW_CONTROL)
}

/// True when another broker may take what this one refuses: it stops, its disk is full, it has no such topic, nobody may
/// write there.
pub(crate) fn is_elsewhere(cause: &Error) -> bool {
    use ErrorKind::{Auth, Backpressure, NotFound, Unavailable};
    !cause.is_ambiguous() && matches!(cause.kind(), Auth | Backpressure | NotFound | Unavailable)
}

/// Where the broker has stored it, or the first of several.
pub(crate) fn stored(answer: &Command) -> Result<i64> {
    if answer.code != answer::SUCCESS {
        return Err(refusal(answer));
    }
    answer.number("queueOffset")
}

fn refusal(answer: &Command) -> Error {
    from_answer(answer.code, answer.remark.as_deref())
}

/// What a send that got no answer is.
pub(crate) fn failed(failure: Failure) -> Error {
    match failure {
        Failure::NotSent(cause) => cause,
        Failure::Unknown(cause) => cause.ambiguous().with_hint("send it again under the same id"),
    }
}

pub(crate) fn position(queue: &Queue, offset: i64) -> Position {
    Position::Log { partition: queue.partition(), offset }
}

/// Milliseconds since the Unix epoch, rounded up: nothing is early.
pub(crate) fn millis(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().div_ceil(1_000_000)
}

/// Sets when the broker makes it visible.
pub(crate) fn deliver_at(message: &mut Encoded, at: SystemTime) {
    message.properties.insert(DELIVER_AT.to_owned(), millis(at).to_string());
}

impl Core {
    /// The queues a topic can be written to; waits for a topic whose broker is away until `deadline`.
    pub(crate) async fn writable(&self, topic: &str, deadline: Instant) -> Result<Vec<Queue>> {
        loop {
            let route = self.route(topic, deadline).await?;
            if !route.writable.is_empty() {
                return Ok(route.writable.clone());
            }
            self.forget_route(topic);
            if Instant::now() + PAUSE >= deadline {
                return Err(error(ErrorKind::Unavailable, "no broker takes messages of this topic now")
                    .with_context("topic", names::shown(topic)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stores a copy in a place of ours, confirmed.
    pub(crate) async fn store(&self, topic: &str, message: &Encoded) -> Result<()> {
        self.store_at(topic, message).await.map(drop)
    }

    /// As [`store`](Self::store), and waits until readers see it: the broker answers when a message is in its log, and
    /// enters it in the queue a moment later.
    pub(crate) async fn store_visibly(&self, topic: &str, message: &Encoded) -> Result<()> {
        let deadline = Instant::now() + self.config.send_timeout;
        let (queue, offset) = self.store_at(topic, message).await?;
        let seen = wait(deadline, async || {
            let end = topology::bound(self, topic, &queue, code::GET_MAX_OFFSET, deadline).await?;
            Ok((end > offset).then_some(()))
        })
        .await;
        if !matches!(seen, Ok(Some(()))) {
            // It is stored, whoever sees it when.
            tracing::debug!(topic = names::shown(topic), offset, "stored, and not seen in its queue yet");
        }
        Ok(())
    }

    async fn store_at(&self, topic: &str, message: &Encoded) -> Result<(Queue, i64)> {
        let deadline = Instant::now() + self.config.send_timeout;
        let turn = AtomicUsize::new(fastrand::usize(..));
        let mut refused: Vec<String> = Vec::new();
        loop {
            let queues = self.writable(topic, deadline).await?;
            let brokers: BTreeSet<&str> = queues.iter().map(|queue| queue.broker.name.as_str()).collect();
            let there = |node: &Node| !self.away.contains(node) && !refused.contains(&node.name);
            let queue = lanes::pick(&queues, &turn, |queue| &queue.broker, there).and_then(|index| queues.get(index));
            let queue = queue.ok_or_else(|| error(ErrorKind::Unavailable, "the topic has no queue"))?;
            let others = brokers.len() > 1;
            let command = single(topic, queue, message);
            let reach = Self::reach(deadline, others);
            let answer = match call(&self.link(&queue.broker), &command, reach, deadline).await {
                Ok(answer) => answer,
                // Nothing has left: another broker can do it as well.
                Err(Failure::NotSent(cause)) if others && cause.is_transient() && Instant::now() + PAUSE < deadline => {
                    self.away.add(&queue.broker);
                    continue;
                }
                Err(failure) => {
                    if others {
                        self.away.add(&queue.broker);
                    }
                    return Err(failed(failure));
                }
            };
            let cause = match stored(&answer) {
                Ok(offset) => return Ok((queue.clone(), offset)),
                Err(cause) => cause,
            };
            self.forget_route(topic);
            refused.push(queue.broker.name.clone());
            if !is_elsewhere(&cause) || refused.len() >= brokers.len() {
                return Err(cause.with_context("topic", names::shown(topic)));
            }
        }
    }

    /// As a batch's bytes count against the broker's bound.
    pub(crate) fn batch_room(&self) -> usize {
        self.config.max_message_bytes.min(512 * 1024)
    }
}

/// The bytes a message takes in a batch.
pub(crate) fn batch_size(message: &Encoded) -> usize {
    let properties: usize = message.properties.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    message.body.len() + properties + 22
}
