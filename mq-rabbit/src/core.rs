//! What everything opened on one broker shares.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mq_core::config::Topology as Mode;
use mq_core::driver::GroupSpec;
use mq_core::error::{ErrorKind, Result};
use mq_core::name::Topic;

use crate::config::RabbitConfig;
use crate::delay::Delays;
use crate::lane::Lane;
use crate::link::Link;
use crate::registry::Registry;
use crate::topology::{GroupPlan, Topology};

/// Two connections: the broker stops reading from those that publish when it runs out of memory or disk, and
/// acknowledgements must still get through then.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Arc<RabbitConfig>,
    /// For publishing only.
    pub(crate) publishing: Link,
    /// For consuming, declaring and asking.
    pub(crate) consuming: Link,
    pub(crate) topology: Topology,
    pub(crate) registry: Registry,
    /// Retries, dead letters and what else moves messages inside a group.
    pub(crate) hops: Lane,
    pub(crate) delays: Delays,
    known: Mutex<Known>,
}

/// Exchanges seen, so that not every send asks for them. A publish to one that is gone closes the channel.
#[derive(Debug, Default)]
struct Known {
    topics: HashSet<Topic>,
    /// Seen before something was deleted or a connection lost.
    before: HashSet<Topic>,
    delayed: HashSet<Topic>,
}

impl Core {
    pub(crate) fn open(config: RabbitConfig) -> Self {
        let config = Arc::new(config);
        let publishing = Link::open(Arc::clone(&config), "publish");
        let consuming = Link::open(Arc::clone(&config), "consume");
        Self {
            topology: Topology { link: consuming.clone() },
            registry: Registry::new(consuming.clone()),
            hops: Lane::open(publishing.clone()),
            delays: Delays::default(),
            known: Mutex::default(),
            config,
            publishing,
            consuming,
        }
    }

    /// Declares a group, and remembers what is new of it.
    pub(crate) async fn declare_group(&self, spec: &GroupSpec, plan: &GroupPlan) -> Result<()> {
        let mut new = false;
        for queue in &plan.queues {
            new |= self.topology.queue_counts(&queue.name).await?.is_none();
        }
        self.topology.declare(&spec.topic, plan).await?;
        if new && let Err(cause) = self.registry.group(spec).await {
            tracing::warn!(%cause, "not entered into the registry: lists will not show the group");
        }
        Ok(())
    }

    /// Fails when the topic's exchange is not there.
    pub(crate) async fn know(&self, topic: &Topic) -> Result<()> {
        {
            let known = self.known();
            // While nobody can be asked, what was there is taken to be there: sends wait together in their lane, within
            // its bounds, instead of one after the other for an answer.
            if known.topics.contains(topic) || (known.before.contains(topic) && self.consuming.current().is_none()) {
                return Ok(());
            }
        }
        let required = self.topology.require_topic(topic).await;
        let mut known = self.known();
        if required.as_ref().is_err_and(|cause| cause.kind() != ErrorKind::NotFound) {
            return required;
        }
        known.before.remove(topic);
        required?;
        known.topics.insert(topic.clone());
        Ok(())
    }

    /// Prepares delayed sends to the topic.
    pub(crate) async fn know_delayed(&self, topic: &Topic) -> Result<()> {
        if self.known().delayed.contains(topic) || self.config.topology != Mode::Declare {
            return Ok(());
        }
        self.delays.declare(&self.topology).await?;
        self.delays.bind(&self.topology, topic).await?;
        self.known().delayed.insert(topic.clone());
        Ok(())
    }

    /// Something was deleted, or may have been.
    pub(crate) fn forget(&self) {
        let mut known = self.known();
        let before = std::mem::take(&mut known.topics);
        known.before.extend(before);
        known.delayed.clear();
    }

    pub(crate) async fn close(&self, limit: Duration) -> Result<()> {
        let flushed = self.hops.flush(limit).await;
        self.hops.close(limit).await;
        tokio::join!(self.publishing.close(limit), self.consuming.close(limit));
        flushed
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
