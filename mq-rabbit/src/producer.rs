//! Publishing: where each message goes, and what it needs before it may.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use mq_core::driver::{Destination, ProducerDriver, Publish};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Message, control};
use mq_core::name::TopicKind;
use tokio::time::Instant;

use crate::core::Core;
use crate::delay;
use crate::error::{BACKEND, error};
use crate::lane::{Done, Lane, Outgoing};
use crate::names::{return_queue, short};
use crate::parking::Parking;
use crate::topology::{default_exchange, foreign_stream};
use crate::wire;

/// A producer with a channel of its own.
pub(crate) struct RabbitProducer {
    core: Arc<Core>,
    lane: Arc<Lane>,
    parking: Arc<Parking>,
    seen_breaks: AtomicUsize,
    closed: AtomicBool,
}

impl RabbitProducer {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let lane = Arc::new(Lane::open(core.publishing.clone()));
        Self { core, lane, parking: Arc::default(), seen_breaks: AtomicUsize::new(0), closed: AtomicBool::new(false) }
    }

    async fn prepare(&self, publish: &Publish) -> Result<(Outgoing, Option<SystemTime>)> {
        let message = publish.message();
        let body = message.body_bytes().cloned().unwrap_or_default();
        check_size(message.size(), self.core.config.max_message_bytes)?;
        let topic = message.topic();
        let mut properties = wire::encode(message)?;
        let mut due = None;
        let (exchange, routing_key) = match publish.destination() {
            Destination::Topic => {
                if topic.kind() != TopicKind::Queue {
                    self.core.know(topic).await?;
                }
                let delayed = match publish.deliver_at() {
                    None => None,
                    Some(at) => delay::route(topic, at, SystemTime::now())?,
                };
                match delayed {
                    None => address(message)?,
                    Some(route) => {
                        if message.routing().is_some() {
                            return Err(Error::config("a delayed message cannot have a routing key")
                                .with_backend(BACKEND)
                                .with_hint("choose by headers, or send it when it is due"));
                        }
                        self.core.know_delayed(topic).await?;
                        due = Some(route.due);
                        properties = with_header(properties, control::DUE, &control::from_time(route.due))?;
                        (short(&route.exchange)?, short(&route.routing_key)?)
                    }
                }
            }
            Destination::Group(group) => {
                properties = with_header(properties, control::GROUP, group.as_str().as_bytes())?;
                (default_exchange(), short(&return_queue(topic, group))?)
            }
            _ => return Err(error(ErrorKind::Internal, "this destination is not known here")),
        };
        let outgoing = Outgoing {
            exchange,
            routing_key,
            properties,
            body,
            keyed: message.key_bytes().is_some(),
            confirm: publish.wants_confirm(),
            done: Done::Nobody,
        };
        Ok((outgoing, due))
    }
}

/// Where a message goes that is not delayed.
fn address(message: &Message) -> Result<(ShortString, ShortString)> {
    let topic = message.topic();
    let key = message.routing().map_or("", |key| key);
    match topic.kind() {
        TopicKind::Queue => Ok((default_exchange(), short(topic.name())?)),
        TopicKind::Topic | TopicKind::Exchange => Ok((short(topic.name())?, short(key)?)),
        _ => Err(foreign_stream(topic)),
    }
}

fn check_size(size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(error(ErrorKind::TooLarge, "the message is larger than max_message_bytes")
        .with_context("bytes", size)
        .with_context("limit", limit)
        .with_hint("send a reference instead of the content, or raise the limit here and at the broker"))
}

fn with_header(
    properties: lapin::BasicProperties,
    name: &'static str,
    content: &[u8],
) -> Result<lapin::BasicProperties> {
    let mut table = properties.headers().as_ref().map(|table| table.inner().clone()).unwrap_or_default();
    table.insert(short(name)?, AMQPValue::LongString(content.to_vec().into()));
    Ok(properties.with_headers(FieldTable::from(table)))
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

#[async_trait]
impl ProducerDriver for RabbitProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        let breaks = self.lane.breaks();
        if self.seen_breaks.swap(breaks, Ordering::AcqRel) != breaks {
            self.core.forget();
        }
        let mut outgoing = Vec::with_capacity(batch.len());
        let mut waiting = Waiting(batch.into_iter());
        while let Some(next) = waiting.0.as_slice().first() {
            let prepared = if self.closed.load(Ordering::Acquire) {
                Err(Error::closed("producer").with_backend(BACKEND))
            } else {
                self.prepare(next).await
            };
            let Some(publish) = waiting.0.next() else { break };
            match prepared {
                Ok((mut prepared, due)) => {
                    prepared.done = Done::Publish(publish, due);
                    outgoing.push(prepared);
                }
                Err(cause) => publish.complete(Err(cause)),
            }
        }
        if !outgoing.is_empty() {
            self.parking.publish(&self.lane, outgoing).await;
        }
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        self.parking.flush(deadline).await?;
        self.lane.flush(until.saturating_duration_since(Instant::now())).await
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let flushed = self.flush(deadline).await;
        self.lane.close(deadline).await;
        flushed
    }
}

impl fmt::Debug for RabbitProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitProducer").finish_non_exhaustive()
    }
}
