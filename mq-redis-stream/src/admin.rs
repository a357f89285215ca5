//! Topics, groups, lag and seek.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::config::Topology;
use mq_core::driver::{
    AdminDriver, AuditSpec, DeadLetterDriver, Finding, GroupInfo, GroupSpec, Lag, PartitionLag, SeekTo, TopicInfo,
    TopicSpec, TopologyItem,
};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use mq_core::name::{Group, Topic};
use redis::Value;

use crate::config::Durability;
use crate::core::{Core, no_group, no_topic};
use crate::dead_letters::RedisDeadLetters;
use crate::error::{BACKEND, about, checked, error};
use crate::server::Server;
use crate::{groups, names, reply, script};

/// How long messages are kept without another wish, in milliseconds: 7 days.
const RETENTION: u64 = 7 * 24 * 3600 * 1000;
/// Entries counted in one partition where the broker has lost count.
const COUNTED: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct RedisAdmin {
    core: Arc<Core>,
    server: Server,
}

impl RedisAdmin {
    pub(crate) fn new(core: Arc<Core>, server: Server) -> Self {
        Self { core, server }
    }

    async fn topic_names(&self) -> Result<Vec<Topic>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(names::topics_key(&self.core.config.prefix));
        let found = reply::items(self.core.ask(&command).await?).into_iter().filter_map(reply::text);
        let mut topics: Vec<Topic> = found.filter_map(|name| Topic::parse(name).ok()).collect();
        topics.sort();
        Ok(topics)
    }

    async fn group_names(&self, topic: &Topic) -> Result<Vec<Group>> {
        let mut names = if topic.is_foreign() {
            groups::of_stream(&self.core, topic.name()).await?.into_iter().map(|(name, _)| name).collect()
        } else {
            let mut command = redis::cmd("SMEMBERS");
            command.arg(self.core.groups_key(topic));
            reply::items(self.core.ask(&command).await?).into_iter().filter_map(reply::text).collect::<Vec<_>>()
        };
        names.sort();
        Ok(names.into_iter().filter_map(|name| Group::parse(name).ok()).collect())
    }

    async fn one_lag(&self, topic: &Topic, group: &Group, partition: u32) -> Result<(PartitionLag, [u64; 4])> {
        let keys = self.core.keys(topic, partition);
        let name = group.as_str();
        let mut commands = redis::pipe();
        for inbox in [false, true] {
            let stream = if inbox { keys.inbox(name) } else { keys.stream.clone() };
            let mut command = script::call(&script::LAG, &[&stream, &keys.waiting(name, inbox)]);
            command.arg(name).arg(COUNTED);
            commands.add_command(command);
        }
        commands.cmd("XLEN").arg(keys.dead_letters(name));
        let mut answers = self.core.ask_many(&commands).await?.into_iter();
        let mut totals = [0_u64; 4];
        let mut lag = PartitionLag { partition, ..PartitionLag::default() };
        for inbox in [false, true] {
            let answer = reply::items(checked(answers.next().unwrap_or(Value::Nil))?);
            if answer.is_empty() && !inbox {
                return Err(no_group(topic, group));
            }
            let number = |at: usize| answer.get(at).and_then(reply::number).unwrap_or(0).unsigned_abs();
            let (new, pending, parked, later) = (number(0), number(1), number(2), number(3));
            lag.ready += new + parked.saturating_sub(later);
            totals[1] += pending.saturating_sub(parked);
            totals[2] += later;
            if !inbox {
                let place = |at: usize| match answer.get(at).cloned().and_then(reply::text) {
                    Some(id) => Position::Entry { partition, id: id.into() },
                    None => Position::None,
                };
                (lag.position, lag.end) = (place(4), place(5));
            }
        }
        totals[0] = lag.ready;
        let dead = checked(answers.next().unwrap_or(Value::Nil))?;
        totals[3] = reply::number(&dead).unwrap_or(0).unsigned_abs();
        Ok((lag, totals))
    }
}

#[async_trait]
impl AdminDriver for RedisAdmin {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        groups::refuse_foreign(&spec.topic)?;
        if spec.replicas.is_some_and(|replicas| replicas > 1) {
            return Err(Error::config("a topic on Redis has no replicas of its own").with_backend(BACKEND).with_hint(
                "leave them out: the server's replicas have everything; `replicas` in the URL waits for them",
            ));
        }
        if spec.partitions.is_some_and(|partitions| !(1..=1024).contains(&partitions)) {
            return Err(Error::config("partitions must be 1 to 1024").with_backend(BACKEND));
        }
        let prefix = &self.core.config.prefix;
        let (topic, topics) = (self.core.topic_key(&spec.topic), names::topics_key(prefix));
        let mut command = script::call(&script::TOPIC, &[&topic, &topics]);
        command.arg(spec.topic.as_str());
        command.arg(spec.partitions.map(|count| count.to_string()).unwrap_or_default());
        let retention = spec.retention.map(|keep| keep.as_millis().to_string());
        command.arg(retention.unwrap_or_default()).arg(self.core.config.partitions).arg(RETENTION);
        let has = self.core.ask(&command).await.map_err(|cause| about(cause, &spec.topic))?;
        let has = reply::number(&has).unwrap_or(0);
        if spec.partitions.is_some_and(|wanted| i64::from(wanted) != has) {
            return Err(error(ErrorKind::TopologyConflict, format!("the topic `{}` has {has} partitions", spec.topic))
                .with_hint("keys would move to other partitions: use another topic, or leave the number out"));
        }
        self.core.forget(&spec.topic);
        // An empty stream for each partition, so that sends find them.
        let mut commands = redis::pipe();
        for partition in 0..u32::try_from(has).unwrap_or(0) {
            let stream = self.core.keys(&spec.topic, partition).stream;
            commands.cmd("XGROUP").arg("CREATE").arg(&stream).arg("mq-made").arg("$").arg("MKSTREAM");
            commands.cmd("XGROUP").arg("DESTROY").arg(&stream).arg("mq-made");
        }
        for answer in self.core.ask_many(&commands).await? {
            match answer {
                Value::ServerError(cause) if cause.code() == "BUSYGROUP" => {}
                answer => drop(checked(answer).map_err(|cause| about(cause, &spec.topic))?),
            }
        }
        Ok(())
    }

    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics = Vec::new();
        for topic in self.topic_names().await? {
            // Deleted meanwhile.
            let Ok(count) = self.core.partitions(&topic).await else { continue };
            topics.push(TopicInfo::new(topic, Some(count), Vec::new()));
        }
        Ok(topics)
    }

    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let count = self.core.require_topic(topic).await?;
        let mut length = 0;
        for partition in 0..count {
            let mut command = redis::cmd("XLEN");
            command.arg(self.core.keys(topic, partition).stream);
            length += reply::number(&self.core.ask(&command).await?).unwrap_or(0);
        }
        let mut properties = vec![("entries".to_owned(), length.to_string())];
        if !topic.is_foreign() {
            let mut command = redis::cmd("HGET");
            command.arg(self.core.topic_key(topic)).arg("retention");
            if let Some(kept) = reply::text(self.core.ask(&command).await?) {
                properties.push(("retention_ms".to_owned(), kept));
            }
        }
        Ok(TopicInfo::new(topic.clone(), (!topic.is_foreign()).then_some(count), properties))
    }

    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        groups::refuse_foreign(topic)?;
        let count = self.core.require_topic(topic).await?;
        for group in self.group_names(topic).await? {
            groups::delete(&self.core, topic, &group, count).await?;
        }
        let mut commands = redis::pipe();
        commands.cmd("SREM").arg(names::topics_key(&self.core.config.prefix)).arg(topic.as_str());
        commands.cmd("UNLINK").arg(self.core.topic_key(topic)).arg(self.core.groups_key(topic));
        for partition in 0..count {
            let delete = commands.cmd("UNLINK");
            for key in self.core.keys(topic, partition).own_keys() {
                delete.arg(key);
            }
        }
        for answer in self.core.ask_many(&commands).await? {
            checked(answer)?;
        }
        self.core.forget(topic);
        Ok(())
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        groups::declare(&self.core, spec, true).await
    }

    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        self.core.require_topic(topic).await?;
        let mut found = Vec::new();
        for group in self.group_names(topic).await? {
            let members = self.core.keys(topic, 0).members(group.as_str());
            let mut command = redis::cmd("ZCOUNT");
            command.arg(members).arg("(0").arg("+inf");
            let members = reply::number(&self.core.ask(&command).await?).and_then(|count| u32::try_from(count).ok());
            found.push(GroupInfo::new(group, members, Vec::new()));
        }
        Ok(found)
    }

    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        let count = groups::require(&self.core, topic, group).await?;
        groups::delete(&self.core, topic, group, count).await
    }

    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        let count = self.core.require_topic(topic).await?;
        let mut totals = [0_u64; 4];
        let mut partitions = Vec::new();
        for partition in 0..count {
            let (lag, numbers) = self.one_lag(topic, group, partition).await?;
            partitions.push(lag);
            for (total, number) in totals.iter_mut().zip(numbers) {
                *total += number;
            }
        }
        let [ready, unsettled, retrying, dead] = totals;
        Ok(Lag { ready, unsettled: Some(unsettled), retrying: Some(retrying), dead: Some(dead), partitions })
    }

    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        let count = groups::require(&self.core, topic, group).await?;
        let targets: Vec<(u32, String)> = match to {
            SeekTo::Earliest => (0..count).map(|partition| (partition, "0-0".to_owned())).collect(),
            SeekTo::Latest => (0..count).map(|partition| (partition, "$".to_owned())).collect(),
            SeekTo::Time(time) => (0..count).map(|partition| (partition, groups::before(*time).to_string())).collect(),
            SeekTo::Position(position) => {
                let (partition, id) = groups::place(position, count)?;
                vec![(partition, id.before().to_string())]
            }
            _ => return Err(Error::config("a group cannot be moved there").with_backend(BACKEND)),
        };
        let name = group.as_str();
        for (partition, id) in targets {
            let keys = self.core.keys(topic, partition);
            let named =
                [keys.stream.clone(), keys.waiting(name, false), keys.attempts(name, false), keys.members(name)];
            let mut command = script::call(&script::SEEK, &[&named[0], &named[1], &named[2], &named[3]]);
            command.arg(name).arg(id);
            self.core.ask(&command).await?;
        }
        Ok(())
    }

    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        let known = match self.core.require_topic(&spec.topic).await {
            Ok(count) => Some(count),
            Err(cause) if cause.kind() == ErrorKind::NotFound => None,
            Err(cause) => return Err(cause),
        };
        let group_known = known.is_some() && groups::require(&self.core, &spec.topic, &spec.group).await.is_ok();
        let count = known.unwrap_or(self.core.config.partitions);
        let mut items = Vec::new();
        if !spec.topic.is_foreign() {
            items.push(TopologyItem {
                kind: "hash",
                name: self.core.topic_key(&spec.topic),
                properties: vec![("partitions".to_owned(), count.to_string())],
                exists: Some(known.is_some()),
            });
        }
        for partition in 0..count {
            let keys = self.core.keys(&spec.topic, partition);
            for (stream, exists) in
                [(keys.stream.clone(), known.is_some()), (keys.inbox(spec.group.as_str()), group_known)]
            {
                items.push(TopologyItem {
                    kind: "stream",
                    name: stream,
                    properties: vec![("group".to_owned(), spec.group.as_str().to_owned())],
                    exists: Some(exists),
                });
            }
        }
        Ok(items)
    }

    async fn audit(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        match self.server.durability {
            Some(Durability::Always) => {}
            Some(Durability::EverySec) => warnings.push(
                "appendfsync everysec: a crash of the machine may lose what was confirmed within a second; set \
                 appendfsync always"
                    .to_owned(),
            ),
            Some(Durability::Memory) => warnings.push(
                "the server keeps messages in memory only: its end loses them; set appendonly yes and appendfsync always"
                    .to_owned(),
            ),
            None => warnings.push(
                "the user may not read the server's settings (CONFIG GET): how durable messages are is not known".to_owned(),
            ),
        }
        let config = &self.core.config;
        if !config.tls.enabled && !["127.0.0.1", "localhost", "::1"].contains(&config.host.as_str()) {
            warnings.push(
                "the connection is not encrypted: user, password and messages are readable on the network; use rediss://"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    async fn examine(&self, spec: &AuditSpec) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if self.server.durability == Some(Durability::Memory) {
            findings.push(Finding::warning(
                "no-append-only-file",
                "the server keeps messages in memory only: its end loses them",
                "set `appendonly yes` and `appendfsync always`",
            ));
        }
        if let Some(policy) = &self.server.eviction
            && policy.starts_with("allkeys")
        {
            findings.push(Finding::refusal(
                "eviction",
                format!("the server evicts streams when its memory is full: {policy}"),
                "set `maxmemory-policy noeviction`",
            ));
        }
        if !spec.group.topic.is_foreign() && self.core.require_topic(&spec.group.topic).await.is_err() {
            return Err(no_topic(&spec.group.topic));
        }
        if self.core.config.topology != Topology::Declare {
            match groups::require(&self.core, &spec.group.topic, &spec.group.group).await {
                Err(cause) if cause.kind() == ErrorKind::NotFound => findings.push(Finding::refusal(
                    "dead-letter-place",
                    format!("missing: the group `{}`, and with it the place of what fails", spec.group.group),
                    format!(
                        "let an operator create it: mq group create {} --group {}",
                        spec.group.topic, spec.group.group
                    ),
                )),
                other => drop(other?),
            }
        }
        Ok(findings)
    }

    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        let count = groups::require(&self.core, topic, group).await?;
        Ok(Box::new(RedisDeadLetters::new(Arc::clone(&self.core), topic.clone(), group.clone(), count)))
    }
}
