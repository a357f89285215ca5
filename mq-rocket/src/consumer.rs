//! Receiving.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::join_all;
use mq_core::driver::{ConsumerDriver, ConsumerSpec, Event, SettlerDriver};
use mq_core::error::{Error, Result};
use mq_core::message::MessageId;
use mq_core::name::Group;
use mq_core::subscription::{GroupMode, StartFrom};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::Core;
use crate::gaps::Gaps;
use crate::leases;
use crate::names;
use crate::reader::Reader;
use crate::remoting::Link;
use crate::session::Session;
use crate::settler::RocketSettler;
use crate::source::Source;
use crate::topology::{self, Place};

/// Reads topics as a group.
pub(crate) struct RocketConsumer {
    core: Arc<Core>,
    session: Arc<Session>,
    links: Vec<Arc<Link>>,
    readers: JoinSet<()>,
    keeper: tokio::task::JoinHandle<()>,
    auto_ack: bool,
    /// A group of this consumer's own, deleted with it.
    own: Vec<Place>,
}

impl RocketConsumer {
    /// Declares or verifies what the group needs, and subscribes.
    pub(crate) async fn open(
        core: Arc<Core>,
        spec: &ConsumerSpec,
    ) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let subscription = &spec.subscription;
        subscription.check()?;
        topology::check_selector(subscription.selector())?;
        let deadline = core.deadline();
        let ordered = subscription.group_mode() == GroupMode::Ordered;
        let broadcast = subscription.group().is_none();
        let group = match subscription.group() {
            Some(group) => group.clone(),
            None => Group::parse(format!("mq-broadcast-{}", MessageId::generate(SystemTime::now())))?,
        };
        let start = if broadcast { &StartFrom::Latest } else { subscription.start_from() };
        let (mut sources, mut own) = (Vec::new(), Vec::new());
        for topic in subscription.topics() {
            let place = Place::new(topic, &group)?;
            if broadcast {
                own.push(place.clone());
                topology::declare(&core, &place, start, ordered, deadline).await?;
            } else {
                topology::prepare(&core, &place, start, ordered, deadline).await?;
            }
            sources.extend(Source::of_group(topic, &group)?);
        }
        let sources: Arc<[Source]> = sources.into();
        let session = Session::new(spec.prefetch.saturating_add(spec.parking).max(1));
        let settler = RocketSettler::new(Arc::clone(&core), Arc::clone(&session), Arc::clone(&sources), spec.auto_ack);
        let keeper = tokio::spawn(leases::keep(Arc::clone(&core), Arc::clone(&session)));
        let mut consumer =
            Self { core, session, links: Vec::new(), readers: JoinSet::new(), keeper, auto_ack: spec.auto_ack, own };
        consumer.subscribe(&sources, &names::group(&group).into(), ordered, deadline).await?;
        Ok((Box::new(consumer), Arc::new(settler)))
    }

    async fn subscribe(
        &mut self,
        sources: &Arc<[Source]>,
        group: &Arc<str>,
        ordered: bool,
        deadline: Instant,
    ) -> Result<()> {
        let mut readers = Vec::new();
        for (lane, source) in (0u32..).zip(sources.iter()) {
            let route = self.core.route(&source.from, deadline).await?;
            for node in &route.nodes {
                let link = match self.links.iter().find(|link| link.address() == node.address) {
                    Some(link) => Arc::clone(link),
                    None => {
                        let link = Arc::new(Link::new(&node.address, &self.core.access));
                        link.ready(deadline).await?;
                        self.links.push(Arc::clone(&link));
                        link
                    }
                };
                // In order, one answer should hold as much as possible of its queue: what does not fit waits until the
                // rest is settled.
                let queues: Vec<Option<u32>> = match ordered {
                    true => route
                        .readable
                        .iter()
                        .filter(|queue| queue.broker == *node)
                        .map(|queue| Some(queue.id))
                        .collect(),
                    false => vec![None],
                };
                readers.extend(queues.into_iter().map(|queue| Reader {
                    core: Arc::clone(&self.core),
                    session: Arc::clone(&self.session),
                    link: Arc::clone(&link),
                    node: Arc::clone(node),
                    sources: Arc::clone(sources),
                    lane,
                    group: Arc::clone(group),
                    ordered,
                    queue,
                    gaps: queue.map(|queue| Arc::new(Gaps::new(node, group, &source.from, queue))),
                    readers: 1,
                }));
            }
        }
        let count = readers.len();
        for reader in readers {
            self.readers.spawn(Reader { readers: count, ..reader }.run());
        }
        Ok(())
    }

    /// Acknowledges before anybody sees them: at most once. What cannot be acknowledged comes again.
    async fn acknowledge(&self, incoming: Vec<mq_core::driver::Incoming>, events: &mut Vec<Event>) {
        let acks = incoming.iter().map(|incoming| async {
            let held = self.session.held(incoming.token)?;
            let mut lease = held.lease.lock().await;
            let acked = lease.stands() && leases::ack(&self.core, &lease).await.unwrap_or(false);
            lease.settled = true;
            self.session.forget(incoming.token.major);
            acked.then_some(())
        });
        let acked = join_all(acks).await;
        let kept = incoming.into_iter().zip(acked).filter(|(_, acked)| acked.is_some());
        events.extend(kept.map(|(incoming, _)| Event::Message(incoming)));
    }

    /// What is not settled goes back.
    async fn release(&self) {
        join_all(self.session.all().into_iter().map(|(number, held)| async move {
            let mut lease = held.lease.lock().await;
            if lease.stands()
                && let Err(cause) = leases::give_back(&self.core, &mut lease).await
            {
                // It comes back when its lease ends.
                tracing::debug!(%cause, "a delivery was not given back");
            }
            lease.settled = true;
            self.session.forget(number);
        }))
        .await;
    }
}

#[async_trait]
impl ConsumerDriver for RocketConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(why) = self.session.take_lapse() {
                events.push(Event::Disconnected(why));
                events.push(Event::Reconnected);
                return Ok(());
            }
            let max = if self.session.is_paused() { 0 } else { max };
            // Not taken out before there is nothing left to wait for: this call may be cancelled at any await.
            let incoming = self.session.hand_out(max)?;
            if !incoming.is_empty() {
                if self.auto_ack {
                    self.acknowledge(incoming, events).await;
                } else {
                    events.extend(incoming.into_iter().map(Event::Message));
                }
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, self.session.arrived.notified()).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        self.session.pause(paused);
        if !paused {
            self.session.arrived.notify_one();
        }
        Ok(())
    }

    async fn revoked(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        self.session.begin_close();
        // What the broker hands out now comes first: it goes back with the rest.
        let _ = tokio::time::timeout_at(until, self.session.answered()).await;
        // Only questions that wait for messages are left, and those take none.
        for link in &self.links {
            link.close();
        }
        let ended = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout_at(until, ended).await;
        let _ = tokio::time::timeout_at(until, self.release()).await;
        for place in &self.own {
            if let Err(cause) = topology::delete(&self.core, place, until.min(self.core.deadline())).await {
                tracing::debug!(%cause, "a group of a consumer's own was not deleted");
            }
        }
        Ok(())
    }
}

impl Drop for RocketConsumer {
    fn drop(&mut self) {
        self.session.begin_close();
        self.keeper.abort();
        for link in &self.links {
            link.close();
        }
    }
}

impl fmt::Debug for RocketConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocketConsumer").field("auto_ack", &self.auto_ack).finish_non_exhaustive()
    }
}
