//! Everything the broker knows, behind one lock: topics by number and name, and consumers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::driver::TopicSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::NAME;
use crate::memory::config::{MemoryConfig, check_partitions};
use crate::memory::faults::Plan;
use crate::memory::group::GroupState;
use crate::memory::halves::Halves;
use crate::memory::member::{Member, Members};
use crate::memory::topic::{Entry, Partition, TopicState};
use crate::message::{Message, Position};
use crate::name::{Group, Topic};
use crate::subscription::{GroupMode, StartFrom};

pub(super) struct State {
    pub(super) config: MemoryConfig,
    pub(super) clock: Clock,
    pub(super) topics: BTreeMap<u32, TopicState>,
    /// Ordered: with the few topics a test has, comparing beats hashing.
    pub(super) names: BTreeMap<Topic, u32>,
    pub(super) members: Members,
    pub(super) halves: Halves,
    /// The order of everything taken in; also numbers the copies groups make.
    pub(super) sequence: u64,
    pub(super) delivery: u64,
    pub(super) revocation: u64,
    pub(super) plan: Plan,
    number: u32,
}

impl State {
    pub(super) fn new(config: MemoryConfig, clock: Clock) -> Self {
        Self {
            config,
            clock,
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            members: Members::new(),
            halves: Halves::new(),
            sequence: 0,
            delivery: 0,
            revocation: 0,
            plan: Plan::default(),
            number: 0,
        }
    }

    /// A number no topic, group, consumer or session had before.
    pub(super) fn new_number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    pub(super) fn declare_topic(&mut self, spec: &TopicSpec) -> Result<u32> {
        spec.topic.check_declarable()?;
        if spec.replicas.is_some_and(|replicas| replicas > 1) {
            return Err(fail(ErrorKind::Unsupported, "a memory broker keeps one copy")
                .with_hint("leave the number of replicas out"));
        }
        if let Some(id) = self.names.get(&spec.topic)
            && let Some(known) = self.topics.get(id)
        {
            let differs = spec.partitions.is_some_and(|asked| asked as usize != known.log.len())
                || spec.retention.is_some_and(|asked| Some(asked) != known.retention);
            return if differs {
                Err(fail(ErrorKind::TopologyConflict, "the topic exists with other partitions or another retention")
                    .with_context("topic", &spec.topic)
                    .with_context("partitions", known.log.len())
                    .with_hint("delete it first, or ask for what it has"))
            } else {
                Ok(*id)
            };
        }
        let partitions = spec.partitions.unwrap_or(self.config.partitions);
        check_partitions(partitions)?;
        let id = self.new_number();
        self.topics.insert(id, TopicState::new(spec.topic.clone(), partitions, spec.retention));
        self.names.insert(spec.topic.clone(), id);
        Ok(id)
    }

    /// The number of a topic that is there, or may be created by being named.
    pub(super) fn topic_id(&mut self, topic: &Topic) -> Result<u32> {
        if let Some(id) = self.names.get(topic) {
            return Ok(*id);
        }
        check_owned(topic)?;
        if self.config.auto_create {
            return self.declare_topic(&TopicSpec::new(topic.clone()));
        }
        Err(no_topic(topic))
    }

    pub(super) fn topic(&mut self, topic: &Topic) -> Result<(u32, &mut TopicState)> {
        let Self { names, topics, .. } = self;
        match names.get(topic).and_then(|id| Some((*id, topics.get_mut(id)?))) {
            Some(found) => Ok(found),
            None => {
                check_owned(topic)?;
                Err(no_topic(topic))
            }
        }
    }

    pub(super) fn group(&mut self, topic: &Topic, group: &Group) -> Result<(u32, &mut TopicState, u32)> {
        let (id, state) = self.topic(topic)?;
        match state.groups.iter().find(|(_, known)| known.group == *group).map(|(id, _)| *id) {
            Some(group) => Ok((id, state, group)),
            None => Err(no_group(topic, group)),
        }
    }

    /// The number of the group; declares it when it is not there and `declare` is true.
    pub(super) fn join_group(
        &mut self,
        topic: u32,
        group: &Group,
        mode: GroupMode,
        start: &StartFrom,
        declare: bool,
    ) -> Result<u32> {
        let number = self.new_number();
        let Some(state) = self.topics.get_mut(&topic) else {
            return Err(fail(ErrorKind::NotFound, "the topic is gone"));
        };
        if let Some((id, known)) = state.groups.iter().find(|(_, known)| known.group == *group) {
            return if known.mode == mode {
                Ok(*id)
            } else {
                Err(fail(ErrorKind::TopologyConflict, "the mode of a group is fixed when it is created")
                    .with_context("topic", &state.topic)
                    .with_context("group", group)
                    .with_context("mode", format_args!("{:?}", known.mode))
                    .with_hint("use the group's mode, another group, or delete the group first"))
            };
        }
        if !declare {
            return Err(no_group(&state.topic, group));
        }
        let starts = starts(state, start)?;
        state.groups.insert(number, GroupState::new(group.clone(), mode, starts.into_iter()));
        Ok(number)
    }

    /// Stores a message now; wakes who waits for it.
    pub(super) fn store(&mut self, topic: u32, message: Message, size: usize, now: SystemTime) -> Position {
        self.sequence += 1;
        let Some(state) = self.topics.get_mut(&topic) else { return Position::None };
        let partition = state.partition_for(&message);
        let offset = state.append(partition, Entry { message, sequence: self.sequence, stored: now, size });
        for group in state.groups.values() {
            wake(group, &mut self.members);
        }
        Position::Log { partition, offset: i64::try_from(offset).unwrap_or(i64::MAX) }
    }

    /// Does what is due on a topic: delayed sends, retries, hand-overs.
    pub(super) fn advance(&mut self, topic: u32, now: SystemTime) {
        while let Some(state) = self.topics.get_mut(&topic)
            && let Some(first) = state.delayed.first_entry()
            && first.key().0 <= now
        {
            let send = first.remove();
            self.store(topic, send.message, send.size, now);
        }
        let Self { topics, members, sequence, revocation, .. } = self;
        let Some(state) = topics.get_mut(&topic) else { return };
        for group in state.groups.values_mut() {
            if group.release_due(now, sequence) {
                wake(group, members);
            }
            if group.enforce_drain(members, now) {
                group.rebalance(members, now, revocation);
                wake(group, members);
            }
        }
    }

    /// When something happens by itself on any topic.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        let sends = self.topics.values().filter_map(TopicState::next_send);
        let groups = self.topics.values().flat_map(|topic| topic.groups.values()).filter_map(GroupState::next_due);
        sends.chain(groups).min()
    }

    /// Does what is due on every topic: before anybody looks.
    pub(super) fn advance_all(&mut self) {
        let now = self.clock.now();
        let topics: Vec<u32> = self.topics.keys().copied().collect();
        for topic in topics {
            self.advance(topic, now);
        }
    }
}

/// Wakes the consumers of a group that wait for something.
pub(super) fn wake(group: &GroupState, members: &mut BTreeMap<u32, Member>) {
    for seat in &group.seats {
        if let Some(member) = members.get_mut(&seat.member) {
            member.wake();
        }
    }
}

/// The first offset of a new group in each partition.
fn starts(state: &TopicState, start: &StartFrom) -> Result<Vec<u64>> {
    let each = |offset: &dyn Fn(&Partition) -> u64| state.log.iter().map(offset).collect();
    Ok(match start {
        StartFrom::SinceDeclared | StartFrom::Latest => each(&|log| log.end()),
        StartFrom::Earliest => each(&|log| log.base),
        StartFrom::Time(time) => each(&|log| log.offset_at(*time)),
        StartFrom::Position(position) => {
            let (partition, offset) = place(state, position)?;
            // The other partitions from the oldest on: a start that skips nothing unasked.
            let mut starts: Vec<u64> = each(&|log| log.base);
            if let Some(start) = starts.get_mut(partition) {
                *start = offset;
            }
            starts
        }
    })
}

/// A position as partition and offset, moved up to the oldest message kept.
pub(super) fn place(state: &TopicState, position: &Position) -> Result<(usize, u64)> {
    let bad = |what: String| Err(Error::config(what).with_backend(NAME).with_context("position", position));
    let Position::Log { partition, offset } = position else {
        return bad("positions of a memory broker are PARTITION:OFFSET".to_owned());
    };
    let Some(log) = state.log.get(*partition as usize) else {
        return bad(format!("the topic has the partitions 0 to {}", state.log.len() - 1));
    };
    match u64::try_from(*offset) {
        Ok(offset) if offset <= log.end() => Ok((*partition as usize, offset.max(log.base))),
        _ => bad(format!("the partition has the offsets {} to {}", log.base, log.end())),
    }
}

/// An error of this broker.
pub(super) fn fail(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend(NAME)
}

pub(super) fn no_topic(topic: &Topic) -> Error {
    fail(ErrorKind::NotFound, "the topic does not exist")
        .with_context("topic", topic)
        .with_hint(format!("mq topic create {topic}"))
}

pub(super) fn no_group(topic: &Topic, group: &Group) -> Error {
    fail(ErrorKind::NotFound, "the group does not exist")
        .with_context("topic", topic)
        .with_context("group", group)
        .with_hint(format!("mq group create {topic} --group {group}"))
}

/// Refuses places of other programs: there are none in this process.
fn check_owned(topic: &Topic) -> Result<()> {
    if topic.is_foreign() {
        return Err(fail(
            ErrorKind::Unsupported,
            "a memory broker has no queues, exchanges or streams of other programs",
        )
        .with_context("topic", topic)
        .with_hint("use a plain topic name"));
    }
    Ok(())
}
