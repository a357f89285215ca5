//! The broker: what everything else is opened on.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_core::capability::{Capabilities, Feature};
use mq_core::config::Topology as Mode;
use mq_core::driver::{
    AdminDriver, BrokerDriver, ConsumerDriver, ConsumerSpec, GroupSpec, Health, ProducerDriver, SchedulerDriver,
    SettlerDriver,
};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::MessageId;
use mq_core::name::{Group, Topic};
use mq_core::subscription::{Selector, StartFrom};
use tokio::sync::Notify;

use crate::admin::KafkaAdmin;
use crate::client::{Watch, checked, consumer_config};
use crate::config::Config;
use crate::consumer::KafkaConsumer;
use crate::error::{BACKEND, blocking, fault};
use crate::lane::{Kind, Source};
use crate::link::Link;
use crate::many::{Consumers, MAX_TOPICS, Settlers};
use crate::names;
use crate::producer::KafkaProducer;
use crate::reader::{Open, Reader};
use crate::rebalance::Rebalances;
use crate::scheduler::KafkaScheduler;
use crate::settler::KafkaSettler;
use crate::shared::{Options, Shared};
use crate::topology::{Topology, own_name};

/// Messages read ahead of what was asked for, at least.
const READ_AHEAD: usize = 1000;
/// How often brokers look for transactions that are out of time (by default every 10 s), and a little more.
const ABORT_SWEEP: Duration = Duration::from_secs(12);

/// A Kafka cluster. Making it connects to nothing: opening a producer or consumer does, within the connect deadline.
pub struct Kafka {
    capabilities: Capabilities,
    link: Arc<Link>,
    topology: Topology,
    producers: Mutex<Vec<std::sync::Weak<KafkaProducer>>>,
    closed: AtomicBool,
}

impl Kafka {
    /// A broker as `config` says.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a setting cannot work. Nothing is connected yet.
    pub fn new(config: Config) -> Result<Self> {
        config.check().map_err(|error| error.with_backend(BACKEND))?;
        config.check_files().map_err(|error| error.with_backend(BACKEND))?;
        let capabilities = crate::capabilities::of(&config);
        let link = Link::open(Arc::new(config))?;
        let topology = Topology::new(Arc::clone(&link));
        Ok(Self { capabilities, link, topology, producers: Mutex::default(), closed: AtomicBool::new(false) })
    }

    /// A broker by URL: see [`Config::from_url`].
    ///
    /// # Errors
    /// As [`Config::from_url`] and [`Kafka::new`].
    pub fn from_url(url: &str) -> Result<Self> {
        Self::new(Config::from_url(url).map_err(|error| error.with_backend(BACKEND))?)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("broker").with_backend(BACKEND));
        }
        Ok(())
    }

    fn opener(&self) -> Opener {
        Opener { link: Arc::clone(&self.link), topology: self.topology.clone() }
    }
}

/// Opens consumers; shared with the scheduler.
#[derive(Clone)]
pub(crate) struct Opener {
    link: Arc<Link>,
    pub(crate) topology: Topology,
}

type Opened = (KafkaConsumer, KafkaSettler);

impl Opener {
    fn options(&self, prefetch: usize, auto_ack: bool, commits: bool, drain: Duration) -> Options {
        let consumer = &self.link.config.consumer;
        Options {
            prefetch: prefetch.max(1),
            // Twice: one half is filled while the other is handed out.
            buffer: prefetch.saturating_mul(2).max(READ_AHEAD),
            auto_ack,
            commits,
            commit_acks: consumer.commit_acks as usize,
            commit_interval: consumer.commit_interval,
            duplicate_window: consumer.duplicate_window as usize,
            drain,
        }
    }

    /// How long a consumer waits for the places of its group: a transaction that a dead process left must end first.
    fn places_timeout(&self) -> Duration {
        let config = &self.link.config;
        config.connect_timeout.max(config.send_timeout + ABORT_SWEEP)
    }

    /// A member of the Kafka group `id` that reads `sources`.
    pub(crate) fn open_group(
        &self,
        id: &str,
        group: &Group,
        sources: &[Source],
        spec: &ConsumerSpec,
        ready: Arc<Notify>,
    ) -> Result<Opened> {
        let options = self.options(spec.prefetch.saturating_add(spec.parking), spec.auto_ack, true, spec.drain);
        let shared = Arc::new(Shared::new(options, ready));
        self.link.members.add(&shared);
        let (config, id) = (Arc::clone(&self.link.config), id.to_owned());
        let subscribed: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
        let open: Open = Box::new(move || {
            let client = client(&config, &id)?;
            let subscribed: Vec<&str> = subscribed.iter().map(String::as_str).collect();
            checked(rdkafka::consumer::Consumer::subscribe(&*client, &subscribed), "subscribe")?;
            Ok(client)
        });
        let reader = Reader::new(open, Arc::clone(&shared), sources.to_vec(), self.places_timeout())?;
        self.start(reader, shared, Some(group.clone()), spec.retry_delays.clone())
    }

    /// Every message of `topics` from now on, as nobody's member.
    async fn open_broadcast(&self, topics: &[Topic], spec: &ConsumerSpec) -> Result<Opened> {
        let mut places = Vec::new();
        for topic in topics {
            places.push((topic.name().to_owned(), self.topology.required(topic).await?.partitions));
        }
        let link = Arc::clone(&self.link);
        let ends = blocking(self.link.config.connect_timeout, "open consumer", move || {
            let mut ends = Vec::new();
            for (topic, partitions) in places {
                for partition in 0..i32::try_from(partitions).unwrap_or(0) {
                    let (_, high) = link.watermarks(&topic, partition)?;
                    ends.push((topic.clone(), partition, high));
                }
            }
            Ok(ends)
        })
        .await?;
        let options = self.options(spec.prefetch, spec.auto_ack, false, spec.drain);
        let shared = Arc::new(Shared::new(options, Arc::default()));
        let id = format!("mq-broadcast-{}", MessageId::generate(std::time::SystemTime::now()));
        let config = Arc::clone(&self.link.config);
        let open: Open = Box::new(move || client(&config, &id));
        let sources: Vec<Source> = topics.iter().map(source).collect();
        let mut reader = Reader::new(open, Arc::clone(&shared), sources, self.places_timeout())?;
        checked(reader.assign(&ends), "open consumer")?;
        self.start(reader, shared, None, Vec::new())
    }

    fn start(
        &self,
        reader: Reader,
        shared: Arc<Shared>,
        group: Option<Group>,
        delays: Vec<Duration>,
    ) -> Result<Opened> {
        let settler = KafkaSettler::new(Arc::clone(&shared), Arc::clone(&self.link), group, delays);
        let consumer = KafkaConsumer::start(reader, shared)?;
        Ok((consumer, settler))
    }
}

fn client(config: &Config, group: &str) -> Result<Arc<crate::shared::Client>> {
    let context = Rebalances::new(Watch::new(config));
    Ok(Arc::new(checked(consumer_config(config, group).create_with_context(context), "open consumer")?))
}

fn source(topic: &Topic) -> Source {
    Source { topic: topic.clone(), name: topic.name().to_owned(), kind: Kind::Source }
}

/// Everything a group reads of one topic: the topic, its inbox and its retries.
fn sources(topic: &Topic, group: &Group, delays: &[Duration]) -> Vec<Source> {
    let mut sources = vec![source(topic)];
    sources.push(Source { topic: topic.clone(), name: names::inbox(topic, group), kind: Kind::Inbox });
    for delay in delays.iter().filter(|delay| !delay.is_zero()) {
        let name = names::retry(topic, group, *delay);
        if !sources.iter().any(|source| source.name == name) {
            sources.push(Source { topic: topic.clone(), name, kind: Kind::Tier });
        }
    }
    sources
}

#[async_trait]
impl BrokerDriver for Kafka {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        self.check_open()?;
        self.link.connected().await?;
        let producer = Arc::new(KafkaProducer::new(Arc::clone(&self.link), self.topology.clone()));
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        producers.retain(|producer| producer.strong_count() > 0);
        producers.push(Arc::downgrade(&producer));
        Ok(producer)
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        self.check_open()?;
        let subscription = &spec.subscription;
        subscription.check()?;
        let selecting = match subscription.selector() {
            None => None,
            Some(Selector::Headers { .. }) => Some(Feature::RoutingHeaders),
            Some(_) => Some(Feature::RoutingPattern),
        };
        if let Some(feature) = selecting {
            self.capabilities.require([feature], BACKEND)?;
        }
        for topic in subscription.topics() {
            own_name(topic)?;
        }
        if subscription.topics().len() >= MAX_TOPICS {
            return Err(
                fault(ErrorKind::Config, "a subscription has too many topics").with_context("limit", MAX_TOPICS)
            );
        }
        self.link.connected().await?;
        let opener = self.opener();
        let Some(group) = subscription.group() else {
            if !matches!(subscription.start_from(), StartFrom::SinceDeclared | StartFrom::Latest) {
                return Err(fault(ErrorKind::Config, "a broadcast subscription starts with what is sent from now on")
                    .with_hint("name a group to start elsewhere"));
            }
            let (consumer, settler) = opener.open_broadcast(subscription.topics(), &spec).await?;
            return Ok((Box::new(consumer), Arc::new(settler)));
        };
        let admin = KafkaAdmin::new(self.topology.clone());
        let ready = Arc::new(Notify::new());
        let (mut consumers, mut settlers) = (Vec::new(), Vec::new());
        for topic in subscription.topics() {
            let mut wanted = GroupSpec::new(topic.clone(), group.clone());
            wanted.start = subscription.start_from().clone();
            wanted.retry_delays.clone_from(&spec.retry_delays);
            admin.declare_group(&wanted).await?;
            let mut read = sources(topic, group, &spec.retry_delays);
            if self.link.config.topology == Mode::Off {
                read = self.existing_only(read).await?;
            }
            let id = names::group_id(topic, group);
            let (consumer, settler) = opener.open_group(&id, group, &read, &spec, Arc::clone(&ready))?;
            consumers.push(consumer);
            settlers.push(settler);
        }
        match (consumers.len(), consumers.pop(), settlers.pop()) {
            (1, Some(consumer), Some(settler)) => Ok((Box::new(consumer), Arc::new(settler))),
            (_, Some(consumer), Some(settler)) => {
                consumers.push(consumer);
                settlers.push(settler);
                Ok((Box::new(Consumers::new(consumers, ready)), Arc::new(Settlers(settlers))))
            }
            _ => Err(fault(ErrorKind::Config, "a subscription needs a topic")),
        }
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        crate::admin::shared(&self.topology)
    }

    fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        Some(Box::new(KafkaScheduler::new(self.opener(), Arc::clone(&self.link))))
    }

    async fn health(&self, deadline: Duration) -> Health {
        if self.closed.load(Ordering::Acquire) {
            return Health::down("the connection is closed");
        }
        let started = Instant::now();
        match self.link.answers(deadline).await {
            Ok(()) => Health::up(started.elapsed(), format!("brokers {}", self.link.config.brokers.join(","))),
            Err(error) => Health::down(error.to_string()),
        }
    }

    /// An `rdkafka::ClientConfig` with everything needed to make clients of one's own. It holds the credentials.
    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let config: rdkafka::ClientConfig = crate::client::producer_config(&self.link.config);
        Some(Arc::new(config))
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let producers: Vec<_> = {
            let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
            producers.drain(..).filter_map(|producer| producer.upgrade()).collect()
        };
        for producer in producers {
            producer.refuse();
        }
        self.link.flush(deadline).await
    }
}

impl Kafka {
    /// Nothing was declared: subscribe only to what is there, since an unknown topic ends a subscription.
    async fn existing_only(&self, sources: Vec<Source>) -> Result<Vec<Source>> {
        let mut found = Vec::new();
        for source in sources {
            if source.kind == Kind::Source || self.topology.existing(&source.name).await?.is_some() {
                found.push(source);
            }
        }
        Ok(found)
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("brokers", &self.link.config.brokers).finish_non_exhaustive()
    }
}
