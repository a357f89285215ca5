//! Sends while there is no connection: they wait in order, and whoever sent them does not wait with them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mq_core::error::{Error, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::BACKEND;
use crate::lane::{Lane, Outgoing, Terms};

type Queue = VecDeque<(Terms, Vec<Outgoing>)>;

/// What waits for a connection, each batch until its own deadline. Bounded by what the core lets a producer have in flight.
#[derive(Default)]
pub(crate) struct Parking {
    /// `Some` while a task hands over what waits: what is sent meanwhile goes behind it.
    queue: Mutex<Option<Queue>>,
    empty: Notify,
}

impl Parking {
    /// Hands the messages to the lane; without a connection, or while others wait for one, later and in their order.
    pub(crate) async fn publish(self: &Arc<Self>, lane: &Arc<Lane>, batch: Vec<Outgoing>) {
        let terms = lane.terms();
        {
            let mut queue = self.queue();
            match queue.as_mut() {
                Some(queue) => return queue.push_back((terms, batch)),
                None if lane.is_connected() => {}
                None => {
                    *queue = Some(VecDeque::from([(terms, batch)]));
                    tokio::spawn(Arc::clone(self).hand_over(Arc::clone(lane)));
                    return;
                }
            }
        }
        lane.publish_by(batch, terms).await;
    }

    async fn hand_over(self: Arc<Self>, lane: Arc<Lane>) {
        while let Some((terms, batch)) = self.next() {
            lane.publish_by(batch, terms).await;
        }
        self.empty.notify_waiters();
    }

    fn next(&self) -> Option<(Terms, Vec<Outgoing>)> {
        let mut queue = self.queue();
        let next = queue.as_mut().and_then(VecDeque::pop_front);
        if next.is_none() {
            *queue = None;
        }
        next
    }

    /// Waits until nothing waits any more.
    pub(crate) async fn flush(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let empty = self.empty.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            if self.queue().is_none() {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, empty).await.is_err() {
                return Err(Error::timeout(limit).with_backend(BACKEND).with_operation("flush"));
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Option<Queue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
