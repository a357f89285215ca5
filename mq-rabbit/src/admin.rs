//! Topics, groups, lag, dead letters.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Feature;
use mq_core::driver::{
    AdminDriver, AuditSpec, DeadLetterDriver, Finding, GroupInfo, GroupSpec, Lag, SeekTo, TopicInfo, TopicSpec,
    TopologyItem,
};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Group, Topic, TopicKind};
use mq_core::subscription::GroupMode;

use crate::consumer::check_start;
use crate::core::Core;
use crate::dead_letters::RabbitDeadLetters;
use crate::error::{BACKEND, error};
use crate::names;
use crate::topology::{self, no_topic};

/// Declared by workers unless told otherwise; removed with a group that the registry does not know.
const USUAL_DELAYS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Declares, lists, deletes.
#[derive(Debug)]
pub(crate) struct RabbitAdmin {
    core: Arc<Core>,
}

impl RabbitAdmin {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn plan(&self, spec: &GroupSpec) -> Result<topology::GroupPlan> {
        topology::plan(&self.core.config, &spec.topic, &spec.group, spec.mode, None, &spec.retry_delays)
    }

    async fn require_group(&self, topic: &Topic, group: &Group) -> Result<u64> {
        let queue = names::group_queue(topic, group);
        if let Some((ready, _)) = self.core.topology.queue_counts(&queue).await? {
            return Ok(ready);
        }
        if topic.kind() != TopicKind::Queue {
            self.core.topology.require_topic(topic).await?;
        }
        Err(error(ErrorKind::NotFound, "the group does not exist")
            .with_context("topic", topic)
            .with_context("group", group)
            .with_hint(format!("create it: mq group create {topic} --group {group}")))
    }

    /// The registry is a convenience: without permission for it, only lists are missing.
    fn remembered(&self, result: Result<()>) {
        if let Err(cause) = result {
            tracing::warn!(%cause, "not entered into the registry: lists will not show it");
        }
    }
}

#[async_trait]
impl AdminDriver for RabbitAdmin {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        spec.topic.check_declarable()?;
        let refuse = |what: &'static str, hint: &'static str| {
            Err(Error::config(format!("a topic on RabbitMQ has no {what}")).with_backend(BACKEND).with_hint(hint))
        };
        if spec.partitions.is_some_and(|partitions| partitions > 1) {
            return refuse("partitions", "leave them out: an ordered group keeps the order of all keys in one queue");
        }
        if spec.replicas.is_some_and(|replicas| replicas > 1) {
            return refuse("replicas of its own", "leave them out: the broker decides for its quorum queues");
        }
        if spec.retention.is_some() {
            return refuse("retention", "leave it out: a queue keeps a message until it is settled");
        }
        let new = !self.core.topology.exchange_exists(spec.topic.name()).await?;
        self.core.topology.declare_topic(&spec.topic).await?;
        if new {
            self.remembered(self.core.registry.topic(&spec.topic).await);
        }
        Ok(())
    }

    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        let listing = self.core.registry.read().await?;
        let topics = listing.declared.into_iter().filter_map(|name| Topic::parse(name).ok());
        Ok(topics.map(|topic| TopicInfo::new(topic, None, Vec::new())).collect())
    }

    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let mut properties = Vec::new();
        match topic.kind() {
            TopicKind::Queue => {
                let counts = self.core.topology.queue_counts(topic.name()).await?;
                let (ready, consumers) = counts.ok_or_else(|| no_topic(topic))?;
                properties.push(("messages_ready".to_owned(), ready.to_string()));
                properties.push(("consumers".to_owned(), consumers.to_string()));
            }
            _ => {
                self.core.topology.require_topic(topic).await?;
                properties.push(("exchange".to_owned(), topic.name().to_owned()));
            }
        }
        Ok(TopicInfo::new(topic.clone(), None, properties))
    }

    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        topic.check_declarable()?;
        self.core.topology.require_topic(topic).await?;
        let listing = self.core.registry.read().await?;
        for group in listing.topics.get(topic.as_str()).into_iter().flat_map(|groups| groups.keys()) {
            if let Ok(group) = Group::parse(group.as_str()) {
                self.delete_queues(topic, &group, listing.group(topic, &group)).await?;
            }
        }
        self.core.topology.delete_exchange(&names::headers_exchange(topic)).await?;
        self.core.topology.delete_exchange(topic.name()).await?;
        self.core.forget();
        self.remembered(self.core.registry.no_topic(topic).await);
        Ok(())
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        check_start(&spec.start)?;
        if !spec.topic.is_foreign() {
            spec.topic.check_declarable()?;
        }
        let plan = self.plan(spec)?;
        self.core.declare_group(spec, &plan).await
    }

    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        self.describe_topic(topic).await?;
        let listing = self.core.registry.read().await?;
        let mut groups = Vec::new();
        for (name, known) in listing.topics.get(topic.as_str()).into_iter().flatten() {
            let Ok(group) = Group::parse(name.as_str()) else { continue };
            let queue = names::return_queue(topic, &group);
            let Some((ready, consumers)) = self.core.topology.queue_counts(&queue).await? else { continue };
            let delays: Vec<String> = known.delays.iter().map(|delay| format!("{delay:?}")).collect();
            let properties = vec![
                ("mode".to_owned(), if known.ordered { "ordered" } else { "shared" }.to_owned()),
                ("queue".to_owned(), queue),
                ("messages_ready".to_owned(), ready.to_string()),
                ("retry_delays".to_owned(), delays.join(",")),
            ];
            groups.push(GroupInfo::new(group, Some(consumers), properties));
        }
        Ok(groups)
    }

    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        self.require_group(topic, group).await?;
        let listing = self.core.registry.read().await?;
        self.delete_queues(topic, group, listing.group(topic, group)).await?;
        self.remembered(self.core.registry.no_group(topic, group).await);
        Ok(())
    }

    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        let mut ready = self.require_group(topic, group).await?;
        if topic.is_foreign() {
            let back = self.core.topology.queue_counts(&names::return_queue(topic, group)).await?;
            ready += back.map_or(0, |(ready, _)| ready);
        }
        let dead = self.core.topology.queue_counts(&names::dead_letter_queue(topic, group)).await?;
        Ok(Lag { ready, dead: dead.map(|(ready, _)| ready), ..Lag::default() })
    }

    async fn seek(&self, _: &Topic, _: &Group, to: &SeekTo) -> Result<()> {
        let feature = match to {
            SeekTo::Time(_) => Feature::SeekTime,
            SeekTo::Position(_) => Feature::SeekPosition,
            _ => Feature::Replay,
        };
        Err(Error::unsupported(feature, BACKEND, "a queue keeps nothing that was settled; use a log such as Kafka"))
    }

    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        let mut items = self.plan(spec)?.items();
        for item in &mut items {
            item.exists = match item.kind {
                "queue" => Some(self.core.topology.queue_counts(&item.name).await?.is_some()),
                "exchange" => Some(self.core.topology.exchange_exists(&item.name).await?),
                _ => None,
            };
        }
        Ok(items)
    }

    async fn audit(&self) -> Result<Vec<String>> {
        let config = &self.core.config;
        let mut warnings = Vec::new();
        if config.delivery_limit < 100 {
            warnings.push(format!(
                "delivery_limit = {}: each clean stop of a consumer counts for everything it had prefetched, so a few \
                 deployments may set good messages aside",
                config.delivery_limit
            ));
        }
        let local =
            |host: &String| ["127.0.0.1", "localhost", "[::1]", "::1"].iter().any(|name| host.starts_with(name));
        if !config.tls.enabled && !config.hosts.iter().all(local) {
            warnings.push(
                "the connection is not encrypted: user, password and messages are readable on the network; use \
                           amqps://"
                    .to_owned(),
            );
        }
        if let Some(reason) = self.core.publishing.blocked() {
            warnings.push(format!("the broker accepts no messages now ({reason}): sends wait, then fail"));
        }
        Ok(warnings)
    }

    async fn examine(&self, spec: &AuditSpec) -> Result<Vec<Finding>> {
        crate::audit::examine(&self.core, spec, &self.plan(&spec.group)?).await
    }

    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        let letters = RabbitDeadLetters::new(Arc::clone(&self.core), topic.clone(), group.clone());
        if self.core.topology.queue_counts(&letters.queue).await?.is_none() {
            self.require_group(topic, group).await?;
        }
        Ok(Box::new(letters))
    }
}

impl RabbitAdmin {
    async fn delete_queues(&self, topic: &Topic, group: &Group, known: Option<&crate::registry::Known>) -> Result<()> {
        let delays = known.into_iter().flat_map(|known| known.delays.iter().copied()).chain(USUAL_DELAYS);
        let mut queues = vec![names::return_queue(topic, group)];
        if topic.kind() != TopicKind::Queue {
            queues.push(names::group_queue(topic, group));
        }
        queues.extend(delays.map(|delay| names::retry_queue(topic, group, delay)));
        queues.push(names::attempts_queue(topic, group));
        queues.push(names::dead_letter_queue(topic, group));
        for queue in queues {
            self.core.topology.delete_queue(&queue).await?;
        }
        Ok(())
    }
}

/// A spec for what a consumer declares when it opens.
pub(crate) fn spec_of(topic: &Topic, group: &Group, mode: GroupMode, delays: &[Duration]) -> GroupSpec {
    let mut spec = GroupSpec::new(topic.clone(), group.clone());
    spec.mode = mode;
    spec.retry_delays = delays.to_vec();
    spec
}
