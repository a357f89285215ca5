//! The dead letters of a group: listed, brought back, deleted.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::dead_letter::DeadLetter;
use crate::driver::{DeadLetterDriver, Origin};
use crate::error::Result;
use crate::memory::broker::Connection;
use crate::memory::flight::{Own, Trail};
use crate::memory::group::{Dead, GroupState};
use crate::memory::server::Server;
use crate::memory::state::{State, wake};
use crate::message::Position;
use crate::name::{Group, Topic, fnv1a};

pub(super) struct MemoryDeadLetters {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    pub(super) topic: Topic,
    pub(super) group: Group,
}

impl MemoryDeadLetters {
    async fn run<T>(&self, operation: &'static str, what: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.connection.check("broker")?;
        self.server.passable().await.map_err(|error| error.with_operation(operation))?;
        let outcome = {
            let mut state = self.server.lock();
            state.check_up().and_then(|()| what(&mut state))
        };
        self.server.room.ring();
        self.server.changed.ring();
        outcome.map_err(|error| error.with_operation(operation))
    }
}

#[async_trait]
impl DeadLetterDriver for MemoryDeadLetters {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        self.run("list dead letters", |state| state.dead_letters(&self.topic, &self.group, max)).await
    }

    async fn redrive(&mut self, max: usize) -> Result<u64> {
        self.run("redrive", |state| state.redrive(&self.topic, &self.group, max)).await
    }

    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        self.run("purge", |state| state.purge(&self.topic, &self.group, max)).await
    }
}

impl State {
    pub(super) fn dead_letters(&mut self, topic: &Topic, group: &Group, max: usize) -> Result<Vec<DeadLetter>> {
        let (_, topic, id) = self.group(topic, group)?;
        let dead = topic.groups.get(&id).into_iter().flat_map(|group| &group.dead);
        let listed = dead.take(max).map(|dead| DeadLetter {
            message: dead.message.clone(),
            record: Some(dead.record.clone()),
            position: Position::Log { partition: 0, offset: dead.number },
        });
        Ok(listed.collect())
    }

    fn redrive(&mut self, topic: &Topic, group: &Group, max: usize) -> Result<u64> {
        let (topic, _, id) = self.group(topic, group)?;
        let Self { topics, members, sequence, .. } = self;
        let Some(group) = topics.get_mut(&topic).and_then(|topic| topic.groups.get_mut(&id)) else { return Ok(0) };
        let count = max.min(group.dead.len());
        let dead: Vec<Dead> = group.dead.drain(..count).collect();
        for dead in dead {
            *sequence += 1;
            bring_back(group, *sequence, dead);
        }
        wake(group, members);
        Ok(count as u64)
    }

    fn purge(&mut self, topic: &Topic, group: &Group, max: Option<u64>) -> Result<u64> {
        let (_, topic, id) = self.group(topic, group)?;
        let Some(group) = topic.groups.get_mut(&id) else { return Ok(0) };
        let all = group.dead.len();
        let count = max.map_or(all, |max| usize::try_from(max).map_or(all, |max| max.min(all)));
        let sizes: Vec<usize> = group.dead.drain(..count).map(|dead| dead.size).collect();
        for size in sizes {
            topic.forget(size);
        }
        Ok(count as u64)
    }
}

fn bring_back(group: &mut GroupState, sequence: u64, dead: Dead) {
    let lanes = group.lanes.len() as u64;
    let (partition, offset) = match dead.record.position {
        Position::Log { partition, offset } if u64::from(partition) < lanes => (partition, offset),
        _ => ((fnv1a(dead.message.key_bytes().map_or(&[][..], |key| key)) % lanes) as u32, 0),
    };
    let own = Own {
        message: dead.message,
        size: dead.size,
        trail: Trail::NEW,
        redrives: dead.record.redrives.saturating_add(1),
        origin: Origin::Redrive,
        offset: u64::try_from(offset).unwrap_or(0),
    };
    group.lanes[partition as usize].enqueue(sequence, own);
}

impl fmt::Debug for MemoryDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDeadLetters")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}
