//! Topics, groups, lag, seek and dead letters.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::dead_letter::DeadLetter;
use crate::driver::{AuditSpec, Finding};
use crate::error::Result;
use crate::message::Position;
use crate::name::{Group, Topic};
use crate::subscription::{GroupMode, StartFrom};

/// A topic to be declared. What is `None` is the adapter's default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Its name.
    pub topic: Topic,
    /// Partitions, where the broker has any.
    pub partitions: Option<u32>,
    /// Copies, where the broker has any.
    pub replicas: Option<u32>,
    /// How long messages are kept, where the broker keeps them.
    pub retention: Option<Duration>,
}

impl TopicSpec {
    /// A topic with the adapter's defaults.
    pub fn new(topic: Topic) -> Self {
        Self { topic, partitions: None, replicas: None, retention: None }
    }

    /// Sets the partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

/// A group to be declared.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupSpec {
    /// The topic it reads.
    pub topic: Topic,
    /// Its name.
    pub group: Group,
    /// Where a new group starts.
    pub start: StartFrom,
    /// Shared or ordered; cannot change later where the broker makes it a property of the group.
    pub mode: GroupMode,
    /// The retry delays whose places are declared with it.
    pub retry_delays: Vec<Duration>,
}

impl GroupSpec {
    /// A shared group that starts with what is sent from now on (a log: with the oldest).
    pub fn new(topic: Topic, group: Group) -> Self {
        Self { topic, group, start: StartFrom::default(), mode: GroupMode::default(), retry_delays: Vec::new() }
    }
}

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// Partitions, where the broker has any.
    pub partitions: Option<u32>,
    /// Properties as the broker names them, for people.
    pub properties: Vec<(String, String)>,
}

impl TopicInfo {
    /// What is known of `topic`.
    pub fn new(topic: Topic, partitions: Option<u32>, properties: Vec<(String, String)>) -> Self {
        Self { topic, partitions, properties }
    }
}

/// A group as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub group: Group,
    /// Consumers now, where the broker says.
    pub members: Option<u32>,
    /// Properties as the broker names them, for people.
    pub properties: Vec<(String, String)>,
}

impl GroupInfo {
    /// What is known of `group`.
    pub fn new(group: Group, members: Option<u32>, properties: Vec<(String, String)>) -> Self {
        Self { group, members, properties }
    }
}

/// How far a group is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages waiting, retries that are due or not included where the broker can tell.
    pub ready: u64,
    /// Delivered and not settled, where the broker can tell.
    pub unsettled: Option<u64>,
    /// Messages waiting for a retry.
    pub retrying: Option<u64>,
    /// Dead letters.
    pub dead: Option<u64>,
    /// By partition, where there are any.
    pub partitions: Vec<PartitionLag>,
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition.
    pub partition: u32,
    /// Messages waiting.
    pub ready: u64,
    /// The group's place.
    pub position: Position,
    /// The end of the partition.
    pub end: Position,
}

/// Where a group is moved to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeekTo {
    /// The oldest retained message.
    Earliest,
    /// Behind the newest.
    Latest,
    /// The first message at or after this time.
    Time(SystemTime),
    /// This position, in its partition.
    Position(Position),
}

/// Something operators must create, when the program may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyItem {
    /// What it is: `topic`, `exchange`, `queue`, `binding`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its properties, as the broker names them.
    pub properties: Vec<(String, String)>,
    /// True when it exists already, where that was checked.
    pub exists: Option<bool>,
}

/// Topics and groups. Every call ends within the connect deadline of the configuration, or within its own.
#[async_trait]
pub trait AdminDriver: Send + Sync + fmt::Debug {
    /// Declares a topic; nothing happens when it is there as asked,
    /// [`ErrorKind::TopologyConflict`](crate::error::ErrorKind::TopologyConflict) when it differs.
    async fn declare_topic(&self, spec: &TopicSpec) -> Result<()>;
    /// The topics the SDK or others declared.
    async fn list_topics(&self) -> Result<Vec<TopicInfo>>;
    /// One topic; [`ErrorKind::NotFound`](crate::error::ErrorKind::NotFound) when it is not there.
    async fn describe_topic(&self, topic: &Topic) -> Result<TopicInfo>;
    /// Deletes a topic and what was derived from it for the groups it can find.
    async fn delete_topic(&self, topic: &Topic) -> Result<()>;
    /// Declares a group with its retry and dead-letter places.
    async fn declare_group(&self, spec: &GroupSpec) -> Result<()>;
    /// The groups of a topic.
    async fn list_groups(&self, topic: &Topic) -> Result<Vec<GroupInfo>>;
    /// Deletes a group with its retry and dead-letter places.
    async fn delete_group(&self, topic: &Topic, group: &Group) -> Result<()>;
    /// How far the group is behind.
    async fn lag(&self, topic: &Topic, group: &Group) -> Result<Lag>;
    /// Moves the group. Where the broker allows that only without members, it says so.
    async fn seek(&self, topic: &Topic, group: &Group, to: &SeekTo) -> Result<()>;
    /// Everything that must exist for `spec`, for people who create it by hand.
    async fn topology(&self, spec: &GroupSpec) -> Result<Vec<TopologyItem>>;
    /// What an operator should know before trusting this set-up: one warning each, with the reason.
    async fn audit(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// What is risky about the set-up of one group. Changes nothing.
    ///
    /// A worker asks before its first message: warnings are logged, a refusal ends the start.
    async fn examine(&self, spec: &AuditSpec) -> Result<Vec<Finding>> {
        let _ = spec;
        Ok(Vec::new())
    }
    /// The dead letters of a group.
    async fn dead_letters(&self, topic: &Topic, group: &Group) -> Result<Box<dyn DeadLetterDriver>>;
}

/// The dead letters of one group.
#[async_trait]
pub trait DeadLetterDriver: Send + fmt::Debug {
    /// The oldest `max`; listing never consumes, however often.
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>>;
    /// Brings back the oldest, at most `max`: stores each for the failing group only, with attempt 1 and one redrive
    /// more, confirmed, then removes it here. Returns how many; 0 when there are none. A crash in between repeats
    /// one, loses none.
    async fn redrive(&mut self, max: usize) -> Result<u64>;
    /// Deletes the oldest, at most `max`; `None` is all there are now. Returns how many.
    async fn purge(&mut self, max: Option<u64>) -> Result<u64>;
}
