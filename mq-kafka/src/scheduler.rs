//! Moves delayed messages: from tier to tier, and to their topics when they are due.
//!
//! A message waits in a topic whose messages all wait equally long, so that what came first is looked at first. When its
//! look is due it goes to its own topic, or to the tier for what is left. Never early; late by the tier below 200 ms.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::driver::{
    ConsumerDriver, ConsumerSpec, Event, Incoming, SchedulerDriver, Settle, Settlement, SettlerDriver, Token,
};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Headers, Message, Position, control};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::broker::Opener;
use crate::encode::{plain, with_control};
use crate::error::fault;
use crate::lane::{Kind, Source};
use crate::link::Link;
use crate::names;
use crate::outgoing::Outgoing;

/// When a waiting message is looked at again, in milliseconds since the Unix epoch.
pub(crate) const LOOK: &str = "mq-look-ms";
const POLL: Duration = Duration::from_millis(500);
const POLL_BUSY: Duration = Duration::from_millis(2);
/// Messages under way at once.
const WINDOW: usize = 500;

/// When a message that is due at `due` and goes to `tier` is looked at.
pub(crate) fn look_at(due: SystemTime, tier: u64) -> SystemTime {
    if tier == 0 { due } else { due.min(SystemTime::now() + Duration::from_millis(tier)) }
}

type Moving = (Incoming, oneshot::Receiver<Result<Position>>);

/// Runs in any process of the SDK; several share the tiers.
pub(crate) struct KafkaScheduler {
    opener: Opener,
    link: Arc<Link>,
    consumer: Option<Box<dyn ConsumerDriver>>,
    settler: Option<Arc<dyn SettlerDriver>>,
    events: Vec<Event>,
    /// Handed over and not yet confirmed; kept here, so that a cancelled call loses none.
    moving: VecDeque<Moving>,
}

impl KafkaScheduler {
    pub(crate) fn new(opener: Opener, link: Arc<Link>) -> Self {
        Self { opener, link, consumer: None, settler: None, events: Vec::new(), moving: VecDeque::new() }
    }

    async fn open(&mut self) -> Result<()> {
        if self.consumer.is_some() {
            return Ok(());
        }
        self.link.connected().await?;
        self.opener.topology.prepare_delays().await?;
        let topic = Topic::parse(names::delay_tier(0))?;
        let sources: Vec<Source> = names::DELAY_TIERS
            .iter()
            .map(|tier| Source { topic: topic.clone(), name: names::delay_tier(*tier), kind: Kind::Delay })
            .collect();
        let group = Group::parse(names::SCHEDULER_GROUP)?;
        let spec = ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(WINDOW));
        let opened = self.opener.open_group(group.as_str(), &group, &sources, &spec, Arc::default())?;
        let (consumer, settler): (Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>) =
            (Box::new(opened.0), Arc::new(opened.1));
        (self.consumer, self.settler) = (Some(consumer), Some(settler));
        Ok(())
    }

    /// Starts moving everything received.
    async fn start(&mut self) {
        while let Some(event) = self.events.pop() {
            let Event::Message(incoming) = event else { continue };
            let (message, target) = target(&incoming.message);
            self.hand_over(incoming, &message, target).await;
        }
    }

    /// Settles what is confirmed by now; waits for nothing, so that one slow topic delays no other.
    async fn finish(&mut self) -> u64 {
        let mut moved = 0;
        for _ in 0..self.moving.len() {
            let Some((incoming, mut receiver)) = self.moving.pop_front() else { break };
            let result = match receiver.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) => {
                    self.moving.push_back((incoming, receiver));
                    continue;
                }
                Err(TryRecvError::Closed) => Err(fault(ErrorKind::Internal, "the report was lost").ambiguous()),
            };
            match result {
                Ok(_) => {
                    moved += 1;
                    settle(self.settler.clone(), incoming.token, Settle::Ack).await;
                }
                // Its topic is gone, say: set aside whole, or it would be tried for ever.
                Err(error) if is_hopeless(&error) => {
                    let error = error.to_string();
                    tracing::error!(%error, "a delayed message cannot be moved; it is kept in `mq--delay--lost`");
                    let message = incoming.message.clone();
                    self.hand_over(incoming, &message, Target { name: names::lost(), headers: plain(&message) }).await;
                }
                Err(error) => give_back(self.settler.clone(), incoming, &error).await,
            }
        }
        moved
    }

    async fn hand_over(&mut self, incoming: Incoming, message: &Message, target: Target) {
        let record = Outgoing {
            topic: &target.name,
            key: message.key_bytes().map(|key| &**key),
            body: message.body_bytes().map(|body| &**body),
            headers: target.headers,
        };
        match self.link.start(&record).await {
            Ok(receiver) => self.moving.push_back((incoming, receiver)),
            Err(error) => give_back(self.settler.clone(), incoming, &error).await,
        }
    }
}

/// Trying again gives the same answer.
fn is_hopeless(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::TooLarge | ErrorKind::Rejected | ErrorKind::Config)
}

async fn give_back(settler: Option<Arc<dyn SettlerDriver>>, incoming: Incoming, error: &Error) {
    tracing::warn!(%error, "a delayed message could not be moved; it is tried again");
    settle(settler, incoming.token, Settle::Requeue).await;
}

/// Neither action publishes, so the only other outcome is stale: then another scheduler has the message.
async fn settle(settler: Option<Arc<dyn SettlerDriver>>, token: Token, action: Settle) {
    if let Some(settler) = settler {
        let _ = settler.settle(&mut vec![Settlement { token, action }]).await;
    }
}

/// Where a message goes now, and as what.
struct Target {
    name: String,
    headers: Option<rdkafka::message::OwnedHeaders>,
}

fn target(message: &Message) -> (Message, Target) {
    let headers = message.headers();
    let origin = control::text(headers, control::ORIGIN).and_then(|origin| Topic::parse(origin).ok());
    let group = control::text(headers, control::GROUP).and_then(|group| Group::parse(group).ok());
    let due = control::millis(headers, control::DUE).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut kept = message.clone();
    control::strip(kept.headers_mut());
    // Written by hand by somebody else: nobody knows where it belongs. It must not stop the others.
    let Some(origin) = origin else {
        tracing::error!("a delayed message names no topic; it is kept in the topic `mq--delay--lost`");
        let name = names::lost();
        let headers = plain(message);
        return (message.clone(), Target { name, headers });
    };
    let now = SystemTime::now();
    let target = match due.duration_since(now) {
        Ok(left) if !left.is_zero() => {
            let tier = names::tier_for(left);
            let mut patch = Headers::with_capacity(4);
            patch.append(control::ORIGIN, origin.text().clone().into_bytes());
            patch.append(control::DUE, control::from_time(due));
            patch.append(LOOK, control::from_time(look_at(due, tier)));
            if let Some(group) = &group {
                patch.append(control::GROUP, group.as_str().to_owned());
            }
            Target { name: names::delay_tier(tier), headers: Some(with_control(&kept, kept.message_id(), &patch)) }
        }
        _ => match &group {
            None => Target { name: origin.name().to_owned(), headers: plain(&kept) },
            Some(group) => {
                let mut patch = Headers::with_capacity(2);
                patch.append(control::GROUP, group.as_str().to_owned());
                patch.append(control::ORIGIN, origin.text().clone().into_bytes());
                let headers = Some(with_control(&kept, kept.message_id(), &patch));
                Target { name: names::inbox(&origin, group), headers }
            }
        },
    };
    (kept, target)
}

#[async_trait]
impl SchedulerDriver for KafkaScheduler {
    async fn run(&mut self, slice: Duration) -> Result<u64> {
        self.open().await?;
        let deadline = Instant::now() + slice;
        let mut moved = self.finish().await;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(moved);
            }
            if let Some(consumer) = &mut self.consumer {
                // While some are under way their reports are looked for often.
                let wait = if self.moving.is_empty() { POLL } else { POLL_BUSY };
                let room = WINDOW.saturating_sub(self.moving.len());
                consumer.poll(&mut self.events, room, left.min(wait)).await?;
            }
            // In the order received: the list is taken from its end.
            self.events.reverse();
            self.start().await;
            moved += self.finish().await;
        }
    }

    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline / 2;
        while !self.moving.is_empty() && Instant::now() < until {
            self.finish().await;
            tokio::time::sleep(POLL_BUSY).await;
        }
        match self.consumer.take() {
            Some(consumer) => consumer.close(deadline / 2).await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for KafkaScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaScheduler").field("moving", &self.moving.len()).finish_non_exhaustive()
    }
}
