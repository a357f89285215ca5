//! Topics: what is declared, verified or left alone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mq_core::config::Topology as Mode;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Group, Topic};
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::client::{CONTROL_ROOM, Watch, checked, consumer_config};
use crate::error::{BACKEND, fault, from_client, from_code};
use crate::link::Link;
use crate::names;

/// Kafka's default for the largest batch a topic takes.
const DEFAULT_MAX_BYTES: u32 = 1_048_588;
/// How long an administrative client is kept.
const ADMIN: Duration = Duration::from_secs(60);
/// How often a topic just created is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// A topic to be declared.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) replicas: u32,
    pub(crate) config: Vec<(&'static str, String)>,
}

/// A topic as it is.
#[derive(Debug, Clone)]
pub(crate) struct Existing {
    pub(crate) partitions: u32,
    pub(crate) replicas: u32,
}

/// A client, and since when.
type Admin = (Instant, Arc<AdminClient<Watch>>);

/// Declares, verifies and deletes topics.
#[derive(Clone)]
pub(crate) struct Topology {
    link: Arc<Link>,
    admin: Arc<Mutex<Option<Admin>>>,
}

/// Kafka has topics only.
pub(crate) fn own_name(topic: &Topic) -> Result<()> {
    if topic.is_foreign() {
        return Err(fault(ErrorKind::Config, format!("Kafka has topics only, not `{topic}`"))
            .with_hint("name the topic itself; every Kafka topic goes by its own name"));
    }
    Ok(())
}

impl Topology {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, admin: Arc::default() }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The administrative client, made on first use and kept for a while: each has threads of its own, and one may have
    /// lost every broker without a word (docs/decisions/kafka-stranded.md).
    pub(crate) fn admin(&self) -> Result<Arc<AdminClient<Watch>>> {
        let mut slot = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, admin)) = &*slot
            && made.elapsed() < ADMIN
        {
            return Ok(Arc::clone(admin));
        }
        let config = consumer_config(&self.link.config, "mq-admin");
        let made = config.create_with_context(Watch::new(&self.link.config));
        let admin = Arc::new(checked(made, "administer")?);
        *slot = Some((Instant::now(), Arc::clone(&admin)));
        Ok(admin)
    }

    pub(crate) fn options(&self) -> AdminOptions {
        let limit = Some(self.link.config.connect_timeout);
        AdminOptions::new().request_timeout(limit).operation_timeout(limit)
    }

    /// A topic as the cluster has it.
    pub(crate) async fn existing(&self, name: &str) -> Result<Option<Existing>> {
        let metadata = self.link.metadata(Some(name)).await?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error() {
            None => {}
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Ok(None),
            // A leader is being elected: the topic is there.
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => {}
            Some(error) => return Err(from_code(error.into()).with_backend(BACKEND).with_context("topic", name)),
        }
        let replicas = topic.partitions().first().map_or(1, |partition| partition.replicas().len());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Some(Existing { partitions: count(topic.partitions().len()), replicas: count(replicas).max(1) }))
    }

    /// A topic that must be there.
    pub(crate) async fn required(&self, topic: &Topic) -> Result<Existing> {
        own_name(topic)?;
        self.existing(topic.name()).await?.ok_or_else(|| {
            fault(ErrorKind::NotFound, "the topic does not exist")
                .with_context("topic", topic)
                .with_hint(format!("create it: mq topic create {topic}"))
        })
    }

    /// What belongs to a group of a topic.
    pub(crate) async fn group_places(&self, topic: &Topic, group: &Group, delays: &[Duration]) -> Result<Vec<Place>> {
        let existing = self.required(topic).await?;
        let settings = self.settings(topic.name()).await;
        let setting = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let max = setting("max.message.bytes").and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_MAX_BYTES);
        let in_sync = setting("min.insync.replicas").unwrap_or_else(|| "1".to_owned());
        let keep = self.link.config.topic.dead_letter_retention.as_millis().to_string();
        let place = |name: String| Place {
            name,
            // One partition: retries are few, and what came first is due first.
            partitions: 1,
            replicas: existing.replicas,
            config: vec![
                ("retention.ms", keep.clone()),
                // Longer than what they copy: control headers and the failure record come on top.
                ("max.message.bytes", max.saturating_add(CONTROL_ROOM).to_string()),
                ("min.insync.replicas", in_sync.clone()),
                ("cleanup.policy", "delete".to_owned()),
            ],
        };
        let mut names = vec![names::inbox(topic, group), names::dead_letters(topic, group)];
        for delay in delays {
            let name = names::retry(topic, group, *delay);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names.into_iter().map(place).collect())
    }

    /// The topic's settings; empty when we may not see them.
    pub(crate) async fn settings(&self, name: &str) -> Vec<(String, String)> {
        let Ok(admin) = self.admin() else { return Vec::new() };
        let options = self.options();
        let described = admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options).await;
        let Ok(resources) = described else { return Vec::new() };
        resources
            .into_iter()
            .flatten()
            .filter(|resource| matches!(&resource.specifier, OwnedResourceSpecifier::Topic(topic) if topic == name))
            .flat_map(|resource| resource.entries)
            .filter_map(|entry| entry.value.map(|value| (entry.name, value)))
            .collect()
    }

    /// Declares or verifies what a group needs, by the topology mode.
    pub(crate) async fn prepare_group(&self, topic: &Topic, group: &Group, delays: &[Duration]) -> Result<()> {
        if self.link.config.topology == Mode::Off {
            return Ok(());
        }
        let places = self.group_places(topic, group, delays).await?;
        let hint = format!("let an operator create what `mq topology {topic} --group {group}` prints");
        self.prepare(&places, hint).await
    }

    /// Declares or verifies the topics of delayed messages.
    pub(crate) async fn prepare_delays(&self) -> Result<()> {
        if self.link.config.topology == Mode::Off {
            return Ok(());
        }
        let places = self.delay_places();
        self.prepare(&places, "let an operator create the topics `mq--delay--*`".to_owned()).await
    }

    pub(crate) fn delay_places(&self) -> Vec<Place> {
        let (replicas, in_sync) = self.link.config.replication();
        let keep = self.link.config.topic.dead_letter_retention.as_millis().to_string();
        let place = |name: String| Place {
            name,
            partitions: 1,
            replicas,
            config: vec![
                ("retention.ms", keep.clone()),
                ("max.message.bytes", DEFAULT_MAX_BYTES.saturating_add(CONTROL_ROOM).to_string()),
                ("min.insync.replicas", in_sync.to_string()),
            ],
        };
        names::DELAY_TIERS.iter().map(|tier| names::delay_tier(*tier)).chain([names::lost()]).map(place).collect()
    }

    async fn prepare(&self, places: &[Place], hint: String) -> Result<()> {
        let mut missing = Vec::new();
        for place in places {
            if self.existing(&place.name).await?.is_none() {
                missing.push(place.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if self.link.config.topology == Mode::Verify {
            let names: Vec<_> = missing.iter().map(|place| place.name.as_str()).collect();
            return Err(fault(ErrorKind::NotFound, format!("missing: {}", names.join(", "))).with_hint(hint));
        }
        self.create(&missing).await
    }

    /// Creates topics; those there already are left as they are.
    pub(crate) async fn create(&self, places: &[Place]) -> Result<()> {
        let admin = self.admin()?;
        let topics: Vec<NewTopic<'_>> = places
            .iter()
            .map(|place| {
                let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
                let replication = TopicReplication::Fixed(count(place.replicas));
                let topic = NewTopic::new(&place.name, count(place.partitions), replication);
                place.config.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let options = self.options();
        let created = admin.create_topics(&topics, &options).await;
        let created = created.map_err(|error| from_client(&error, "create topic"))?;
        for result in created {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(from_code(code)
                        .with_backend(BACKEND)
                        .with_operation("create topic")
                        .with_context("topic", name));
                }
            }
        }
        // A client that subscribes before the brokers have heard of the topic would look again much later.
        let deadline = tokio::time::Instant::now() + self.link.config.connect_timeout;
        for place in places {
            while self.existing(&place.name).await?.is_none_or(|topic| topic.partitions == 0) {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Error::timeout(self.link.config.connect_timeout)
                        .with_backend(BACKEND)
                        .with_operation("create topic")
                        .with_context("topic", &place.name));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Deletes topics; those not there count as deleted.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let admin = self.admin()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = self.options();
        let deleted = admin.delete_topics(&names, &options).await;
        let deleted = deleted.map_err(|error| from_client(&error, "delete topic"))?;
        for result in deleted {
            match result {
                Ok(_) | Err((_, Code::UnknownTopicOrPartition)) => {}
                Err((name, code)) => {
                    return Err(from_code(code)
                        .with_backend(BACKEND)
                        .with_operation("delete topic")
                        .with_context("topic", name));
                }
            }
        }
        // Deleted for the controller; the brokers hear of it a little later, and until then still list it.
        let deadline = tokio::time::Instant::now() + self.link.config.connect_timeout;
        for name in names {
            while self.existing(name).await?.is_some() {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Error::timeout(self.link.config.connect_timeout)
                        .with_backend(BACKEND)
                        .with_operation("delete topic")
                        .with_context("topic", name)
                        .with_hint("the deletion was accepted; the brokers have not yet carried it out"));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology").field("link", &self.link).finish_non_exhaustive()
    }
}
