//! The dead letters of a group: listed without being consumed, brought back, or removed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueuePurgeOptions};
use mq_core::dead_letter::{DeadLetter, DeadLetterReason, DeadLetterRecord};
use mq_core::driver::DeadLetterDriver;
use mq_core::error::Result;
use mq_core::message::{Control, Headers, Position, control};
use mq_core::name::{Group, Topic};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{error, within};
use crate::lane::{Done, Outgoing};
use crate::names::{self, short};
use crate::topology::default_exchange;
use crate::wire::{self, Decoded};

/// How many are moved or removed at once.
const STEP: usize = 64;
/// What another listing returned a moment ago may not be back yet.
const SETTLE: Duration = Duration::from_secs(1);

/// The dead letters of one group.
#[derive(Debug)]
pub(crate) struct RabbitDeadLetters {
    core: Arc<Core>,
    topic: Topic,
    group: Group,
    pub(crate) queue: String,
}

impl RabbitDeadLetters {
    pub(crate) fn new(core: Arc<Core>, topic: Topic, group: Group) -> Self {
        let queue = names::dead_letter_queue(&topic, &group);
        Self { core, topic, group, queue }
    }

    fn limit(&self) -> Duration {
        self.core.config.connect_timeout
    }

    async fn channel(&self) -> Result<Channel> {
        self.core.consuming.channel(Instant::now() + self.limit()).await
    }

    /// Takes up to `max` from the front; they go back when the channel closes.
    async fn take(&self, channel: &Channel, max: usize) -> Result<Vec<BasicGetMessage>> {
        let ready = self.core.topology.queue_counts(&self.queue).await?.map_or(0, |(ready, _)| ready);
        let expected = max.min(usize::try_from(ready).unwrap_or(usize::MAX));
        let give_up = Instant::now() + SETTLE;
        let mut taken = Vec::with_capacity(expected.min(STEP));
        while taken.len() < max {
            let get = channel.basic_get(short(&self.queue)?, BasicGetOptions { no_ack: false });
            match within(self.limit(), get).await? {
                Some(message) => taken.push(message),
                None if taken.len() < expected && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                None => break,
            }
        }
        Ok(taken)
    }

    fn decode(&self, message: BasicGetMessage) -> Decoded {
        let delivery = message.delivery;
        // What the broker moved here by itself carries its x-death, and its other headers as they were.
        let by_broker = delivery.properties.headers().as_ref().is_some_and(|headers| headers.contains_key("x-death"));
        let trusted = !(by_broker && self.topic.is_foreign());
        let (exchange, key) = (delivery.exchange, delivery.routing_key);
        wire::decode(&self.topic, trusted, exchange, key, delivery.properties, delivery.data)
    }

    fn record(&self, decoded: &Decoded) -> Option<DeadLetterRecord> {
        if let Some(record) = DeadLetterRecord::from_headers(&decoded.reserved) {
            return Some(record);
        }
        let death = wire::broker_death(&decoded.message)?;
        let control = Control::read(&decoded.reserved);
        let reason = match death.reason.as_str() {
            "delivery_limit" => DeadLetterReason::CrashLimit,
            _ => DeadLetterReason::Broker,
        };
        Some(DeadLetterRecord {
            reason,
            error: format!("set aside by the broker ({}) from the queue {}", death.reason, death.queue),
            attempts: control.attempt,
            first_failed: control.first_failed,
            failed: death.at.unwrap_or(SystemTime::UNIX_EPOCH),
            topic: self.topic.clone(),
            group: self.group.clone(),
            position: Position::None,
            redrives: control.redrives,
        })
    }

    async fn bring_back(&self, channel: &Channel, max: usize) -> Result<u64> {
        let taken = self.take(channel, max).await?;
        let mut waiting = Vec::with_capacity(taken.len());
        let mut batch = Vec::with_capacity(taken.len());
        let queue = names::return_queue(&self.topic, &self.group);
        for message in taken {
            let tag = message.delivery.delivery_tag;
            let decoded = self.decode(message);
            let redrives = control::number(&decoded.reserved, control::REDRIVES).unwrap_or(0) + 1;
            let mut patch = Headers::with_capacity(3);
            patch.append(control::ATTEMPT, "1");
            patch.append(control::GROUP, self.group.as_str().to_owned());
            patch.append(control::REDRIVES, redrives.to_string());
            let (tell, told) = oneshot::channel();
            batch.push(Outgoing {
                exchange: default_exchange(),
                routing_key: short(&queue)?,
                properties: wire::hop(&decoded.message, &patch)?,
                body: decoded.message.body_bytes().cloned().unwrap_or_default(),
                keyed: false,
                confirm: true,
                done: Done::Tell(tell),
            });
            waiting.push((tag, told));
        }
        self.core.hops.publish(batch).await;
        let mut moved = 0;
        let limit = self.core.config.send_timeout + Duration::from_secs(1);
        for (tag, told) in waiting {
            let lost = || error(mq_core::error::ErrorKind::Internal, "the outcome of a redrive was lost");
            match tokio::time::timeout(limit, told).await {
                Ok(Ok(result)) => result?,
                _ => return Err(lost()),
            }
            // First the new place, then the removal.
            within(self.limit(), channel.basic_ack(tag, BasicAckOptions { multiple: false })).await?;
            moved += 1;
        }
        self.settled(channel).await?;
        Ok(moved)
    }

    /// The broker's answer comes after it has read what was sent before on this channel.
    async fn settled(&self, channel: &Channel) -> Result<()> {
        within(self.limit(), channel.basic_qos(1, BasicQosOptions { global: false })).await
    }
}

#[async_trait]
impl DeadLetterDriver for RabbitDeadLetters {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        let channel = self.channel().await?;
        let taken = self.take(&channel, max).await?;
        if let Some(last) = taken.last() {
            // Returned together, they keep their order at the front.
            let options = BasicNackOptions { multiple: true, requeue: true };
            within(self.limit(), channel.basic_nack(last.delivery.delivery_tag, options)).await?;
            self.settled(&channel).await?;
        }
        let letters = taken.into_iter().map(|message| {
            let decoded = self.decode(message);
            DeadLetter { record: self.record(&decoded), message: decoded.message, position: Position::None }
        });
        let letters = letters.collect();
        within(self.limit(), channel.close(200, "listed".into())).await?;
        Ok(letters)
    }

    async fn redrive(&mut self, max: usize) -> Result<u64> {
        let channel = self.channel().await?;
        let mut moved = 0;
        while moved < max as u64 {
            let step = STEP.min(max - usize::try_from(moved).unwrap_or(max));
            let count = self.bring_back(&channel, step).await?;
            moved += count;
            if count < step as u64 {
                break;
            }
        }
        within(self.limit(), channel.close(200, "redriven".into())).await?;
        Ok(moved)
    }

    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        let channel = self.channel().await?;
        let Some(max) = max else {
            let purge = channel.queue_purge(short(&self.queue)?, QueuePurgeOptions::default());
            return within(self.limit(), purge).await.map(u64::from);
        };
        let mut removed = 0;
        while removed < max {
            let step = usize::try_from(max - removed).unwrap_or(STEP).min(STEP);
            let taken = self.take(&channel, step).await?;
            let Some(last) = taken.last() else { break };
            let ack = channel.basic_ack(last.delivery.delivery_tag, BasicAckOptions { multiple: true });
            within(self.limit(), ack).await?;
            self.settled(&channel).await?;
            removed += taken.len() as u64;
        }
        within(self.limit(), channel.close(200, "purged".into())).await?;
        Ok(removed)
    }
}
