//! The dead letters of a group: listed without being consumed, brought back, or removed.

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::dead_letter::{DeadLetter, DeadLetterRecord};
use mq_core::driver::DeadLetterDriver;
use mq_core::error::Result;
use mq_core::message::Position;
use mq_core::name::{Group, Topic};

use crate::core::Core;
use crate::error::{checked, unexpected};
use crate::names::Keys;
use crate::reply::{self, Entry, EntryId};
use crate::script;
use crate::wire::{self, Place};

/// How many are moved or removed at once.
const STEP: usize = 100;

#[derive(Debug)]
pub(crate) struct RedisDeadLetters {
    core: Arc<Core>,
    topic: Topic,
    group: Group,
    partitions: Vec<Keys>,
}

impl RedisDeadLetters {
    pub(crate) fn new(core: Arc<Core>, topic: Topic, group: Group, count: u32) -> Self {
        let partitions = (0..count).map(|partition| core.keys(&topic, partition)).collect();
        Self { core, topic, group, partitions }
    }

    /// The oldest `max` of all partitions.
    async fn oldest(&self, max: usize) -> Result<Vec<(usize, Entry)>> {
        let mut commands = redis::pipe();
        for keys in &self.partitions {
            let letters = keys.dead_letters(self.group.as_str());
            commands.cmd("XRANGE").arg(letters).arg("-").arg("+").arg("COUNT").arg(max);
        }
        let mut all = Vec::new();
        let answers = self.core.ask_many(&commands).await?;
        for (partition, answer) in answers.into_iter().enumerate() {
            all.extend(reply::entries(checked(answer)?).into_iter().map(|entry| (partition, entry)));
        }
        all.sort_by_key(|(partition, entry)| (entry.id, *partition));
        all.truncate(max);
        Ok(all)
    }

    fn letter(&self, partition: usize, entry: Entry) -> DeadLetter {
        let partition = u32::try_from(partition).unwrap_or(u32::MAX);
        let position = Position::Entry { partition, id: entry.id.to_string().into() };
        let (message, record) = wire::decode(Place { topic: &self.topic, partition, inbox: true }, entry);
        DeadLetter { message, record: DeadLetterRecord::from_headers(&record), position }
    }

    /// The ids by partition, in order.
    fn grouped(&self, oldest: &[(usize, Entry)]) -> Vec<(&Keys, Vec<EntryId>)> {
        let of = |at| oldest.iter().filter(move |(partition, _)| *partition == at).map(|(_, entry)| entry.id).collect();
        let all = self.partitions.iter().enumerate().map(|(at, keys)| (keys, of(at)));
        all.filter(|(_, ids): &(_, Vec<EntryId>)| !ids.is_empty()).collect()
    }

    async fn count(&self, commands: &redis::Pipeline) -> Result<u64> {
        let mut total = 0;
        for answer in self.core.asking.ask_many(commands, self.core.config.send_timeout).await? {
            total += reply::number(&checked(answer)?).ok_or_else(|| unexpected("a script"))?.unsigned_abs();
        }
        Ok(total)
    }
}

#[async_trait]
impl DeadLetterDriver for RedisDeadLetters {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        let oldest = self.oldest(max).await?;
        Ok(oldest.into_iter().map(|(partition, entry)| self.letter(partition, entry)).collect())
    }

    async fn redrive(&mut self, max: usize) -> Result<u64> {
        let mut moved = 0;
        while moved < max as u64 {
            let step = STEP.min(max - usize::try_from(moved).unwrap_or(max));
            let oldest = self.oldest(step).await?;
            if oldest.is_empty() {
                break;
            }
            let mut commands = redis::pipe();
            for (keys, ids) in self.grouped(&oldest) {
                let group = self.group.as_str();
                let mut command = script::call(&script::REDRIVE, &[&keys.dead_letters(group), &keys.inbox(group)]);
                for id in ids {
                    command.arg(id.to_string());
                }
                commands.add_command(command);
            }
            let count = self.count(&commands).await?;
            moved += count;
            if count == 0 {
                break;
            }
        }
        Ok(moved)
    }

    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        let now = self.left().await?;
        let wanted = max.unwrap_or(u64::MAX).min(now);
        let mut removed = 0;
        while removed < wanted {
            let step = STEP.min(usize::try_from(wanted - removed).unwrap_or(STEP));
            let oldest = self.oldest(step).await?;
            if oldest.is_empty() {
                break;
            }
            let mut commands = redis::pipe();
            for (keys, ids) in self.grouped(&oldest) {
                let delete = commands.cmd("XDEL").arg(keys.dead_letters(self.group.as_str()));
                for id in ids {
                    delete.arg(id.to_string());
                }
            }
            removed += self.count(&commands).await?;
        }
        Ok(removed)
    }
}

impl RedisDeadLetters {
    /// How many there are now.
    async fn left(&self) -> Result<u64> {
        let mut commands = redis::pipe();
        for keys in &self.partitions {
            commands.cmd("XLEN").arg(keys.dead_letters(self.group.as_str()));
        }
        self.count(&commands).await
    }
}
