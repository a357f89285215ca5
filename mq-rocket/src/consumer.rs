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
use tokio::time::Instant;

use crate::core::Core;
use crate::leases;
use crate::names;
use crate::readers::Readers;
use crate::session::Session;
use crate::settler::RocketSettler;
use crate::source::Source;
use crate::topology::{self, Place};

/// Reads topics as a group.
pub(crate) struct RocketConsumer {
    core: Arc<Core>,
    session: Arc<Session>,
    readers: Arc<Readers>,
    watch: tokio::task::JoinHandle<()>,
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
        let (mut sources, mut own, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for topic in subscription.topics() {
            let place = Place::new(topic, &group)?;
            if broadcast {
                own.push(place.clone());
                topology::declare(&core, &place, start, ordered, deadline).await.map(drop)?;
            } else {
                topology::prepare(&core, &place, start, ordered, deadline).await?;
            }
            places.push(place);
            sources.extend(Source::of_group(topic, &group)?);
        }
        let sources: Arc<[Source]> = sources.into();
        let session = Session::new(spec.prefetch.saturating_add(spec.parking).max(1));
        let settler = RocketSettler::new(Arc::clone(&core), Arc::clone(&session), Arc::clone(&sources), spec.auto_ack);
        let group = names::group(&group).into();
        let readers = Readers::new(&core, &session, &sources, places, group, ordered, start);
        let opened = readers.open(deadline).await?;
        let watch = tokio::spawn(Arc::clone(&readers).watch(opened));
        let keeper = tokio::spawn(leases::keep(Arc::clone(&core), Arc::clone(&session)));
        let consumer = Self { core, session, readers, watch, keeper, auto_ack: spec.auto_ack, own };
        Ok((Box::new(consumer), Arc::new(settler)))
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
        self.readers.close();
        self.watch.abort();
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
        self.watch.abort();
        self.readers.close();
    }
}

impl fmt::Debug for RocketConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocketConsumer").field("auto_ack", &self.auto_ack).finish_non_exhaustive()
    }
}
