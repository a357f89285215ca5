//! The pull consumer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;
use crate::consumer::{Delivery, Session};
use crate::driver::{ConsumerDriver, ConsumerSpec, Event, Incoming, Settle};
use crate::error::{Error, Result};

/// How long one poll of the driver may wait.
const POLL: Duration = Duration::from_secs(1);
/// How long flush and close may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Receives messages one at a time or in batches; every one is settled by hand.
///
/// At most *prefetch* deliveries are out at once: then `recv` waits until one is settled.
pub struct Consumer {
    driver: Option<Box<dyn ConsumerDriver>>,
    session: Arc<Session>,
    prefetch: usize,
    events: Vec<Event>,
    /// Received and not handed out: messages only, in the list they came in.
    ready: VecDeque<Event>,
    revoking: Vec<u64>,
}

impl Consumer {
    pub(crate) async fn open(broker: &Broker, spec: ConsumerSpec) -> Result<Self> {
        let prefetch = spec.prefetch.max(1);
        let (session, driver) = Session::open(&**broker.driver(), spec).await?;
        Ok(Self {
            driver: Some(driver),
            session,
            prefetch,
            events: Vec::new(),
            ready: VecDeque::new(),
            revoking: Vec::new(),
        })
    }

    /// The next message; waits for one as long as it takes, over reconnects too.
    ///
    /// # Errors
    /// When the subscription cannot go on: the topic or the permission is gone, or the consumer is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: a message not returned comes with the next call.
    pub async fn recv(&mut self) -> Result<Delivery> {
        loop {
            if let Some(delivery) = self.next_ready() {
                return Ok(delivery);
            }
            self.fill(POLL).await?;
        }
    }

    /// The next message, or `None` when none came within `wait`. Cancel safe.
    pub async fn recv_within(&mut self, wait: Duration) -> Result<Option<Delivery>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(delivery) = self.next_ready() {
                return Ok(Some(delivery));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.fill(left.min(POLL)).await?;
        }
    }

    /// Up to `max` messages: returns with what is there as soon as there is any, with none after `wait`. Cancel safe.
    pub async fn recv_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut batch = Vec::new();
        if max > 0
            && let Some(first) = self.recv_within(wait).await?
        {
            batch.push(first);
            while batch.len() < max
                && let Some(next) = self.next_ready()
            {
                batch.push(next);
            }
        }
        Ok(batch)
    }

    /// Stops receiving without giving up the place in the group. Deliveries already out stay valid.
    pub async fn pause(&mut self) -> Result<()> {
        self.driver()?.pause(true).await
    }

    /// Goes on receiving.
    pub async fn resume(&mut self) -> Result<()> {
        self.driver()?.pause(false).await
    }

    /// Waits, at most 30 s, until everything settled so far is durable at the broker.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        // Not an `async fn`: borrowing a consumer over an await would make the caller's future unfit for `spawn`.
        let queue = self.session.queue.clone();
        async move { queue.flush(DEADLINE).await }
    }

    /// Leaves the group, at most within 30 s: what was settled is made durable, what was received and not handed out
    /// is released, deliveries still out become stale and come again.
    pub async fn close(mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        self.release_ready(|_| true);
        let flushed = self.session.queue.flush(DEADLINE).await;
        self.session.queue.close();
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        match self.driver.take() {
            Some(driver) => driver.close(left).await.and(flushed),
            None => flushed,
        }
    }

    fn driver(&mut self) -> Result<&mut Box<dyn ConsumerDriver>> {
        self.driver.as_mut().ok_or_else(|| Error::closed("consumer"))
    }

    fn next_ready(&mut self) -> Option<Delivery> {
        loop {
            if let Event::Message(incoming) = self.ready.pop_front()? {
                return Some(Delivery::new(incoming, Arc::clone(&self.session)));
            }
        }
    }

    /// Polls the driver once, within the room the window leaves.
    async fn fill(&mut self, wait: Duration) -> Result<()> {
        // Acks gathered since the last poll: this is the cheapest place to settle them, and it makes room.
        self.session.queue.ack_here();
        self.end_revocations().await?;
        let room = self.prefetch.saturating_sub(self.session.queue.outstanding());
        let queue = self.session.queue.clone();
        let driver = self.driver.as_mut().ok_or_else(|| Error::closed("consumer"))?;
        if room == 0 {
            // Full: only events may come; wake when a delivery is settled.
            let mut polled = Ok(());
            tokio::select! {
                biased;
                result = driver.poll(&mut self.events, 0, wait) => polled = result,
                () = queue.below(self.prefetch) => {}
            }
            self.sort();
            return polled;
        }
        let polled = driver.poll(&mut self.events, room, wait).await;
        self.sort();
        polled
    }

    fn sort(&mut self) {
        let before = self.ready.len();
        let mut moving = Vec::new();
        if before == 0 && self.events.iter().all(|event| matches!(event, Event::Message(_))) {
            // The usual case. The lists change places; no message is moved.
            let empty = Vec::from(std::mem::take(&mut self.ready));
            self.ready = std::mem::replace(&mut self.events, empty).into();
        }
        for event in self.events.drain(..) {
            match event {
                Event::Message(_) => self.ready.push_back(event),
                Event::Revoking(revocation, partitions) => {
                    tracing::debug!(?partitions, "partitions are being revoked");
                    self.revoking.push(revocation);
                    moving.extend(partitions);
                }
                other => tracing::debug!(event = ?other, "subscription event"),
            }
        }
        self.session.queue.delivered(self.ready.len() - before);
        if !moving.is_empty() {
            self.release_ready(|incoming| moving.contains(&incoming.token.lane));
        }
    }

    /// Answers revocations once nothing is out any more; the driver goes on by itself after its drain time.
    async fn end_revocations(&mut self) -> Result<()> {
        if self.session.queue.outstanding() == 0 {
            for revocation in std::mem::take(&mut self.revoking) {
                self.driver()?.revoked(revocation).await?;
            }
        }
        Ok(())
    }

    fn release_ready(&mut self, which: impl Fn(&Incoming) -> bool) {
        let queue = &self.session.queue;
        self.ready.retain(|event| {
            let Event::Message(incoming) = event else { return false };
            let release = which(incoming);
            if release {
                queue.push(incoming.token, Settle::Release);
            }
            !release
        });
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("driver", &self.driver).field("session", &self.session).finish_non_exhaustive()
    }
}
