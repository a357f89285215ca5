//! Topics, groups, lag and seek.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{
    AdminDriver, AuditSpec, DeadLetterDriver, Finding, GroupInfo, GroupSpec, Lag, PartitionLag, SeekTo, TopicInfo,
    TopicSpec, TopologyItem,
};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::Position;
use mq_core::name::{Group, Topic};
use mq_core::subscription::StartFrom;

use crate::dead_letters::DeadLetters;
use crate::error::{BACKEND, fault};
use crate::group::{self, To};
use crate::names;
use crate::topology::{Place, Topology, own_name};

/// Settings of a topic worth showing.
const SHOWN: &[&str] =
    &["retention.ms", "retention.bytes", "cleanup.policy", "max.message.bytes", "min.insync.replicas"];

#[derive(Debug)]
pub(crate) struct KafkaAdmin {
    topology: Topology,
}

impl KafkaAdmin {
    pub(crate) fn new(topology: Topology) -> Self {
        Self { topology }
    }

    fn place_for(&self, spec: &TopicSpec) -> Place {
        let config = &self.topology.link().config;
        let (replicas, in_sync) = config.replication();
        let retention = spec.retention.unwrap_or(config.topic.retention);
        Place {
            name: spec.topic.name().to_owned(),
            partitions: spec.partitions.unwrap_or(config.topic.partitions),
            replicas: spec.replicas.unwrap_or(replicas),
            config: vec![
                ("retention.ms", retention.as_millis().to_string()),
                ("min.insync.replicas", in_sync.min(spec.replicas.unwrap_or(in_sync)).to_string()),
            ],
        }
    }

    /// Every topic of the cluster with its number of partitions.
    async fn all(&self) -> Result<Vec<(String, u32)>> {
        let metadata = self.topology.link().metadata(None).await?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none() && !topic.name().starts_with("__"))
            .map(|topic| (topic.name().to_owned(), count(topic.partitions().len())))
            .collect())
    }

    async fn derived(&self, topic: &Topic, group: &Group) -> Result<Vec<(String, u32)>> {
        let known = [names::inbox(topic, group), names::dead_letters(topic, group)];
        let all = self.all().await?;
        Ok(all.into_iter().filter(|(name, _)| names::belongs_to(name, topic, group) || known.contains(name)).collect())
    }

    async fn checked_replicas(&self, replicas: u32) -> Result<()> {
        let metadata = self.topology.link().metadata(Some("mq--probe")).await?;
        let brokers = metadata.brokers().len();
        if (replicas as usize) <= brokers {
            return Ok(());
        }
        Err(fault(ErrorKind::Rejected, format!("{replicas} copies need {replicas} brokers; the cluster has {brokers}"))
            .with_operation("create topic")
            .with_hint("for a single node use the development profile: ?profile=development in the URL, or profile = \"development\""))
    }

    async fn start(&self, spec: &GroupSpec) -> Result<()> {
        let topic = self.topology.required(&spec.topic).await?;
        let to = match &spec.start {
            StartFrom::Latest => To::Latest,
            StartFrom::Time(at) => To::Time(*at),
            StartFrom::Position(position) => To::Position(position.clone()),
            _ => To::Earliest,
        };
        let name = spec.topic.name().to_owned();
        let id = names::group_id(&spec.topic, &spec.group);
        let link = self.topology.link();
        let placed = group::place(link, &id, name.clone(), topic.partitions, to.clone(), true).await;
        match (placed, to) {
            // Another member just joined: it has placed the group, or starts it at the earliest.
            (Err(error), _) if error.kind() == ErrorKind::Rejected => Ok(()),
            // The other partitions start at their end, so that a position means "from here on".
            (Ok(()), To::Position(_)) => group::place(link, &id, name, topic.partitions, To::Latest, true).await,
            (placed, _) => placed,
        }
    }

    /// Declares what a group needs and where it starts.
    pub(crate) async fn prepare(&self, spec: &GroupSpec) -> Result<()> {
        self.topology.prepare_group(&spec.topic, &spec.group, &spec.retry_delays).await?;
        self.start(spec).await
    }
}

#[async_trait]
impl AdminDriver for KafkaAdmin {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        own_name(&spec.topic)?;
        spec.topic.check_declarable().map_err(|error| error.with_backend(BACKEND))?;
        if let Some(existing) = self.topology.existing(spec.topic.name()).await? {
            let differs = |asked: Option<u32>, is: u32| asked.is_some_and(|asked| asked != is);
            if differs(spec.partitions, existing.partitions) || differs(spec.replicas, existing.replicas) {
                return Err(fault(ErrorKind::TopologyConflict, "the topic exists with other properties")
                    .with_operation("create topic")
                    .with_context("topic", &spec.topic)
                    .with_context("partitions", existing.partitions)
                    .with_context("replicas", existing.replicas)
                    .with_hint(
                        "ask for what is there, or for another name; changing partitions breaks the order per key",
                    ));
            }
            return Ok(());
        }
        let place = self.place_for(spec);
        if place.partitions == 0 || place.replicas == 0 {
            return Err(fault(ErrorKind::Config, "a topic needs at least one partition and one copy"));
        }
        self.checked_replicas(place.replicas).await?;
        self.topology.create(&[place]).await
    }

    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics = Vec::new();
        for (name, partitions) in self.all().await? {
            // Derived names belong to their groups.
            if name.contains("--") {
                continue;
            }
            if let Ok(topic) = Topic::parse(name) {
                topics.push(TopicInfo::new(topic, Some(partitions), Vec::new()));
            }
        }
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        Ok(topics)
    }

    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let existing = self.topology.required(topic).await?;
        let settings = self.topology.settings(topic.name()).await;
        let mut properties = vec![("replication.factor".to_owned(), existing.replicas.to_string())];
        properties.extend(settings.into_iter().filter(|(name, _)| SHOWN.contains(&name.as_str())));
        Ok(TopicInfo::new(topic.clone(), Some(existing.partitions), properties))
    }

    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        self.topology.required(topic).await?;
        let all = self.all().await?;
        let names: Vec<String> = all
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name == topic.name() || names::is_derived_from(name, topic))
            .collect();
        self.topology.delete(&names).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.topology.required(&spec.topic).await?;
        self.prepare(spec).await
    }

    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        self.topology.required(topic).await?;
        let groups = group::members(self.topology.link(), None).await?;
        let mut found: Vec<GroupInfo> = groups
            .into_iter()
            .filter_map(|(id, state, members)| {
                let group = names::group_of(&id, topic)?;
                Some(GroupInfo::new(
                    group,
                    Some(members),
                    vec![("state".to_owned(), state), ("group.id".to_owned(), id)],
                ))
            })
            .collect();
        found.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(found)
    }

    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        let link = self.topology.link();
        let id = names::group_id(topic, group);
        group::must_be_empty(link, &id).await?;
        let derived = self.derived(topic, group).await?;
        self.topology.delete(&derived.into_iter().map(|(name, _)| name).collect::<Vec<_>>()).await?;
        let admin = self.topology.admin()?;
        let options = self.topology.options();
        let deleted = admin.delete_groups(&[id.as_str()], &options).await;
        let deleted = deleted.map_err(|error| crate::error::from_client(&error, "delete group"))?;
        for result in deleted {
            match result {
                Ok(_) | Err((_, rdkafka::types::RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((_, code)) => {
                    return Err(crate::error::from_code(code).with_backend(BACKEND).with_operation("delete group"));
                }
            }
        }
        Ok(())
    }

    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        let existing = self.topology.required(topic).await?;
        let derived = self.derived(topic, group).await?;
        let dlq = names::dead_letters(topic, group);
        let mut topics = vec![(topic.name().to_owned(), existing.partitions)];
        topics.extend(derived.into_iter().filter(|(name, _)| *name != dlq));
        let places = group::places(self.topology.link(), &names::group_id(topic, group), topics).await?;
        let mut lag = Lag { retrying: Some(0), ..Lag::default() };
        for place in &places {
            let waiting = names::retry_delay(&place.topic).is_some_and(|delay| delay > Duration::ZERO);
            if place.topic != topic.name() && waiting {
                lag.retrying = lag.retrying.map(|sum| sum + place.lag());
                continue;
            }
            lag.ready += place.lag();
            if place.topic == topic.name() {
                let partition = u32::try_from(place.partition).unwrap_or_default();
                lag.partitions.push(PartitionLag {
                    partition,
                    ready: place.lag(),
                    position: Position::Log { partition, offset: place.committed.unwrap_or(place.low) },
                    end: Position::Log { partition, offset: place.high },
                });
            }
        }
        lag.partitions.sort_by_key(|partition| partition.partition);
        lag.dead = Some(DeadLetters::new(self.topology.clone(), topic.clone(), group.clone()).count().await?);
        Ok(lag)
    }

    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        let existing = self.topology.required(topic).await?;
        let to = match to {
            SeekTo::Earliest => To::Earliest,
            SeekTo::Latest => To::Latest,
            SeekTo::Time(at) => To::Time(*at),
            SeekTo::Position(position @ Position::Log { .. }) => To::Position(position.clone()),
            SeekTo::Position(_) => return Err(fault(ErrorKind::Config, "a Kafka position is PARTITION:OFFSET")),
            _ => return Err(fault(ErrorKind::Config, "this place cannot be sought on Kafka")),
        };
        let link = self.topology.link();
        let id = names::group_id(topic, group);
        group::must_be_empty(link, &id).await?;
        group::place(link, &id, topic.name().to_owned(), existing.partitions, to, false).await
    }

    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        own_name(&spec.topic)?;
        let mut places = Vec::new();
        if self.topology.existing(spec.topic.name()).await?.is_none() {
            places.push(self.place_for(&TopicSpec::new(spec.topic.clone())));
            let (replicas, in_sync) = self.topology.link().config.replication();
            let delays = spec.retry_delays.iter().copied();
            let mut names = vec![names::inbox(&spec.topic, &spec.group), names::dead_letters(&spec.topic, &spec.group)];
            names.extend(delays.map(|delay| names::retry(&spec.topic, &spec.group, delay)));
            let config = vec![("min.insync.replicas", in_sync.to_string())];
            places.extend(names.into_iter().map(|name| Place {
                name,
                partitions: 1,
                replicas,
                config: config.clone(),
            }));
        } else {
            places.extend(self.topology.group_places(&spec.topic, &spec.group, &spec.retry_delays).await?);
        }
        places.extend(self.topology.delay_places());
        let mut items = Vec::new();
        for place in places {
            let mut properties = vec![
                ("partitions".to_owned(), place.partitions.to_string()),
                ("replication.factor".to_owned(), place.replicas.to_string()),
            ];
            properties.extend(place.config.into_iter().map(|(name, value)| (name.to_owned(), value)));
            let exists = Some(self.topology.existing(&place.name).await?.is_some());
            items.push(TopologyItem { kind: "topic", name: place.name, properties, exists });
        }
        Ok(items)
    }

    async fn audit(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let config = &self.topology.link().config;
        let metadata = self.topology.link().metadata(Some("mq--probe")).await?;
        if metadata.brokers().len() == 1 {
            warnings.push("the cluster has one broker: a lost disk loses every message".to_owned());
        }
        if !config.tls.enabled && config.sasl.is_some() {
            warnings.push("the login travels without TLS: anybody on the way can read it".to_owned());
        }
        Ok(warnings)
    }

    async fn examine(&self, spec: &AuditSpec) -> Result<Vec<Finding>> {
        crate::audit::examine(&self.topology, spec).await
    }

    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        own_name(topic)?;
        Ok(Box::new(DeadLetters::new(self.topology.clone(), topic.clone(), group.clone())))
    }
}

/// For callers that hold the trait only.
pub(crate) fn shared(topology: &Topology) -> Arc<dyn AdminDriver> {
    Arc::new(KafkaAdmin::new(topology.clone()))
}
