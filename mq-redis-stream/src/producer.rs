//! Publishing: what is accepted, within its bounds, and where it goes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{ProducerDriver, Publish, Settlement};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Message;
use mq_core::name::fnv1a;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::atomic;
use crate::core::Core;
use crate::error::{BACKEND, error};
use crate::outgoing::{self, Item, Place};

/// Messages accepted and not yet answered.
const WINDOW: usize = 4096;
#[derive(Debug)]
pub(crate) struct RedisProducer {
    core: Arc<Core>,
    closed: AtomicBool,
    queue: mpsc::UnboundedSender<Item>,
    window: Arc<Semaphore>,
    /// Keyless messages go round.
    next: AtomicU32,
}

impl RedisProducer {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let (queue, items) = mpsc::unbounded_channel();
        tokio::spawn(outgoing::send(Arc::clone(&core), items));
        Self {
            core,
            closed: AtomicBool::new(false),
            queue,
            window: Arc::new(Semaphore::new(WINDOW)),
            next: AtomicU32::new(fastrand::u32(..)),
        }
    }

    fn check(&self, message: &Message) -> Result<()> {
        if self.closed.load(Ordering::Acquire) || self.core.publishing.is_closed() {
            return Err(Error::closed("producer").with_backend(BACKEND));
        }
        let limit = self.core.config.max_message_bytes;
        if message.size() > limit {
            return Err(error(ErrorKind::TooLarge, format!("the message has {} B", message.size()))
                .with_context("limit", limit)
                .with_hint("raise max_message_bytes (the server's limit is 512 MB a value), or send a reference"));
        }
        Ok(())
    }

    async fn place(&self, message: &Message) -> Result<Place> {
        let keys = self.core.topic(message.topic()).await?;
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let keyless = if message.key_bytes().is_none() { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Ok(Place { keys, partition: partition(message, count, keyless) })
    }
}

/// The partition of a message, of so many: that of its key, or else that of a number.
pub(crate) fn partition(message: &Message, count: u32, keyless: u32) -> u32 {
    let count = count.max(1);
    match message.key_bytes() {
        Some(key) => u32::try_from(mix(fnv1a(key)) % u64::from(count)).unwrap_or(0),
        None => keyless % count,
    }
}

/// Spreads the hash over its low bits, which choose the partition.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[async_trait]
impl ProducerDriver for RedisProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        let accepted = Instant::now();
        let deadline = accepted + self.core.config.send_timeout;
        let mut rest = Waiting(batch.into());
        while let Some(publish) = rest.0.front() {
            let ready = async {
                self.check(publish.message())?;
                let place = self.place(publish.message()).await?;
                match tokio::time::timeout_at(deadline, Arc::clone(&self.window).acquire_owned()).await {
                    Ok(Ok(permit)) => Ok((place, permit)),
                    _ => Err(error(ErrorKind::Backpressure, "the messages before this one are still under way")
                        .with_hint("send slower, or look at why the broker is slow")),
                }
            };
            let ready = ready.await;
            let Some(publish) = rest.0.pop_front() else { break };
            match ready {
                Ok((place, _permit)) => {
                    let _ = self.queue.send(Item { publish, place, accepted, _permit });
                }
                Err(cause) => publish.complete(Err(cause.with_operation("send"))),
            }
        }
    }

    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        let stored = async {
            for message in &batch {
                self.check(message)?;
            }
            atomic::store(&self.core, batch, settlements, &self.next).await
        };
        stored.await.map_err(|cause| cause.with_operation("atomic send"))
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        let all = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        match tokio::time::timeout(deadline, self.window.acquire_many(all)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::timeout(deadline).with_backend(BACKEND).with_operation("flush")),
        }
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.flush(deadline).await
    }
}

/// Not yet accepted: when the future that hands them over is dropped, their senders learn that nothing was done.
struct Waiting(VecDeque<Publish>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for publish in self.0.drain(..) {
            publish.complete(Err(error(ErrorKind::Unavailable, "the send was cancelled before it was handed over")));
        }
    }
}
