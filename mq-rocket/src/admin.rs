//! Topics, groups, lag and positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use mq_core::config::Topology as Mode;
use mq_core::driver::{
    AdminDriver, AuditSpec, DeadLetterDriver, Finding, GroupInfo, GroupSpec, Lag, PartitionLag, SeekTo, TopicInfo,
    TopicSpec, TopologyItem,
};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use mq_core::name::{Group, Topic};
use mq_core::subscription::GroupMode;
use tokio::time::Instant;

use crate::attempts;
use crate::audit::Settings;
use crate::core::Core;
use crate::dead_letters::RocketDeadLetters;
use crate::error::{BACKEND, error};
use crate::gaps::Gaps;
use crate::names;
use crate::remoting::{Command, code};
use crate::route::{Node, Queue, Route};
use crate::sending::position;
use crate::source::Source;
use crate::topology::{self, Place};

#[derive(Debug)]
pub(crate) struct RocketAdmin {
    core: Arc<Core>,
}

impl RocketAdmin {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn require_group(&self, topic: &Topic, group: &Group, deadline: Instant) -> Result<(Place, Arc<Route>)> {
        let place = Place::new(topic, group)?;
        let route = self.core.fresh_route(&place.topic, deadline).await?;
        if topology::has_topic(&self.core, &place.retry, deadline).await? {
            return Ok((place, route));
        }
        Err(error(ErrorKind::NotFound, "the group does not exist")
            .with_context("topic", topic)
            .with_context("group", group)
            .with_hint("create it: mq group create"))
    }

    /// Where the group stands in each queue, and behind which offset the queue ends.
    async fn behind(&self, place: &Place, topic: &str, queue: &Queue, deadline: Instant) -> Result<(i64, i64)> {
        let first = topology::bound(&self.core, topic, queue, code::GET_MIN_OFFSET, deadline).await?;
        let end = topology::bound(&self.core, topic, queue, code::GET_MAX_OFFSET, deadline).await?;
        let committed = topology::committed(&self.core, place, topic, queue, deadline).await?;
        Ok((committed.unwrap_or(first).max(first), end))
    }

    async fn waiting(&self, place: &Place, topic: &str, deadline: Instant) -> Result<u64> {
        let mut sum = 0;
        for queue in &self.core.fresh_route(topic, deadline).await?.readable {
            let (at, end) = self.behind(place, topic, queue, deadline).await?;
            sum += count(at, end);
        }
        Ok(sum)
    }

    /// Refuses to count without a broker that was there a moment ago.
    fn check_whole(&self, place: &Place) -> Result<()> {
        let places = [&place.topic, &place.retry, &place.dead_letters];
        let away: BTreeSet<String> = places.iter().flat_map(|place| self.core.routes.missing(place)).collect();
        if away.is_empty() {
            return Ok(());
        }
        let away = away.into_iter().collect::<Vec<_>>().join(", ");
        Err(error(ErrorKind::Unavailable, "brokers of the topic are away: what they have is not known")
            .with_context("brokers", away)
            .with_hint("ask again when they are back; consumers go on with the others"))
    }

    fn info(topic: &Topic, route: &Route) -> TopicInfo {
        let partitions = u32::try_from(route.readable.len()).ok();
        let brokers: Vec<&str> = route.nodes.iter().map(|node| node.name.as_str()).collect();
        TopicInfo::new(topic.clone(), partitions, vec![("brokers".to_owned(), brokers.join(","))])
    }
}

/// How many queues each of its brokers has.
fn shares(route: &Route) -> Vec<u32> {
    let mut shares = BTreeMap::new();
    for queue in &route.writable {
        *shares.entry(&queue.broker.name).or_insert(0) += 1;
    }
    shares.into_values().collect()
}

/// True when a topic was not declared with so many partitions. One that was declared while a broker was away has more at
/// the others, and later some at that one.
fn is_other(shares: &[u32], partitions: u32, brokers: u32) -> bool {
    let share = partitions.div_ceil(brokers).max(1);
    let fewer = u32::try_from(shares.len()).is_ok_and(|count| count < brokers);
    let even = shares.windows(2).all(|two| two.first() == two.last());
    if even && !fewer {
        return shares.first() != Some(&share);
    }
    !shares.iter().all(|queues| (share..=partitions.max(share)).contains(queues))
}

fn count(at: i64, end: i64) -> u64 {
    u64::try_from(end.saturating_sub(at)).unwrap_or(0)
}

#[async_trait]
impl AdminDriver for RocketAdmin {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        spec.topic.check_declarable()?;
        let refuse = |what: &'static str, hint: &'static str| {
            Err(Error::config(format!("a topic on RocketMQ has no {what}")).with_backend(BACKEND).with_hint(hint))
        };
        if spec.replicas.is_some_and(|replicas| replicas > 1) {
            return refuse("replicas of its own", "leave them out: the broker's set-up decides for all its topics");
        }
        if spec.retention.is_some() {
            return refuse(
                "retention of its own",
                "leave it out: the broker's fileReservedTime holds for all its topics",
            );
        }
        let deadline = self.core.deadline();
        let nodes = self.core.nodes(deadline).await?;
        let name = names::topic(&spec.topic)?;
        let brokers = u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        let queues = spec.partitions.unwrap_or(self.core.config.partitions).div_ceil(brokers).max(1);
        let mut away: BTreeSet<String> = self.core.missing_nodes().into_iter().collect();
        if topology::has_topic(&self.core, &name, deadline).await? {
            let route = self.core.route(&name, deadline).await?;
            let known = self.core.routes.missing(&name);
            if let Some(partitions) = spec.partitions
                && known.is_empty()
                && is_other(&shares(&route), partitions, brokers)
            {
                return Err(error(ErrorKind::TopologyConflict, "the topic exists with another number of partitions")
                    .with_context("topic", &spec.topic)
                    .with_context("partitions", route.writable.len())
                    .with_hint(
                        "ask for the same, or delete the topic and declare it anew; is one of its brokers away?",
                    ));
            }
            // Those have it.
            away.retain(|broker| !known.contains(broker));
        }
        away.extend(topology::create_topic(&self.core, &name, queues, &nodes, deadline).await?);
        topology::done_on_all(&away, "brokers that are away do not have the topic yet")
            .map_err(|cause| cause.with_context("topic", &spec.topic))
    }

    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        let deadline = self.core.deadline();
        let (own, _) = topology::list_own(&self.core, deadline).await?;
        let mut topics = Vec::new();
        for name in topology::list(&self.core, deadline).await? {
            if own.contains(&name) || names::is_derived(&name) || name.starts_with("rmq_sys_") {
                continue;
            }
            let Some(topic) = names::portable(&name) else { continue };
            // One that was deleted in between is none.
            if let Ok(route) = self.core.route(&name, deadline).await {
                topics.push(Self::info(&topic, &route));
            }
        }
        Ok(topics)
    }

    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let route = self.core.fresh_route(&names::topic(topic)?, self.core.deadline()).await?;
        Ok(Self::info(topic, &route))
    }

    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        topic.check_declarable()?;
        let deadline = self.core.deadline();
        let name = names::topic(topic)?;
        let nodes = self.core.fresh_route(&name, deadline).await?.nodes.clone();
        for info in self.list_groups(topic).await? {
            topology::delete(&self.core, &Place::new(topic, &info.group)?, deadline).await?;
        }
        topology::delete_topic(&self.core, &name, &nodes, deadline).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        let place = Place::new(&spec.topic, &spec.group)?;
        let ordered = spec.mode == GroupMode::Ordered;
        let away = topology::declare(&self.core, &place, &spec.start, ordered, self.core.deadline()).await?;
        topology::done_on_all(&away, "brokers that are away do not know of the group yet")
            .map_err(|cause| cause.with_context("group", &spec.group))
    }

    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        let deadline = self.core.deadline();
        self.core.fresh_route(&names::topic(topic)?, deadline).await?;
        let names = topology::list(&self.core, deadline).await?;
        let groups = names.iter().filter_map(|name| names::group_of_retry(topic, name));
        Ok(groups.map(|group| GroupInfo::new(group, None, Vec::new())).collect())
    }

    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        let deadline = self.core.deadline();
        let (place, _) = self.require_group(topic, group, deadline).await?;
        topology::delete(&self.core, &place, deadline).await
    }

    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        let deadline = self.core.deadline();
        let (place, route) = self.require_group(topic, group, deadline).await?;
        self.check_whole(&place)?;
        let mut lag = Lag::default();
        for queue in &route.readable {
            let (at, end) = self.behind(&place, &place.topic, queue, deadline).await?;
            lag.ready += count(at, end);
            lag.partitions.push(PartitionLag {
                partition: queue.partition(),
                ready: count(at, end),
                position: position(queue, at),
                end: position(queue, end),
            });
        }
        lag.ready += self.waiting(&place, &place.retry, deadline).await?;
        // What was given back waits in topics that the broker makes when it first needs them.
        for given_back in [place.given_back(&place.topic), place.given_back(&place.retry)] {
            for node in &route.nodes {
                for queue in topology::queues_at(&self.core, node, &given_back, deadline).await? {
                    let (at, end) = self.behind(&place, &given_back, &queue, deadline).await?;
                    lag.ready += count(at, end);
                }
            }
        }
        lag.dead = Some(self.waiting(&place, &place.dead_letters, deadline).await?);
        Ok(lag)
    }

    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        let deadline = self.core.deadline();
        let (place, route) = self.require_group(topic, group, deadline).await?;
        if !matches!(to, SeekTo::Position(_)) {
            self.check_whole(&place)?;
        }
        let [source, _] = Source::of_group(topic, group)?;
        let ordered = topology::has_topic(&self.core, &place.attempts, deadline).await?;
        // First all places, so that a broker that is away leaves the group where it is.
        let mut places = Vec::new();
        for queue in &route.readable {
            let offset = match to {
                SeekTo::Earliest => {
                    topology::bound(&self.core, &place.topic, queue, code::GET_MIN_OFFSET, deadline).await?
                }
                SeekTo::Latest => {
                    topology::bound(&self.core, &place.topic, queue, code::GET_MAX_OFFSET, deadline).await?
                }
                SeekTo::Time(at) => topology::at_time(&self.core, &place.topic, queue, *at, deadline).await?,
                SeekTo::Position(Position::Log { partition, offset }) if *partition == queue.partition() => *offset,
                _ => continue,
            };
            places.push((queue, offset));
        }
        for (queue, offset) in &places {
            let gaps = Gaps::new(&queue.broker, &place.group.as_str().into(), &place.topic, queue.id);
            gaps.clear(&self.core, deadline).await?;
            if ordered {
                attempts::forget(&self.core, &source, queue).await?;
            }
            let command = Command::request(code::RESET_OFFSET)
                .field("topic", &place.topic)
                .field("group", &place.group)
                .field("queueId", queue.id)
                .field("offset", offset)
                .field("timestamp", -1)
                .field("isForce", true);
            self.core.ask_soon(&queue.broker, command, deadline).await?.success()?;
        }
        if !places.is_empty() {
            return Ok(());
        }
        Err(Error::config("the topic has no such partition").with_backend(BACKEND).with_context("topic", topic))
    }

    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        let deadline = self.core.deadline();
        let place = Place::new(&spec.topic, &spec.group)?;
        let own = |queues: u32| vec![("queues".to_owned(), queues.to_string()), ("perm".to_owned(), "6".to_owned())];
        let mut items = Vec::new();
        let queues = self.core.config.partitions;
        let topics = [(&place.topic, queues), (&place.retry, 1), (&place.dead_letters, 1)];
        let attempts = (spec.mode == GroupMode::Ordered).then_some((&place.attempts, queues));
        for (name, queues) in topics.into_iter().chain(attempts) {
            let exists = topology::has_topic(&self.core, name, deadline).await?;
            items.push(TopologyItem {
                kind: "topic",
                name: name.clone(),
                properties: own(queues),
                exists: Some(exists),
            });
        }
        let nodes = self.core.nodes(deadline).await?;
        let (core, group) = (&*self.core, &place.group);
        let ask = |node: Arc<Node>| async move { topology::group_config(core, &node, group, deadline).await };
        let exists = topology::on_each(&nodes, ask).await?.done.iter().all(|(_, config)| config.is_some());
        let ordered = (spec.mode == GroupMode::Ordered).to_string();
        items.push(TopologyItem {
            kind: "group",
            name: place.group,
            properties: vec![("consumeMessageOrderly".to_owned(), ordered)],
            exists: Some(exists),
        });
        Ok(items)
    }

    async fn audit(&self) -> Result<Vec<String>> {
        let settings = Settings::read(&self.core, self.core.deadline()).await?;
        let (settings, away) = settings;
        let mut warnings: Vec<String> = settings.iter().flat_map(Settings::warnings).collect();
        warnings.extend(away.iter().map(|broker| format!("{broker}: away: what is risky about it is not known")));
        let config = &self.core.config;
        let here = |host: &String| ["127.0.0.1", "localhost", "[::1]"].iter().any(|here| host.starts_with(here));
        if !config.tls.enabled && !config.hosts.iter().all(here) {
            warnings.push(
                "the connection is not encrypted: messages are readable on the network; use rocketmqs://".to_owned(),
            );
        }
        Ok(warnings)
    }

    async fn examine(&self, spec: &AuditSpec) -> Result<Vec<Finding>> {
        let deadline = self.core.deadline();
        let GroupSpec { topic, group, retry_delays, mode, .. } = &spec.group;
        let place = Place::new(topic, group)?;
        self.core.fresh_route(&place.topic, deadline).await?;
        let (settings, _) = Settings::read(&self.core, deadline).await?;
        let mut findings: Vec<Finding> =
            settings.iter().flat_map(|one| one.findings(&self.core.config, retry_delays)).collect();
        let ordered = *mode == GroupMode::Ordered;
        let declares = self.core.config.topology == Mode::Declare;
        if !declares && !topology::exists(&self.core, &place, ordered, deadline).await? {
            findings.push(Finding::refusal(
                "dead-letter-place",
                format!("missing: places of the group `{group}`: what fails could be stored nowhere"),
                format!("let an operator create what `mq topology {topic} --group {group}` prints"),
            ));
        }
        Ok(findings)
    }

    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        self.require_group(topic, group, self.core.deadline()).await?;
        Ok(Box::new(RocketDeadLetters::new(Arc::clone(&self.core), topic, group)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_met_a_broker_away_is_no_other() {
        for (shares, partitions, brokers) in [(&[4][..], 4, 1), (&[2, 2], 4, 2), (&[4], 4, 2), (&[2, 4], 4, 2)] {
            assert!(!is_other(shares, partitions, brokers), "{shares:?}");
        }
        for (shares, partitions, brokers) in
            [(&[4][..], 2, 1), (&[2], 4, 1), (&[4, 4], 4, 2), (&[1, 1], 4, 2), (&[1], 4, 2)]
        {
            assert!(is_other(shares, partitions, brokers), "{shares:?}");
        }
    }
}
