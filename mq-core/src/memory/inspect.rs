//! Looking inside, for tests.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::dead_letter::DeadLetter;
use crate::driver::{Lag, Settle, TopicSpec};
use crate::error::{Error, Result};
use crate::memory::NAME;
use crate::memory::broker::MemoryBroker;
use crate::memory::state::State;
use crate::message::{Message, Position};
use crate::name::{Group, Topic};

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SettledHow {
    /// Acknowledged.
    Ack,
    /// Given back for redelivery.
    Requeue,
    /// Given back without blame.
    Release,
    /// Put off to a later attempt, in the broker.
    Retry,
    /// Put off to a later attempt, held by the consumer.
    Hold,
    /// Set aside.
    DeadLetter,
    /// Its lease was extended.
    Extend,
}

impl SettledHow {
    pub(crate) fn of(action: &Settle) -> Self {
        match action {
            Settle::Ack => Self::Ack,
            Settle::Requeue => Self::Requeue,
            Settle::Release => Self::Release,
            Settle::Retry(_) => Self::Retry,
            Settle::Hold(_) => Self::Hold,
            Settle::DeadLetter(_) => Self::DeadLetter,
            Settle::Extend(_) => Self::Extend,
        }
    }
}

/// No single sleep is longer, so that no time of day is too far for a timer.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A settlement, in the order they happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SettledDelivery {
    /// Where the message stands in its topic; for retries and redriven messages, where it stood first.
    pub position: Position,
    /// The attempt that was settled; after a hold, the one to come.
    pub attempt: u32,
    /// How it was settled.
    pub how: SettledHow,
    /// The message, while the topic still keeps it.
    pub message: Option<Message>,
}

impl MemoryBroker {
    /// Declares a topic, as `mq topic create` would; for tests that have no runtime at hand.
    ///
    /// # Errors
    /// As [`AdminDriver::declare_topic`](crate::driver::AdminDriver::declare_topic).
    pub fn declare_topic<T>(&self, topic: T) -> Result<()>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let spec = TopicSpec::new(topic.try_into()?);
        self.server.lock().declare_topic(&spec).map(drop)
    }

    /// Every message of the topic that is still kept, in the order they were stored; delayed ones once they are due.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) for a topic that is not there.
    pub fn sent<T>(&self, topic: T) -> Result<Vec<Message>>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic = topic.try_into()?;
        let mut state = self.look();
        let (_, topic) = state.topic(&topic)?;
        let mut entries: Vec<_> = topic.log.iter().flat_map(|log| &log.entries).collect();
        entries.sort_by_key(|entry| entry.sequence);
        Ok(entries.into_iter().map(|entry| entry.message.clone()).collect())
    }

    /// How the group settled its deliveries, as far back as
    /// [`MemoryConfig::history`](super::MemoryConfig::history) reaches.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) for a topic or group that is not there.
    pub fn settled<T, G>(&self, topic: T, group: G) -> Result<Vec<SettledDelivery>>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
        G: TryInto<Group>,
        Error: From<G::Error>,
    {
        let (topic, group) = (topic.try_into()?, group.try_into()?);
        let mut state = self.look();
        let (_, topic, id) = state.group(&topic, &group)?;
        let notes = topic.groups.get(&id).into_iter().flat_map(|group| &group.notes);
        Ok(notes
            .map(|note| SettledDelivery {
                position: Position::Log {
                    partition: note.partition,
                    offset: i64::try_from(note.offset).unwrap_or(i64::MAX),
                },
                attempt: note.attempt,
                how: note.how,
                message: topic
                    .log
                    .get(note.partition as usize)
                    .and_then(|log| log.get(note.offset))
                    .map(|entry| entry.message.clone()),
            })
            .collect())
    }

    /// The dead letters of the group, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) for a topic or group that is not there.
    pub fn dead_letters<T, G>(&self, topic: T, group: G) -> Result<Vec<DeadLetter>>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
        G: TryInto<Group>,
        Error: From<G::Error>,
    {
        let (topic, group) = (topic.try_into()?, group.try_into()?);
        self.look().dead_letters(&topic, &group, usize::MAX)
    }

    /// What the group has still to do: waiting, in flight, waiting for a retry, dead.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) for a topic or group that is not there.
    pub fn backlog<T, G>(&self, topic: T, group: G) -> Result<Lag>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
        G: TryInto<Group>,
        Error: From<G::Error>,
    {
        let (topic, group) = (topic.try_into()?, group.try_into()?);
        self.look().lag(&topic, &group)
    }

    /// Waits until `condition` holds, looking again whenever something was sent, delivered, settled or declared,
    /// or is due; at most `deadline` by tokio's clock. Cancel safe.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::error::ErrorKind::Timeout).
    pub async fn until(&self, deadline: Duration, mut condition: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now().checked_add(deadline);
        let listener = self.server.changed.listen();
        loop {
            let ring = listener.next_ring();
            if condition(self) {
                return Ok(());
            }
            // Something may become due that nobody polls for.
            let due = self.server.lock().next_due().map(|due| Instant::now() + self.server.clock.until(due).min(DAY));
            let Some(wake) = due.into_iter().chain(end).min() else {
                ring.await;
                continue;
            };
            let rung = timeout_at(wake, ring).await.is_ok();
            if !rung && end == Some(wake) {
                return Err(Error::timeout(deadline).with_backend(NAME).with_operation("wait for a condition"));
            }
        }
    }

    /// Waits until the group has nothing left to do but dead letters: nothing waits, nothing is in flight, no retry is
    /// outstanding.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) for a topic or group that is not there,
    /// [`ErrorKind::Timeout`](crate::error::ErrorKind::Timeout).
    pub async fn until_idle<T, G>(&self, topic: T, group: G, deadline: Duration) -> Result<()>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
        G: TryInto<Group>,
        Error: From<G::Error>,
    {
        let (topic, group) = (topic.try_into()?, group.try_into()?);
        self.backlog(&topic, &group)?;
        let idle = |lag: Lag| lag.ready == 0 && lag.unsettled == Some(0) && lag.retrying == Some(0);
        self.until(deadline, |broker| broker.backlog(&topic, &group).is_ok_and(idle)).await
    }

    fn look(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.server.lock();
        state.advance_all();
        state
    }
}
