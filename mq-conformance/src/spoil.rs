//! A driver around another one that spoils exactly one thing: to test the suite, and to stage what brokers do rarely.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::capability::Capabilities;
use mq_core::clock::Clock;
use mq_core::driver::{
    AdminDriver, BrokerDriver, CheckBack, ConsumerDriver, ConsumerSpec, DeadLetterDriver, Event, GroupInfo, GroupSpec,
    HalfDriver, Health, Lag, ProducerDriver, Publish, SchedulerDriver, SeekTo, Settled, Settlement, SettlerDriver,
    TopicInfo, TopicSpec, TopologyItem, in_flight,
};
use mq_core::error::{Error, Result};
use mq_core::message::Message;
use mq_core::name::{Group, Topic};

/// What is spoilt. Every method passes on unchanged by default.
#[async_trait]
pub trait Mischief: Send + Sync + fmt::Debug + 'static {
    /// What the adapter claims.
    fn capabilities(&self, honest: Capabilities) -> Capabilities {
        honest
    }
    /// Before a consumer is opened.
    fn opening(&self, _spec: &mut ConsumerSpec) {}
    /// Publishing.
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        to.publish(batch).await;
    }
    /// Half messages. `broker` is the sound driver, to do harm with.
    fn half(&self, honest: Arc<dyn HalfDriver>, _broker: &Arc<dyn BrokerDriver>) -> Arc<dyn HalfDriver> {
        honest
    }
    /// What is asked about half messages.
    fn check(&self, honest: Arc<dyn CheckBack>) -> Arc<dyn CheckBack> {
        honest
    }
    /// After a poll: what came is in `events` from `first` on.
    fn received(&self, _events: &mut Vec<Event>, _first: usize) {}
    /// Settling.
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        to.settle(batch).await
    }
    /// Pausing.
    async fn pause(&self, on: &mut dyn ConsumerDriver, paused: bool) -> Result<()> {
        on.pause(paused).await
    }
    /// Closing a consumer.
    async fn close(&self, consumer: Box<dyn ConsumerDriver>, deadline: Duration) -> Result<()> {
        consumer.close(deadline).await
    }
    /// The dead letters of a group.
    fn dead_letters(&self, honest: Box<dyn DeadLetterDriver>, _of: DeadLettersOf) -> Box<dyn DeadLetterDriver> {
        honest
    }
    /// How far a group is behind.
    fn lag(&self, honest: Lag) -> Lag {
        honest
    }
}

/// Whose dead letters, and a driver to do harm with.
#[derive(Debug)]
pub struct DeadLettersOf {
    /// The topic they failed on.
    pub topic: Topic,
    /// The sound driver.
    pub driver: Arc<dyn BrokerDriver>,
}

/// Publishes another message or at another time in the place of `original`, which gets the outcome.
pub async fn instead(to: &dyn ProducerDriver, original: Publish, message: Message, at: Option<SystemTime>) {
    let (publish, pending) = in_flight(message, original.destination().clone(), at, original.wants_confirm());
    to.publish(vec![publish]).await;
    tokio::spawn(async move { original.complete(pending.await.map_err(|(error, _)| error)) });
}

/// A broker whose driver has `M` in between.
#[derive(Debug)]
pub struct Spoilt<M> {
    inner: Arc<dyn BrokerDriver>,
    mischief: Arc<M>,
    capabilities: Capabilities,
}

impl<M: Mischief> Spoilt<M> {
    /// Puts `mischief` around `inner`.
    pub fn around(inner: Arc<dyn BrokerDriver>, mischief: Arc<M>) -> Arc<dyn BrokerDriver> {
        let capabilities = mischief.capabilities(inner.capabilities().clone());
        Arc::new(Self { inner, mischief, capabilities })
    }
}

#[async_trait]
impl<M: Mischief> BrokerDriver for Spoilt<M> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn clock(&self) -> Clock {
        self.inner.clock()
    }
    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        let inner = self.inner.open_producer().await?;
        Ok(Arc::new(Producer { inner, mischief: Arc::clone(&self.mischief) }))
    }
    async fn open_half_producer(&self, name: &Group, check: Arc<dyn CheckBack>) -> Result<Arc<dyn HalfDriver>> {
        let inner = self.inner.open_half_producer(name, self.mischief.check(check)).await?;
        Ok(self.mischief.half(inner, &self.inner))
    }
    async fn open_consumer(&self, mut spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        self.mischief.opening(&mut spec);
        let (consumer, settler) = self.inner.open_consumer(spec).await?;
        let consumer = Consumer { inner: Some(consumer), mischief: Arc::clone(&self.mischief) };
        let settler = Settler { inner: settler, mischief: Arc::clone(&self.mischief) };
        Ok((Box::new(consumer), Arc::new(settler)))
    }
    fn admin(&self) -> Arc<dyn AdminDriver> {
        Arc::new(Admin {
            inner: self.inner.admin(),
            driver: Arc::clone(&self.inner),
            mischief: Arc::clone(&self.mischief),
        })
    }
    fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        self.inner.scheduler()
    }
    async fn health(&self, deadline: Duration) -> Health {
        self.inner.health(deadline).await
    }
    async fn close(&self, deadline: Duration) -> Result<()> {
        self.inner.close(deadline).await
    }
}

#[derive(Debug)]
struct Producer<M> {
    inner: Arc<dyn ProducerDriver>,
    mischief: Arc<M>,
}

#[async_trait]
impl<M: Mischief> ProducerDriver for Producer<M> {
    async fn publish(&self, batch: Vec<Publish>) {
        self.mischief.publish(&*self.inner, batch).await;
    }
    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }
    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        self.inner.atomic(batch, settlements).await
    }
    async fn close(&self, deadline: Duration) -> Result<()> {
        self.inner.close(deadline).await
    }
}

#[derive(Debug)]
struct Consumer<M> {
    inner: Option<Box<dyn ConsumerDriver>>,
    mischief: Arc<M>,
}

impl<M> Consumer<M> {
    fn inner(&mut self) -> Result<&mut Box<dyn ConsumerDriver>> {
        self.inner.as_mut().ok_or_else(|| Error::closed("consumer"))
    }
}

#[async_trait]
impl<M: Mischief> ConsumerDriver for Consumer<M> {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<()> {
        let first = events.len();
        self.inner()?.poll(events, max, wait).await?;
        self.mischief.received(events, first);
        Ok(())
    }
    async fn pause(&mut self, paused: bool) -> Result<()> {
        let mischief = Arc::clone(&self.mischief);
        mischief.pause(&mut **self.inner()?, paused).await
    }
    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        self.inner()?.revoked(revocation).await
    }
    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        match self.inner.take() {
            Some(inner) => self.mischief.close(inner, deadline).await,
            None => Err(Error::closed("consumer")),
        }
    }
}

#[derive(Debug)]
struct Settler<M> {
    inner: Arc<dyn SettlerDriver>,
    mischief: Arc<M>,
}

#[async_trait]
impl<M: Mischief> SettlerDriver for Settler<M> {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        self.mischief.settle(&*self.inner, batch).await
    }
    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }
}

#[derive(Debug)]
struct Admin<M> {
    inner: Arc<dyn AdminDriver>,
    driver: Arc<dyn BrokerDriver>,
    mischief: Arc<M>,
}

#[async_trait]
impl<M: Mischief> AdminDriver for Admin<M> {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.inner.declare_topic(spec).await
    }
    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        self.inner.list_topics().await
    }
    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        self.inner.describe_topic(topic).await
    }
    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        self.inner.delete_topic(topic).await
    }
    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.inner.declare_group(spec).await
    }
    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        self.inner.list_groups(topic).await
    }
    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        self.inner.delete_group(topic, group).await
    }
    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        self.inner.lag(topic, group).await.map(|lag| self.mischief.lag(lag))
    }
    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        self.inner.seek(topic, group, to).await
    }
    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        self.inner.topology(spec).await
    }
    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        let honest = self.inner.dead_letters(topic, group).await?;
        let of = DeadLettersOf { topic: topic.clone(), driver: Arc::clone(&self.driver) };
        Ok(self.mischief.dead_letters(honest, of))
    }
}
