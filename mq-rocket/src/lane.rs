//! One queue of a topic, written to by one task with one request under way.
//!
//! The broker stores what it receives on several threads: two requests under way for one queue may be stored in the
//! other order. What waits meanwhile goes together in the next request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mq_core::driver::{Publish, Receipt};
use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{again, error};
use crate::lanes::Lanes;
use crate::remoting::Failure;
use crate::route::Queue;
use crate::sending::{self, batch_size};
use crate::wire::Encoded;

/// The most messages in one request.
const MOST: usize = 256;
/// Between two attempts at a broker, while another could take what has no key.
const PAUSE: Duration = Duration::from_millis(50);

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) publish: Publish,
    pub(crate) message: Encoded,
    pub(crate) due: Option<SystemTime>,
    pub(crate) accepted: Instant,
    pub(crate) deadline: Instant,
    /// How many brokers have refused it.
    pub(crate) refusals: usize,
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
    core: Arc<Core>,
    topic: Arc<str>,
    queue: Queue,
    /// The other lanes of the topic, as long as somebody sends.
    lanes: Weak<Lanes>,
}

/// What became of a request.
enum Outcome {
    /// All are completed.
    Done,
    /// All are completed, and may be stored although no confirmation came.
    Unknown,
    /// These are still to be sent; nothing of them is stored.
    Kept(Vec<Outgoing>),
}

impl Lane {
    pub(crate) fn new(core: Arc<Core>, topic: Arc<str>, queue: Queue, lanes: Weak<Lanes>) -> Self {
        Self { core, topic, queue, lanes }
    }

    /// Runs until nobody can send any more and everything accepted is completed.
    pub(crate) async fn run(self, mut accepted: mpsc::Receiver<Outgoing>) {
        let mut waiting = VecDeque::new();
        let mut fences = Fences::default();
        loop {
            if waiting.is_empty() {
                match accepted.recv().await {
                    Some(first) => waiting.push_back(first),
                    None => return,
                }
            }
            let batch = self.gather(&mut waiting, &mut accepted, &fences);
            if batch.is_empty() {
                continue;
            }
            let keys: Vec<Bytes> = batch.iter().filter_map(Outgoing::key).collect();
            match self.send(batch).await {
                Outcome::Done => {}
                Outcome::Unknown => fences.raise(keys, self.core.config.send_timeout),
                Outcome::Kept(kept) => {
                    for one in kept.into_iter().rev() {
                        waiting.push_front(one);
                    }
                    // What came meanwhile need not wait as well.
                    while let Ok(next) = accepted.try_recv() {
                        waiting.push_back(next);
                    }
                    waiting = waiting.into_iter().filter_map(|one| self.elsewhere(one)).collect();
                }
            }
        }
    }

    /// Takes what waits and fits into one request.
    fn gather(
        &self,
        waiting: &mut VecDeque<Outgoing>,
        accepted: &mut mpsc::Receiver<Outgoing>,
        fences: &Fences,
    ) -> Vec<Outgoing> {
        let mut batch: Vec<Outgoing> = Vec::new();
        let mut size = 0;
        while batch.len() < MOST
            && let Some(next) = waiting.pop_front().or_else(|| accepted.try_recv().ok())
        {
            let Some(next) = fences.pass(next) else { continue };
            let alone = next.is_alone();
            size += batch_size(&next.message);
            if !batch.is_empty() && (alone || size > self.core.batch_room()) {
                waiting.push_front(next);
                break;
            }
            batch.push(next);
            if alone {
                break;
            }
        }
        batch
    }

    /// How many brokers could take a message without a key.
    fn brokers(&self) -> usize {
        self.lanes.upgrade().map_or(1, |lanes| lanes.brokers())
    }

    /// Sends them, once; completes those whose outcome is known, or cannot be known.
    async fn send(&self, batch: Vec<Outgoing>) -> Outcome {
        let Some(deadline) = batch.iter().map(|one| one.deadline).min() else { return Outcome::Done };
        let began = Instant::now();
        let brokers = self.brokers();
        let reach = Core::reach(deadline, brokers > 1);
        let link = self.core.link(&self.queue.broker);
        if let [one] = batch.as_slice()
            && !one.publish.wants_confirm()
        {
            let command = sending::single(&self.topic, &self.queue, &one.message);
            let told = async { link.ready(reach).await?.tell(command, deadline).await };
            return match told.await {
                Err(cause) if brokers > 1 && cause.is_transient() => self.keep(batch, &cause, began).await,
                told => {
                    let told = told.map(|()| Receipt::default());
                    for one in batch {
                        one.complete(told.as_ref().map(Clone::clone).map_err(again));
                    }
                    Outcome::Done
                }
            };
        }
        let command = match batch.as_slice() {
            [one] => Ok(sending::single(&self.topic, &self.queue, &one.message)),
            several => {
                let messages: Vec<&Encoded> = several.iter().map(|one| &one.message).collect();
                sending::several(&self.topic, &self.queue, &messages)
            }
        };
        let answer = match command {
            Ok(command) => sending::call(&link, &command, reach, deadline).await,
            Err(cause) => Err(Failure::NotSent(cause)),
        };
        let stored = match answer {
            Ok(answer) if brokers > 1 && sending::is_busy(&answer) => {
                return self.keep(batch, &answer.refusal(), began).await;
            }
            Ok(answer) => sending::stored(&answer),
            Err(Failure::NotSent(cause)) if brokers > 1 && cause.is_transient() => {
                return self.keep(batch, &cause, began).await;
            }
            Err(failure) => Err(sending::failed(failure)),
        };
        let Err(cause) = stored else {
            self.complete(batch, &stored);
            return Outcome::Done;
        };
        let ambiguous = cause.is_ambiguous();
        if ambiguous && brokers > 1 {
            self.core.away.add(&self.queue.broker);
        }
        let refused = if sending::is_elsewhere(&cause) { self.hop(batch, brokers) } else { batch };
        if cause.kind() == ErrorKind::NotFound {
            if let Some(lanes) = self.lanes.upgrade() {
                lanes.set_gone();
            }
            self.core.routes.remove(&self.topic);
        }
        self.complete(refused, &Err(cause));
        if ambiguous { Outcome::Unknown } else { Outcome::Done }
    }

    /// The broker cannot be reached, or takes nothing now. What has time left is tried again: messages without a key
    /// at another broker, those with one here.
    async fn keep(&self, batch: Vec<Outgoing>, cause: &Error, began: Instant) -> Outcome {
        self.core.away.add(&self.queue.broker);
        let now = Instant::now();
        let (late, kept): (Vec<_>, Vec<_>) = batch.into_iter().partition(|one| one.deadline <= now + PAUSE);
        for one in late {
            one.complete(Err(again(cause)));
        }
        let kept: Vec<_> = kept.into_iter().filter_map(|one| self.elsewhere(one)).collect();
        // A connection that ends as soon as it stands is not made anew without a pause.
        tokio::time::sleep_until(began + PAUSE).await;
        Outcome::Kept(kept)
    }

    /// Hands a message to a lane of another broker; returns one that must stay.
    fn elsewhere(&self, one: Outgoing) -> Option<Outgoing> {
        if one.key().is_some() {
            return Some(one);
        }
        let Some(other) = self.lanes.upgrade().and_then(|lanes| lanes.other_than(&self.queue.broker)) else {
            return Some(one);
        };
        other.try_send(one).err().map(mpsc::error::TrySendError::into_inner)
    }

    /// This broker refuses what another may take. Each is asked once; returns those that none is left for.
    fn hop(&self, batch: Vec<Outgoing>, brokers: usize) -> Vec<Outgoing> {
        let mut left = Vec::new();
        for mut one in batch {
            one.refusals += 1;
            if one.refusals < brokers {
                left.extend(self.elsewhere(one));
            } else {
                left.push(one);
            }
        }
        left
    }

    fn complete(&self, batch: Vec<Outgoing>, stored: &Result<i64>) {
        for (index, one) in (0i64..).zip(batch) {
            let due = one.due;
            one.complete(match (stored, due) {
                // Until it is due it stands elsewhere.
                (Ok(_), Some(due)) => Ok(Receipt::default().due(due, false)),
                (Ok(first), None) => Ok(Receipt::at(sending::position(&self.queue, first.saturating_add(index)))),
                (Err(cause), _) => Err(again(cause)),
            });
        }
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
