//! Sending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::driver::{Destination, ProducerDriver, Publish, Receipt, Settlement};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Headers, Message, Position, control};

use crate::encode::{millis, plain, with_control};
use crate::error::{BACKEND, fault};
use crate::link::Link;
use crate::names;
use crate::outgoing::{Outgoing, Refused, Way};
use crate::reports::Outcome;
use crate::topology::Topology;
use crate::transaction::Transactions;

/// Sends through the broker's shared client.
#[derive(Debug)]
pub(crate) struct KafkaProducer {
    link: Arc<Link>,
    topology: Topology,
    closed: AtomicBool,
    /// The topics of delayed messages exist.
    delays: AtomicBool,
    transactions: Transactions,
}

impl KafkaProducer {
    pub(crate) fn new(link: Arc<Link>, topology: Topology) -> Self {
        let transactions = Transactions::new(Arc::clone(&link));
        Self { link, topology, closed: AtomicBool::new(false), delays: AtomicBool::new(false), transactions }
    }

    /// Takes nothing more.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// What must be right before the client sees the message.
    fn check(&self, message: &Message) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("producer").with_backend(BACKEND));
        }
        let limit = self.link.config.producer.max_message_bytes as usize;
        if message.size() > limit {
            return Err(fault(ErrorKind::TooLarge, format!("the message has {} B", message.size()))
                .with_operation("send")
                .with_context("limit", limit)
                .with_hint(
                    "raise `producer.max_message_bytes` and the topic's `max.message.bytes`, or send a reference",
                ));
        }
        crate::topology::own_name(message.topic())
    }

    /// Hands one message to the client; full: gives it back.
    fn hand_over(&self, publish: Publish, way: &Way<'_>) -> Result<(), Publish> {
        if let Err(error) = self.check(publish.message()) {
            publish.complete(Err(error));
            return Ok(());
        }
        if publish.deliver_at().is_some() || *publish.destination() != Destination::Topic {
            return self.hand_over_aside(publish);
        }
        if publish.wants_confirm() {
            return way.publish(publish);
        }
        let message = publish.message().clone();
        let record = Outgoing {
            topic: message.topic().name(),
            key: message.key_bytes().map(|key| &**key),
            body: message.body_bytes().map(|body| &**body),
            headers: plain(&message),
        };
        self.send_apart(record, message.made_at().map(millis), publish)
    }

    /// A message that waits, or that is for one group only.
    fn hand_over_aside(&self, publish: Publish) -> Result<(), Publish> {
        let message = publish.message().clone();
        let topic = message.topic();
        let mut patch = Headers::with_capacity(3);
        patch.append(control::ORIGIN, topic.text().clone().into_bytes());
        if let Destination::Group(group) = publish.destination() {
            patch.append(control::GROUP, group.as_str().to_owned());
        }
        let due = publish.deliver_at().filter(|due| *due > SystemTime::now());
        let name = match (due, publish.destination()) {
            (Some(due), _) => {
                patch.append(control::DUE, control::from_time(due));
                let left = due.duration_since(SystemTime::now()).unwrap_or_default();
                let tier = names::tier_for(left);
                patch.append(crate::scheduler::LOOK, control::from_time(crate::scheduler::look_at(due, tier)));
                names::delay_tier(tier)
            }
            (None, Destination::Group(group)) => names::inbox(topic, group),
            (None, _) => topic.name().to_owned(),
        };
        let headers = if name == topic.name() {
            plain(&message)
        } else {
            Some(with_control(&message, message.message_id(), &patch))
        };
        let record = Outgoing {
            topic: &name,
            key: message.key_bytes().map(|key| &**key),
            body: message.body_bytes().map(|body| &**body),
            headers,
        };
        self.send_apart(record, None, publish)
    }

    /// Unconfirmed sends end when they are handed over; delayed ones get a receipt that says when they are due.
    fn send_apart(&self, record: Outgoing<'_>, timestamp: Option<i64>, publish: Publish) -> Result<(), Publish> {
        let (confirm, due) = (publish.wants_confirm(), publish.deliver_at());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        match self.link.try_send(record, timestamp, Outcome::Own(sender)) {
            Err(Refused { full: true, .. }) => return Err(publish),
            Err(Refused { error, .. }) => publish.complete(Err(error)),
            Ok(()) if !confirm => publish.complete(Ok(Receipt::at(Position::None))),
            Ok(()) => {
                tokio::spawn(async move {
                    let result = receiver.await.unwrap_or_else(|_| {
                        Err(fault(ErrorKind::Internal, "the report of the send was lost").ambiguous())
                    });
                    publish.complete(result.map(|position| match due {
                        Some(due) => Receipt::at(Position::None).due(due, true),
                        None => Receipt::at(position),
                    }));
                });
            }
        }
        Ok(())
    }

    /// Declares the topics of delayed messages, once.
    async fn prepare_delays(&self, batch: &[Publish]) -> Result<()> {
        if self.delays.load(Ordering::Acquire) || batch.iter().all(|publish| publish.deliver_at().is_none()) {
            return Ok(());
        }
        self.topology.prepare_delays().await?;
        self.delays.store(true, Ordering::Release);
        Ok(())
    }
}

#[async_trait]
impl ProducerDriver for KafkaProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        let deadline = tokio::time::Instant::now() + self.link.config.send_timeout;
        if let Err(error) = self.prepare_delays(&batch).await {
            for publish in batch {
                publish.complete(Err(fault(error.kind(), error.to_string())));
            }
            return;
        }
        let mut rest = Waiting(batch.into_iter());
        let mut client = self.link.client();
        for mut publish in rest.0.by_ref() {
            while let Err(back) = self.hand_over(publish, &Way(&client)) {
                publish = back;
                let mut waiting = Waiting(vec![publish].into_iter());
                let in_time = self.link.room(deadline).await;
                let Some(back) = waiting.0.next() else { break };
                publish = back;
                client = self.link.client();
                if !in_time {
                    publish.complete(Err(fault(ErrorKind::Backpressure, "the client's queue stayed full")
                        .with_operation("send")
                        .with_hint("send slower, or raise `producer.buffer_bytes`")));
                    break;
                }
            }
        }
    }

    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        for message in &batch {
            self.check(message)?;
        }
        let acks = self.link.members.sort(settlements)?;
        if batch.is_empty() && acks.is_empty() { Ok(()) } else { self.transactions.store(batch, acks).await }
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.link.flush(deadline).await
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.refuse();
        self.link.flush(deadline).await
    }
}

/// Not yet accepted: when the future that hands them over is dropped, their senders learn that nothing was done.
struct Waiting(std::vec::IntoIter<Publish>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for publish in self.0.by_ref() {
            publish.complete(Err(fault(ErrorKind::Unavailable, "the send was cancelled before it was handed over")));
        }
    }
}
