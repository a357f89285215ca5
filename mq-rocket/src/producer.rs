//! Publishing: each message to a lane, one lane for each queue.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::capability::Feature;
use mq_core::driver::{Destination, ProducerDriver, Publish};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Headers, Message, control};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{BACKEND, error};
use crate::lane::Outgoing;
use crate::lanes::Lanes;
use crate::names;
use crate::sending::deliver_at;
use crate::wire::{self, Encoded};

/// The broker's own bound of a delay.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// A larger message counts as several in flight.
const SHARE: usize = 32 * 1024;

/// Publishes to one cluster.
pub(crate) struct RocketProducer {
    core: Arc<Core>,
    topics: Mutex<HashMap<String, Arc<Lanes>>>,
    room: Arc<Semaphore>,
    whole: u32,
    closed: AtomicBool,
}

/// Completes what was not accepted when the caller is cancelled.
struct Waiting(std::vec::IntoIter<Publish>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for publish in self.0.by_ref() {
            publish.complete(Err(error(ErrorKind::Unavailable, "the send was cancelled before it began")));
        }
    }
}

/// A message encoded, and where it goes.
struct Prepared {
    topic: String,
    message: Encoded,
    due: Option<SystemTime>,
}

/// A message with its room and its lane.
struct Accepted {
    message: Encoded,
    due: Option<SystemTime>,
    permit: OwnedSemaphorePermit,
    sender: mpsc::Sender<Outgoing>,
}

impl RocketProducer {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let whole = u32::try_from(core.config.max_in_flight).unwrap_or(u32::MAX).min(1 << 20);
        let room = Arc::new(Semaphore::new(whole as usize));
        Self { core, topics: Mutex::default(), room, whole, closed: AtomicBool::new(false) }
    }

    fn prepare(&self, publish: &Publish) -> Result<Prepared> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("producer").with_backend(BACKEND));
        }
        let message = publish.message();
        check_sendable(message, self.core.config.max_message_bytes)?;
        let (topic, mut encoded) = match publish.destination() {
            Destination::Topic => (names::topic(message.topic())?, wire::encode(message)?),
            Destination::Group(group) => {
                let patch: Headers = [(control::GROUP, group.as_str().to_owned())].into_iter().collect();
                (names::retry(message.topic(), group), wire::hop(message, &patch)?)
            }
            _ => return Err(error(ErrorKind::Internal, "this destination is not known here")),
        };
        let mut due = None;
        if let Some(at) = publish.deliver_at()
            && let Ok(delay) = at.duration_since(SystemTime::now())
        {
            if delay > MAX_DELAY {
                return Err(error(ErrorKind::Config, "the delay is longer than the 3 days the broker takes")
                    .with_hint("keep the message in a database until then"));
            }
            deliver_at(&mut encoded, at);
            due = Some(round_up(at));
        }
        Ok(Prepared { topic, message: encoded, due })
    }

    async fn accept(&self, publish: &Publish, deadline: Instant) -> Result<Accepted> {
        let Prepared { topic, message, due } = self.prepare(publish)?;
        let lanes = self.lanes(&topic, deadline).await?;
        let share = u32::try_from(message.body.len() / SHARE).unwrap_or(u32::MAX).clamp(1, self.whole);
        let room = Arc::clone(&self.room).acquire_many_owned(share);
        let permit = match tokio::time::timeout_at(deadline, room).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(Error::closed("producer").with_backend(BACKEND)),
            Err(_) => {
                return Err(error(ErrorKind::Backpressure, "too many messages are in flight")
                    .with_context("limit", self.whole)
                    .with_hint("send more slowly, or raise max_in_flight"));
            }
        };
        let sender = lanes.of(publish.message());
        let sender = sender.ok_or_else(|| error(ErrorKind::Internal, "the topic has no queue"))?;
        Ok(Accepted { message, due, permit, sender })
    }

    async fn lanes(&self, topic: &str, deadline: Instant) -> Result<Arc<Lanes>> {
        let known = {
            let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            topics.get(topic).filter(|lanes| !lanes.is_gone()).map(Arc::clone)
        };
        if let Some(lanes) = known {
            lanes.look();
            return Ok(lanes);
        }
        self.core.writable(topic, deadline).await?;
        let keyed = self.core.routes.keyed(topic);
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = topics.get(topic).filter(|lanes| !lanes.is_gone()) {
            return Ok(Arc::clone(lanes));
        }
        let lanes = Lanes::new(&self.core, topic, &keyed, self.whole as usize);
        topics.insert(topic.to_owned(), Arc::clone(&lanes));
        Ok(lanes)
    }
}

/// The broker looks once a second, after the second has passed.
fn round_up(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let whole = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(whole)
}

/// Refuses what this broker cannot take.
pub(crate) fn check_sendable(message: &Message, limit: usize) -> Result<()> {
    if message.routing().is_some() {
        return Err(Error::unsupported(Feature::RoutingPattern, BACKEND, "leave the routing key out"));
    }
    let size = message.size();
    if size <= limit {
        return Ok(());
    }
    Err(error(ErrorKind::TooLarge, "the message is larger than max_message_bytes")
        .with_context("bytes", size)
        .with_context("limit", limit)
        .with_hint("send a reference instead of the content, or raise the limit here and at the broker"))
}

#[async_trait]
impl ProducerDriver for RocketProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        let now = Instant::now();
        let deadline = now + self.core.config.send_timeout;
        let mut waiting = Waiting(batch.into_iter());
        while let Some(next) = waiting.0.as_slice().first() {
            let accepted = self.accept(next, deadline).await;
            let Some(publish) = waiting.0.next() else { break };
            match accepted {
                Ok(Accepted { message, due, permit, sender }) => {
                    let outgoing = Outgoing { publish, message, due, accepted: now, deadline, refusals: 0, permit };
                    if let Err(refused) = sender.try_send(outgoing) {
                        let Outgoing { publish, .. } = refused.into_inner();
                        publish.complete(Err(error(ErrorKind::Internal, "a lane of the producer has ended")));
                    }
                }
                Err(cause) => publish.complete(Err(cause)),
            }
        }
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        match tokio::time::timeout(deadline, self.room.acquire_many(self.whole)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::timeout(deadline).with_backend(BACKEND).with_operation("flush")),
        }
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let flushed = self.flush(deadline).await;
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).clear();
        flushed
    }
}

impl fmt::Debug for RocketProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocketProducer").finish_non_exhaustive()
    }
}
