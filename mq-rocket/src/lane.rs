//! One queue of a topic, written to by one task with one request under way.
//!
//! The broker stores what it receives on several threads: two requests under way for one queue may be stored in the
//! other order. What waits meanwhile goes together in the next request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mq_core::driver::{Publish, Receipt};
use mq_core::error::{ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{again, error};
use crate::remoting::Failure;
use crate::route::Queue;
use crate::sending::{self, batch_size};
use crate::wire::Encoded;

/// The most messages in one request.
const MOST: usize = 256;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) publish: Publish,
    pub(crate) message: Encoded,
    pub(crate) due: Option<SystemTime>,
    pub(crate) accepted: Instant,
    pub(crate) deadline: Instant,
    /// Its share of what may be in flight.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Outgoing {
    /// The broker takes delayed messages only by themselves, and a message without confirmation is a request without
    /// an answer.
    fn is_alone(&self) -> bool {
        self.due.is_some() || !self.publish.wants_confirm()
    }

    fn key(&self) -> Option<Bytes> {
        self.publish.message().key_bytes().cloned()
    }

    fn complete(self, result: Result<Receipt>) {
        let Self { publish, permit, .. } = self;
        publish.complete(result);
        drop(permit);
    }
}

/// What the lane's task needs.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) core: Arc<Core>,
    pub(crate) topic: Arc<str>,
    pub(crate) queue: Queue,
    /// Told of a topic that is gone.
    pub(crate) gone: Arc<std::sync::atomic::AtomicBool>,
}

impl Lane {
    /// Runs until nobody can send any more and everything accepted is completed.
    pub(crate) async fn run(self, mut accepted: mpsc::Receiver<Outgoing>) {
        let mut carried = None;
        let mut fences = Fences::default();
        loop {
            let first = match carried.take() {
                Some(first) => first,
                None => match accepted.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let Some(first) = fences.pass(first) else { continue };
            let mut batch = vec![first];
            carried = self.gather(&mut batch, &mut accepted, &fences);
            let keys: Vec<Bytes> = batch.iter().filter_map(Outgoing::key).collect();
            if self.send(batch).await {
                fences.raise(keys, self.core.config.send_timeout);
            }
        }
    }

    /// Adds what waits and fits; returns what came after that.
    fn gather(
        &self,
        batch: &mut Vec<Outgoing>,
        accepted: &mut mpsc::Receiver<Outgoing>,
        fences: &Fences,
    ) -> Option<Outgoing> {
        if batch.iter().any(Outgoing::is_alone) {
            return None;
        }
        let mut size: usize = batch.iter().map(|one| batch_size(&one.message)).sum();
        while batch.len() < MOST {
            let Some(next) = fences.pass(accepted.try_recv().ok()?) else { continue };
            size += batch_size(&next.message);
            if next.is_alone() || size > self.core.batch_room() {
                return Some(next);
            }
            batch.push(next);
        }
        None
    }

    /// Sends and completes them; true when they may be stored although no confirmation came.
    async fn send(&self, batch: Vec<Outgoing>) -> bool {
        let Some(deadline) = batch.iter().map(|one| one.deadline).min() else { return false };
        let link = self.core.link(&self.queue.broker.address);
        if let [one] = batch.as_slice()
            && !one.publish.wants_confirm()
        {
            let command = sending::single(&self.topic, &self.queue, &one.message);
            let told = async { link.ready(deadline).await?.tell(command, deadline).await };
            let told = told.await.map(|()| Receipt::default());
            for one in batch {
                one.complete(told.as_ref().map(Clone::clone).map_err(again));
            }
            return false;
        }
        let command = match batch.as_slice() {
            [one] => Ok(sending::single(&self.topic, &self.queue, &one.message)),
            several => {
                let messages: Vec<&Encoded> = several.iter().map(|one| &one.message).collect();
                sending::several(&self.topic, &self.queue, &messages)
            }
        };
        let answer = match command {
            Ok(command) => sending::call(&link, &command, deadline).await,
            Err(cause) => Err(Failure::NotSent(cause)),
        };
        let stored = match answer {
            Ok(answer) => sending::stored(&answer),
            Err(failure) => Err(sending::failed(failure)),
        };
        if let Err(cause) = &stored
            && cause.kind() == ErrorKind::NotFound
        {
            self.gone.store(true, std::sync::atomic::Ordering::Release);
            self.core.forget_route(&self.topic);
        }
        for (index, one) in (0i64..).zip(batch) {
            let due = one.due;
            one.complete(match (&stored, due) {
                // Until it is due it stands elsewhere.
                (Ok(_), Some(due)) => Ok(Receipt::default().due(due, false)),
                (Ok(first), None) => Ok(Receipt::at(sending::position(&self.queue, first.saturating_add(index)))),
                (Err(cause), _) => Err(again(cause)),
            });
        }
        stored.is_err_and(|cause| cause.is_ambiguous())
    }
}

/// Keys of which a send ended without an answer. What was accepted of them before the sender could know must not
/// overtake it; what is accepted later is the sender's own decision.
#[derive(Debug, Default)]
struct Fences(HashMap<Bytes, Instant>);

impl Fences {
    fn raise(&mut self, keys: Vec<Bytes>, send_timeout: Duration) {
        let now = Instant::now();
        // Nothing that was accepted before waits longer than that.
        self.0.retain(|_, raised| now.duration_since(*raised) <= send_timeout);
        self.0.extend(keys.into_iter().map(|key| (key, now)));
    }

    /// The message, unless it is fenced; then it is completed.
    fn pass(&self, one: Outgoing) -> Option<Outgoing> {
        let fenced = one.key().and_then(|key| self.0.get(&key)).is_some_and(|raised| one.accepted <= *raised);
        if !fenced {
            return Some(one);
        }
        let why = "an earlier send of the same key ended without an answer: this one must not overtake it";
        one.complete(Err(
            error(ErrorKind::Fenced, why).with_hint("send the earlier one again under its id, then this one")
        ));
        None
    }
}
