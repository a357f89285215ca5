//! Topics, groups, lag and seek.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::driver::{
    AdminDriver, DeadLetterDriver, Event, GroupInfo, GroupSpec, Lag, SeekTo, TopicInfo, TopicSpec, TopologyItem,
};
use crate::error::Result;
use crate::memory::broker::Connection;
use crate::memory::dead_letters::MemoryDeadLetters;
use crate::memory::lane::Owner;
use crate::memory::server::Server;
use crate::memory::state::{State, place};
use crate::memory::topic::TopicState;
use crate::name::{Group, Topic};
use crate::subscription::GroupMode;

pub(super) struct MemoryAdmin {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
}

impl MemoryAdmin {
    async fn run<T>(&self, operation: &'static str, what: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.connection.check("broker")?;
        self.server.passable().await.map_err(|error| error.with_operation(operation))?;
        let outcome = {
            let mut state = self.server.lock();
            state.check_up().and_then(|()| {
                state.advance_all();
                what(&mut state)
            })
        };
        self.server.room.ring();
        self.server.changed.ring();
        outcome.map_err(|error| error.with_operation(operation))
    }
}

#[async_trait]
impl AdminDriver for MemoryAdmin {
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.run("declare topic", |state| state.declare_topic(spec).map(drop)).await
    }

    async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        self.run("list topics", |state| {
            let mut topics: Vec<_> = state.topics.values().map(info).collect();
            topics.sort_by(|one, other| one.topic.cmp(&other.topic));
            Ok(topics)
        })
        .await
    }

    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo> {
        self.run("describe topic", |state| Ok(info(state.topic(topic)?.1))).await
    }

    async fn delete_topic(&self, topic: &Topic) -> Result<()> {
        self.run("delete topic", |state| state.delete_topic(topic)).await
    }

    async fn declare_group(&self, spec: &GroupSpec) -> Result<()> {
        self.run("declare group", |state| {
            let topic = state.topic_id(&spec.topic)?;
            state.join_group(topic, &spec.group, spec.mode, &spec.start, true).map(drop)
        })
        .await
    }

    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>> {
        self.run("list groups", |state| {
            let (_, topic) = state.topic(topic)?;
            let mut groups: Vec<_> = topic
                .groups
                .values()
                .map(|group| {
                    let mode = ("mode".to_owned(), mode_name(group.mode).to_owned());
                    GroupInfo::new(group.group.clone(), u32::try_from(group.seats.len()).ok(), vec![mode])
                })
                .collect();
            groups.sort_by(|one, other| one.group.cmp(&other.group));
            Ok(groups)
        })
        .await
    }

    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        self.run("delete group", |state| {
            let (topic_id, topic, id) = state.group(topic, group)?;
            topic.remove_group(id);
            state.wake_readers(topic_id);
            Ok(())
        })
        .await
    }

    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag> {
        self.run("lag", |state| state.lag(topic, group)).await
    }

    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        self.run("seek", |state| state.seek(topic, group, to)).await
    }

    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>> {
        self.run("topology", |state| {
            let topic = state.names.contains_key(&spec.topic);
            let group = state.group(&spec.topic, &spec.group).is_ok();
            let partitions = ("partitions".to_owned(), state.config.partitions.to_string());
            let mode = ("mode".to_owned(), mode_name(spec.mode).to_owned());
            let item = |kind, name: &str, properties, exists| TopologyItem {
                kind,
                name: name.to_owned(),
                properties: vec![properties],
                exists: Some(exists),
            };
            Ok(vec![
                item("topic", spec.topic.as_str(), partitions, topic),
                item("group", spec.group.as_str(), mode, group),
            ])
        })
        .await
    }

    async fn audit(&self) -> Result<Vec<String>> {
        Ok(vec!["messages live in this process and end with it".to_owned()])
    }

    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>> {
        self.run("dead letters", |state| state.group(topic, group).map(drop)).await?;
        Ok(Box::new(MemoryDeadLetters {
            server: Arc::clone(&self.server),
            connection: Arc::clone(&self.connection),
            topic: topic.clone(),
            group: group.clone(),
        }))
    }
}

fn mode_name(mode: GroupMode) -> &'static str {
    match mode {
        GroupMode::Shared => "shared",
        GroupMode::Ordered => "ordered",
    }
}

fn info(topic: &TopicState) -> TopicInfo {
    let properties = vec![
        ("groups".to_owned(), topic.groups.len().to_string()),
        ("messages".to_owned(), topic.count.to_string()),
        ("bytes".to_owned(), topic.bytes.to_string()),
    ];
    TopicInfo::new(topic.topic.clone(), u32::try_from(topic.log.len()).ok(), properties)
}

impl State {
    fn delete_topic(&mut self, topic: &Topic) -> Result<()> {
        let (id, _) = self.topic(topic)?;
        self.names.remove(topic);
        self.topics.remove(&id);
        self.wake_readers(id);
        Ok(())
    }

    /// Wakes everybody who reads the topic, also as a group that is no more.
    fn wake_readers(&mut self, topic: u32) {
        for member in self.members.values_mut() {
            if member.subs.iter().any(|sub| sub.topic == topic) {
                member.wake();
            }
        }
    }

    pub(super) fn lag(&mut self, topic: &Topic, group: &Group) -> Result<Lag> {
        let (_, topic, id) = self.group(topic, group)?;
        Ok(topic.groups.get(&id).map(|group| group.lag(&topic.log)).unwrap_or_default())
    }

    /// Moves a group at once, also under its consumers: what they have of the partitions is stale.
    fn seek(&mut self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()> {
        let (topic, _, id) = self.group(topic, group)?;
        let Self { topics, members, .. } = self;
        let Some(state) = topics.get_mut(&topic) else { return Ok(()) };
        let targets: Vec<(usize, u64)> = match to {
            SeekTo::Earliest => state.log.iter().map(|log| log.base).enumerate().collect(),
            SeekTo::Latest => state.log.iter().map(|log| log.end()).enumerate().collect(),
            SeekTo::Time(time) => state.log.iter().map(|log| log.offset_at(*time)).enumerate().collect(),
            SeekTo::Position(position) => vec![place(state, position)?],
        };
        let Some(group) = state.groups.get_mut(&id) else { return Ok(()) };
        for (index, offset) in &targets {
            let lane = &mut group.lanes[*index];
            lane.recall(None, false, |id, held| {
                if let Some(member) = members.get_mut(&id) {
                    member.settled(held);
                }
            });
            lane.seek(*offset);
        }
        for seat in &group.seats {
            let Some(member) = members.get_mut(&seat.member) else { continue };
            let (mut lost, mut kept) = (Vec::new(), Vec::new());
            for (index, _) in &targets {
                let lane = seat.lane_base + *index as u32;
                let (had, has) = match group.lanes[*index].owner {
                    Owner::Member(owner) => (owner == seat.member, owner == seat.member),
                    Owner::Leaving { from, .. } => (from == seat.member, false),
                    Owner::Nobody => (group.mode == GroupMode::Shared, group.mode == GroupMode::Shared),
                };
                lost.extend(had.then_some(lane));
                kept.extend(has.then_some(lane));
            }
            if !lost.is_empty() {
                member.push(Event::Lost(lost));
            }
            if !kept.is_empty() {
                member.push(Event::Assigned(kept));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryAdmin").finish_non_exhaustive()
    }
}
