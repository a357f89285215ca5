//! What producers, consumers and the administration share: two connections and what is known of topics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Group, Topic};
use redis::{Cmd, Pipeline};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::RedisConfig;
use crate::error::{BACKEND, error};
use crate::link::Link;
use crate::names::{self, Keys};
use crate::reply;
use crate::slots;
use crate::state::Shared;

/// Shared by everything of one connection.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Arc<RedisConfig>,
    /// For reads, settlements and questions.
    pub(crate) asking: Link,
    /// For messages: what is asked never waits behind a megabyte.
    pub(crate) publishing: Link,
    /// The partitions of topics, as far as they were asked for.
    topics: Mutex<HashMap<Topic, Arc<[Keys]>>>,
    /// Opened consumers, to be closed with the broker.
    stops: Mutex<HashMap<u64, Arc<Notify>>>,
    /// A consumer has ended.
    left: Notify,
    numbers: AtomicU64,
    /// Numbers the sessions of all consumers, so that a delivery's says whose it is.
    epochs: AtomicU32,
    consumers: Mutex<Vec<Weak<Shared>>>,
}

impl Core {
    pub(crate) fn open(config: RedisConfig) -> Result<Self> {
        let config = Arc::new(config);
        Ok(Self {
            asking: Link::open(Arc::clone(&config))?,
            publishing: Link::open(Arc::clone(&config))?,
            config,
            topics: Mutex::default(),
            stops: Mutex::default(),
            left: Notify::new(),
            numbers: AtomicU64::new(1),
            epochs: AtomicU32::new(1),
            consumers: Mutex::default(),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a new session.
    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }

    /// The consumer whose session has that number now.
    pub(crate) fn consumer(&self, epoch: u32) -> Option<Arc<Shared>> {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.iter().filter_map(Weak::upgrade).find(|consumer| consumer.lock().epoch == epoch)
    }

    /// Remembers a consumer, and how it is told to stop.
    pub(crate) fn register(&self, consumer: &Arc<Shared>) {
        let (number, stop) = (consumer.number, Arc::clone(&consumer.stop));
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).insert(number, stop);
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(consumer));
    }

    pub(crate) fn unregister(&self, number: u64) {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.left.notify_one();
    }

    /// Tells every consumer to stop, and waits for them.
    pub(crate) async fn stop(&self, deadline: Duration) {
        let stops = || self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        for stop in stops().values() {
            stop.notify_one();
        }
        let gone = async {
            loop {
                let left = self.left.notified();
                if stops().is_empty() {
                    break;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(deadline, gone).await;
    }

    pub(crate) fn close(&self) {
        self.publishing.close();
        self.asking.close();
    }

    pub(crate) fn limit(&self) -> Duration {
        self.config.connect_timeout
    }

    /// One command that may be done twice: asked once more when its connection turns out to be lost, as it is the first
    /// time after the broker was started again.
    pub(crate) async fn ask(&self, command: &Cmd) -> Result<redis::Value> {
        let deadline = Instant::now() + self.limit();
        match self.asking.ask(command, self.limit()).await {
            Err(cause) if cause.kind() == ErrorKind::Unavailable => {
                self.asking.ask(command, deadline.saturating_duration_since(Instant::now())).await
            }
            answer => answer,
        }
    }

    /// As [`ask`](Self::ask), several commands; one answer each.
    pub(crate) async fn ask_many(&self, commands: &Pipeline) -> Result<Vec<redis::Value>> {
        let deadline = Instant::now() + self.limit();
        match self.asking.ask_many(commands, self.limit()).await {
            Err(cause) if cause.kind() == ErrorKind::Unavailable => {
                self.asking.ask_many(commands, deadline.saturating_duration_since(Instant::now())).await
            }
            answers => answers,
        }
    }

    pub(crate) fn keys(&self, topic: &Topic, partition: u32) -> Keys {
        Keys::of(&self.config.prefix, topic, partition)
    }

    pub(crate) fn topic_key(&self, topic: &Topic) -> String {
        names::topic_key(&self.config.prefix, topic)
    }

    pub(crate) fn groups_key(&self, topic: &Topic) -> String {
        names::groups_key(&self.config.prefix, topic)
    }

    pub(crate) fn forget(&self, topic: &Topic) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// The number of partitions of a topic; [`ErrorKind::NotFound`] when there is no such topic.
    pub(crate) async fn partitions(&self, topic: &Topic) -> Result<u32> {
        let keys = self.topic(topic).await?;
        Ok(u32::try_from(keys.len()).unwrap_or(u32::MAX))
    }

    /// The keys of each partition of a topic, as remembered or else asked for.
    pub(crate) async fn topic(&self, topic: &Topic) -> Result<Arc<[Keys]>> {
        if let Some(known) = self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(Arc::clone(known));
        }
        check_kind(topic)?;
        let count = if topic.is_foreign() {
            1
        } else {
            let mut command = redis::cmd("HGET");
            command.arg(self.topic_key(topic)).arg("partitions");
            let count = reply::number(&self.ask(&command).await?).and_then(|count| u32::try_from(count).ok());
            count.filter(|count| *count > 0).ok_or_else(|| no_topic(topic))?
        };
        let keys: Arc<[Keys]> = (0..count).map(|partition| self.keys(topic, partition)).collect();
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone(), Arc::clone(&keys));
        Ok(keys)
    }

    /// As [`Core::partitions`], asking again, and for a foreign stream whether it is there.
    pub(crate) async fn require_topic(&self, topic: &Topic) -> Result<u32> {
        check_kind(topic)?;
        self.forget(topic);
        let count = self.partitions(topic).await?;
        if topic.is_foreign() {
            self.reachable(topic)?;
            let mut command = redis::cmd("TYPE");
            command.arg(topic.name());
            match reply::text(self.ask(&command).await?).as_deref() {
                Some("stream") => {}
                Some("none") => return Err(no_topic(topic)),
                _ => {
                    return Err(error(ErrorKind::TopologyConflict, format!("the key of `{topic}` holds no stream"))
                        .with_hint("name the key of a stream: stream:KEY"));
                }
            }
        }
        Ok(count)
    }
}

impl Core {
    /// On a cluster what belongs to a stream must lie in its slot, and no tag says so for every key.
    fn reachable(&self, topic: &Topic) -> Result<()> {
        let keys = self.keys(topic, 0);
        let same = slots::slot(keys.stream.as_bytes()) == slots::slot(keys.delayed().as_bytes());
        if same || !self.publishing.is_cluster() {
            return Ok(());
        }
        Err(error(
            ErrorKind::Config,
            format!("on a cluster `{topic}` cannot be read: its key has a brace without its pair"),
        )
        .with_hint("let its program write to a key without `{` and `}`, or with a tag: {tag}name"))
    }
}

/// Only topics of the SDK and plain streams are Redis' own.
pub(crate) fn check_kind(topic: &Topic) -> Result<()> {
    use mq_core::name::TopicKind;
    match topic.kind() {
        TopicKind::Topic | TopicKind::Stream => Ok(()),
        _ => Err(Error::config(format!("`{topic}` names something Redis does not have"))
            .with_backend(BACKEND)
            .with_hint("a plain stream of another program is stream:KEY")),
    }
}

pub(crate) fn no_topic(topic: &Topic) -> Error {
    let hint = if topic.is_foreign() {
        "its own program creates it: XADD, or XGROUP CREATE … MKSTREAM"
    } else {
        "create it: mq topic create, or declare_topic"
    };
    error(ErrorKind::NotFound, format!("there is no topic `{topic}`")).with_hint(hint)
}

pub(crate) fn no_group(topic: &Topic, group: &Group) -> Error {
    error(ErrorKind::NotFound, format!("the topic `{topic}` has no group `{}`", group.as_str()))
        .with_hint("create it: mq group create, or connect with topology=declare")
}
