//! Receiving: opening, polling, leaving. The session itself runs in a task of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Feature;
use mq_core::config::Topology;
use mq_core::driver::{ConsumerDriver, ConsumerSpec, Event, GroupSpec, Incoming, SettlerDriver};
use mq_core::error::{Error, Result};
use mq_core::subscription::{Selector, StartFrom};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::error::{BACKEND, about, checked};
use crate::state::{INBOX, Lane, Shared};
use crate::{abandoned, groups, script, session, settler, wire};

/// Sleeps are cut into pieces of this length, so that no time of day is too far for a timer.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(crate) struct RedisConsumer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    /// Being acknowledged before they are handed out.
    acking: VecDeque<Incoming>,
    closed: bool,
}

impl RedisConsumer {
    pub(crate) async fn open(
        core: Arc<Core>,
        spec: ConsumerSpec,
    ) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let subscription = &spec.subscription;
        subscription.check()?;
        if let Some(selector) = subscription.selector() {
            let feature = match selector {
                Selector::Headers { .. } => Feature::RoutingHeaders,
                _ => Feature::RoutingPattern,
            };
            return Err(Error::unsupported(feature, BACKEND, "choose messages in the handler"));
        }
        let ephemeral = subscription.group().is_none();
        let group = match subscription.group() {
            Some(group) => group.clone(),
            None => abandoned::name()?,
        };
        let start = match (ephemeral, subscription.start_from()) {
            (true, StartFrom::SinceDeclared) => StartFrom::Latest,
            (_, start) => start.clone(),
        };
        let mut lanes: Vec<Lane> = Vec::new();
        for topic in subscription.topics() {
            if lanes.iter().any(|lane| lane.topic == *topic) {
                continue;
            }
            let count = core.require_topic(topic).await.map_err(|cause| about(cause, topic))?;
            let mut wanted = GroupSpec::new(topic.clone(), group.clone());
            wanted.start = start.clone();
            wanted.mode = subscription.group_mode();
            match core.config.topology {
                Topology::Declare => groups::declare(&core, &wanted, !ephemeral).await?,
                _ if ephemeral => groups::declare(&core, &wanted, false).await?,
                Topology::Verify => groups::require(&core, topic, &group).await.map(drop)?,
                Topology::Off => {}
            }
            let lane = |partition| Lane { topic: topic.clone(), partition, keys: core.keys(topic, partition) };
            lanes.extend((0..count).map(lane));
        }
        let shared = Arc::new(Shared::new(core, &spec, group, lanes));
        // The first session begins here, so that what is wrong is told at once.
        let session = session::join(&shared, None).await?;
        shared.core.register(&shared);
        let task = tokio::spawn(session::run(Arc::clone(&shared), session));
        let settler = Arc::new(settler::RedisSettler { shared: Arc::clone(&shared) });
        Ok((Box::new(Self { shared, task, acking: VecDeque::new(), closed: false }), settler))
    }

    /// Acknowledges what is to be handed out. Cancelled: the next call goes on.
    async fn acknowledge(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let shared = &self.shared;
        let group = shared.group.as_str();
        let mut commands = redis::pipe();
        for incoming in &self.acking {
            let Some(lane) = shared.lane(incoming.token.lane) else { continue };
            let inbox = incoming.token.minor & INBOX != 0;
            let keys = &lane.keys;
            let names =
                [lane.stream(group, inbox), keys.attempts(group, inbox), keys.members(group), keys.owner(group)];
            let names = [&*names[0], &*names[1], &*names[2], &*names[3]];
            let mut command = script::call(&script::ACK, &names);
            let member = shared.lock().member.clone();
            command.arg(member).arg(group).arg(u8::from(shared.ordered)).arg(1);
            command.arg(wire::entry_id(incoming.token).to_string());
            commands.add_command(command);
        }
        let answers = shared.core.asking.ask_many(&commands, shared.core.limit()).await;
        let Ok(answers) = answers else {
            // The session ends; what was not acknowledged comes again.
            self.acking.clear();
            return Ok(());
        };
        for answer in answers {
            let Some(incoming) = self.acking.pop_front() else { break };
            shared.lock().settled(incoming.token);
            if checked(answer).is_ok_and(|answer| crate::reply::number(&answer) == Some(1)) {
                events.push(Event::Message(incoming));
            }
        }
        shared.room.notify_one();
        Ok(())
    }
}

#[async_trait]
impl ConsumerDriver for RedisConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + wait.min(LONGEST_SLEEP);
        let before = events.len();
        loop {
            let shared = Arc::clone(&self.shared);
            let news = shared.news.notified();
            {
                let mut state = shared.lock();
                events.extend(state.events.drain(..));
                if events.len() == before
                    && let Some(failed) = state.failed.as_ref()
                {
                    return Err(crate::error::copy(failed));
                }
                if state.ended && events.len() == before {
                    return Err(Error::closed("consumer").with_backend(BACKEND));
                }
                let count = if state.paused { 0 } else { max.min(state.buffer.len()) };
                if shared.auto_ack {
                    let count = count.saturating_sub(self.acking.len());
                    self.acking.extend(state.buffer.drain(..count.min(max)));
                } else {
                    events.extend(state.buffer.drain(..count).map(Event::Message));
                }
            }
            if !self.acking.is_empty() {
                self.acknowledge(events).await?;
            }
            if events.len() > before {
                return Ok(());
            }
            if Instant::now() >= deadline || timeout_at(deadline, news).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        self.shared.lock().paused = paused;
        self.shared.room.notify_one();
        self.shared.look.notify_one();
        self.shared.news.notify_one();
        Ok(())
    }

    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        for lane in &mut self.shared.lock().lanes {
            if let Some((number, _, drained)) = &mut lane.revoking
                && *number == revocation
            {
                *drained = true;
            }
        }
        self.shared.look.notify_one();
        Ok(())
    }

    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        self.closed = true;
        self.shared.stop.notify_one();
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            self.task.abort();
            self.shared.core.unregister(self.shared.number);
            return Err(Error::timeout(deadline).with_backend(BACKEND).with_operation("close consumer"));
        }
        Ok(())
    }
}

/// Dropped without being closed: as if its process had died, but noticed at once.
impl Drop for RedisConsumer {
    fn drop(&mut self) {
        if !self.closed {
            self.shared.lock().dropped = true;
            self.shared.stop.notify_one();
        }
    }
}
