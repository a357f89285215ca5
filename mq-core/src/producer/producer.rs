//! The producer.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use crate::broker::Broker;
use crate::capability::Feature;
use crate::consumer::Delivery;
use crate::driver::Pending as DriverPending;
use crate::driver::{Completed, Destination, ProducerDriver, Publish, Receipt, Settle, Settlement, in_flight_with};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId};
use crate::producer::admission::Admission;
use crate::producer::fence::Fence;
use crate::producer::{HandoffError, Pending, SendError, fill};

/// What to do when there is no room.
const FULL: &str = "is the broker full or blocked? Send slower, or wait and send again";

/// The bounds of a producer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProducerOptions {
    /// The most messages in flight. Default 1,000.
    pub max_in_flight: usize,
    /// The most bytes in flight. Default 32 MiB.
    pub max_in_flight_bytes: usize,
    /// How long a send may wait for room, and flush and close for what is in flight. Default 30 s.
    pub deadline: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self { max_in_flight: 1000, max_in_flight_bytes: 32 << 20, deadline: Duration::from_secs(30) }
    }
}

/// Sends messages. Cheap to clone; clones share connection, bounds and order.
///
/// `Ok` means the broker has stored the message as durably as it is configured to; an error gives the message back.
/// When the error is [ambiguous](Error::is_ambiguous) the message may be stored: send it again under the same id (the
/// message given back carries it). Until then later sends of its key fail with
/// [`ErrorKind::Fenced`](crate::error::ErrorKind::Fenced), since they would overtake it.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Broker,
    driver: Arc<dyn ProducerDriver>,
    options: ProducerOptions,
    admission: Admission,
    fence: Fence,
}

impl Producer {
    pub(crate) fn new(broker: Broker, driver: Arc<dyn ProducerDriver>, options: ProducerOptions) -> Self {
        let admission = Admission::new(options.max_in_flight, options.max_in_flight_bytes);
        Self { shared: Arc::new(Shared { broker, driver, options, admission, fence: Fence::default() }) }
    }

    /// Sends one message and waits until the broker has stored it.
    ///
    /// # Cancel safety
    /// Dropping the future does not recall the message: it may or may not be stored.
    pub async fn send(&self, message: Message) -> Result<Receipt, SendError> {
        self.enqueue(message).await?.await
    }

    /// Sends a message that becomes visible after `delay`, rounded up to what the broker can do (see the receipt).
    pub async fn send_after(&self, message: Message, delay: Duration) -> Result<Receipt, SendError> {
        let due = self.shared.broker.driver().clock().after(delay);
        self.send_at(message, due).await
    }

    /// Sends a message that becomes visible at `due`, never before.
    pub async fn send_at(&self, message: Message, due: SystemTime) -> Result<Receipt, SendError> {
        if let Err(error) = self.shared.broker.require([Feature::DelayedSend]) {
            return Err(SendError::new(error, message));
        }
        let (publish, pending) = self.prepare(message, Some(due), true).await?;
        self.shared.driver.publish(vec![publish]).await;
        Pending::new(pending).await
    }

    /// Hands one message over and returns as soon as there is room for it; the outcome comes with the future returned.
    /// Messages of one key are stored in the order of these calls. One that is refused for good does not hold back those
    /// behind it that are under way already: where the order must outlast failures, wait for each outcome.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the message is not sent, or sent without a report.
    pub async fn enqueue(&self, message: Message) -> Result<Pending, SendError> {
        let (publish, mut pending) = self.prepare(message, None, true).await?;
        let deadline = self.shared.options.deadline;
        let mut handing = self.shared.driver.publish(vec![publish]);
        // Nearly always there is room: a timer is made only where there is none.
        let taken = poll_fn(|task| Poll::Ready(handing.as_mut().poll(task).is_ready())).await;
        if taken || tokio::time::timeout(deadline, handing).await.is_ok() {
            return Ok(Pending::new(pending));
        }
        // What the client had not taken was completed when the call was given up; else it is under way.
        let Some((refused, message)) = pending.refused() else { return Ok(Pending::new(pending)) };
        let text = format!("the client had no room within {}", humantime::format_duration(deadline));
        let full = Error::new(ErrorKind::Backpressure, text).with_source(refused).with_hint(FULL);
        Err(SendError::new(full.with_backend(self.shared.broker.name()), message))
    }

    /// As [`enqueue`](Self::enqueue), but calls `outcome` instead of returning a future. It runs on a thread of the
    /// client and must not block.
    pub async fn enqueue_with(
        &self,
        message: Message,
        outcome: impl FnOnce(Result<Receipt>) + Send + 'static,
    ) -> Result<(), SendError> {
        let (publish, pending) = self.prepare(message, None, true).await?;
        pending.on_complete(outcome);
        self.shared.driver.publish(vec![publish]).await;
        Ok(())
    }

    /// Sends at most once: no confirmation is waited for, so the message may be lost without notice.
    pub async fn send_unconfirmed(&self, message: Message) -> Result<(), SendError> {
        if let Err(error) = self.shared.broker.require([Feature::UnconfirmedSend]) {
            return Err(SendError::new(error, message));
        }
        let (publish, pending) = self.prepare(message, None, false).await?;
        self.shared.driver.publish(vec![publish]).await;
        Pending::new(pending).await.map(drop)
    }

    /// Sends many messages; one result each, in their order. They are stored one by one: some may fail alone.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Receipt, SendError>> {
        let mut slots = Vec::with_capacity(messages.len());
        let mut batch = Vec::with_capacity(messages.len());
        for message in messages {
            let message = match self.complete(message) {
                Ok(message) => message,
                Err(error) => {
                    slots.push(Err(error));
                    continue;
                }
            };
            if !self.shared.admission.try_enter(&message) {
                // What is gathered holds room of its own: hand it over before waiting, or it would wait for itself.
                self.shared.driver.publish(std::mem::take(&mut batch)).await;
                if let Err(error) = self.enter(&message).await {
                    slots.push(Err(SendError::new(error, message)));
                    continue;
                }
            }
            let (publish, pending) = self.fly(message, None, true);
            batch.push(publish);
            slots.push(Ok(pending));
        }
        if !batch.is_empty() {
            self.shared.driver.publish(batch).await;
        }
        let mut results = Vec::with_capacity(slots.len());
        for slot in slots {
            results.push(match slot {
                Ok(pending) => Pending::new(pending).await,
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Sends many messages as one step: all are stored, or none; readers see none before all are there. At most as many
    /// as may be in flight. Returns their ids, in their order.
    ///
    /// Needs [`Feature::AtomicBatch`](crate::capability::Feature::AtomicBatch); elsewhere the error says what to do
    /// instead: an outbox in your own database transaction.
    ///
    /// # Errors
    /// Unless it is [ambiguous](Error::is_ambiguous), nothing is stored. Otherwise all or nothing is: until
    /// [`forget_key`](Self::forget_key), later sends of their keys fail.
    ///
    /// # Cancel safety
    /// Dropping the future recalls nothing: all or nothing is stored.
    pub async fn send_atomic(&self, messages: Vec<Message>) -> Result<Vec<MessageId>> {
        self.shared.broker.require([Feature::AtomicBatch])?;
        self.step(messages, Vec::new(), "atomic send").await
    }

    /// Sends messages and acknowledges the deliveries they were made from as one step: all of it, or nothing. A
    /// message handled this way leaves its results exactly once, whatever dies meanwhile, as long as whoever reads them
    /// reads only what is committed (every consumer of this SDK does).
    ///
    /// Needs [`Feature::AtomicHandoff`](crate::capability::Feature::AtomicHandoff). The deliveries must come from the
    /// broker this producer was opened on, from a subscription with a group.
    ///
    /// # Errors
    /// Unless the error is [ambiguous](Error::is_ambiguous), nothing is stored, and it gives the deliveries back,
    /// unsettled: retry, requeue or dead-letter them. Otherwise all or nothing is done and nobody knows which: the
    /// deliveries are released, and come again if, and only if, nothing was done.
    ///
    /// # Cancel safety
    /// Dropping the future recalls nothing: the step goes on by itself, and the deliveries come again if nothing is done.
    pub async fn hand_off(
        &self,
        messages: Vec<Message>,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<MessageId>, HandoffError> {
        if let Err(error) = self.shared.broker.require([Feature::AtomicHandoff]) {
            return Err(HandoffError::new(error, deliveries));
        }
        let producer = self.clone();
        // In a task of its own: a caller that goes away must not have deliveries given back that are being settled.
        let step = tokio::spawn(async move {
            let acks = deliveries.iter().map(|delivery| Settlement { token: delivery.token(), action: Settle::Ack });
            match producer.step(messages, acks.collect(), "hand off").await {
                Ok(ids) => {
                    deliveries.into_iter().for_each(Delivery::settled);
                    Ok(ids)
                }
                Err(error) if error.is_ambiguous() => Err(HandoffError::new(error, Vec::new())),
                Err(error) => Err(HandoffError::new(error, deliveries)),
            }
        });
        step.await.unwrap_or_else(|cause| {
            let lost = Error::new(ErrorKind::Internal, "the outcome of the hand-off was lost").with_source(cause);
            Err(HandoffError::new(lost.ambiguous(), Vec::new()))
        })
    }

    async fn step(
        &self,
        messages: Vec<Message>,
        settlements: Vec<Settlement>,
        operation: &'static str,
    ) -> Result<Vec<MessageId>> {
        let shared = &self.shared;
        let failed = |error: Error| error.with_backend(shared.broker.name()).with_operation(operation);
        let bytes: usize = messages.iter().map(Message::size).sum();
        if messages.len() > shared.options.max_in_flight || bytes > shared.options.max_in_flight_bytes {
            let text = format!("{} messages of {bytes} B in one step are more than may be in flight", messages.len());
            let hint = "make the batch smaller, or raise `max_in_flight` and `max_in_flight_bytes` of the producer";
            return Err(failed(Error::new(ErrorKind::TooLarge, text).with_hint(hint)));
        }
        let mut batch = Vec::with_capacity(messages.len());
        for message in messages {
            batch.push(self.fill(message).map_err(|refused| failed(refused.into_parts().0))?);
        }
        shared.fence.check_all(&batch).map_err(failed)?;
        let ids = batch.iter().filter_map(|message| message.message_id().cloned()).collect();
        // Of a hand-off nobody need find out how it ended: its deliveries come again, in their order, if it must be repeated.
        let fences = settlements.is_empty();
        let outcome = shared.driver.atomic(batch.clone(), settlements).await;
        for message in &batch {
            match &outcome {
                Ok(()) => shared.fence.stored(message),
                Err(error) if error.is_ambiguous() && fences => shared.fence.ambiguous(message),
                Err(_) => {}
            }
        }
        outcome.map(|()| ids).map_err(failed)
    }

    /// Gives up the place of an ambiguous send: later sends of the key of `message` may go on.
    pub fn forget_key(&self, message: &Message) {
        self.shared.fence.forget(message);
    }

    /// Waits until everything sent so far has its outcome, at most the deadline of the options.
    pub async fn flush(&self) -> Result<()> {
        self.shared.driver.flush(self.shared.options.deadline).await.map_err(|error| error.with_operation("flush"))
    }

    /// Flushes and closes; clones are closed too. Later sends fail with
    /// [`ErrorKind::Closed`](crate::error::ErrorKind::Closed).
    pub async fn close(&self) -> Result<()> {
        self.shared.admission.close();
        self.shared.driver.close(self.shared.options.deadline).await.map_err(|error| error.with_operation("close"))
    }

    /// Completes a message, waits for room, and makes it ready to be published.
    async fn prepare(
        &self,
        message: Message,
        deliver_at: Option<SystemTime>,
        confirm: bool,
    ) -> Result<(Publish, DriverPending), SendError> {
        let message = self.complete(message)?;
        match self.enter(&message).await {
            Ok(()) => Ok(self.fly(message, deliver_at, confirm)),
            Err(error) => Err(SendError::new(error, message)),
        }
    }

    /// Checks a message and gives it an id and a time.
    fn complete(&self, message: Message) -> Result<Message, SendError> {
        let message = self.fill(message)?;
        match self.shared.fence.check(&message) {
            Ok(()) => Ok(message),
            Err(error) => Err(SendError::new(error.with_backend(self.shared.broker.name()), message)),
        }
    }

    fn fill(&self, message: Message) -> Result<Message, SendError> {
        fill(message, self.shared.broker.driver().clock())
    }

    /// Waits for room. An earlier send of the key may end ambiguous meanwhile: then this one must not go either.
    async fn enter(&self, message: &Message) -> Result<()> {
        let shared = &self.shared;
        let mut entered = shared.admission.enter(message, shared.options.deadline).await;
        if entered.is_ok()
            && let Err(fenced) = shared.fence.check(message)
        {
            shared.admission.leave(message);
            entered = Err(fenced);
        }
        entered.map_err(|error| error.with_backend(shared.broker.name()))
    }

    fn fly(&self, message: Message, deliver_at: Option<SystemTime>, confirm: bool) -> (Publish, DriverPending) {
        let hook: Arc<dyn Completed> = Arc::<Shared>::clone(&self.shared);
        in_flight_with(message, Destination::Topic, deliver_at, confirm, Some(hook))
    }
}

impl Completed for Shared {
    fn completed(&self, message: &Message, result: &Result<Receipt>) {
        self.admission.leave(message);
        match result {
            Ok(_) => self.fence.stored(message),
            Err(error) if error.is_ambiguous() => self.fence.ambiguous(message),
            Err(_) => {}
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("driver", &self.shared.driver).finish_non_exhaustive()
    }
}
