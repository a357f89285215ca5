//! The dead letters of a group: a topic read by position, so that listing consumes nothing. What the group has committed
//! there is what was brought back or deleted.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use mq_core::dead_letter::{DeadLetter, DeadLetterRecord};
use mq_core::driver::DeadLetterDriver;
use mq_core::error::Result;
use mq_core::message::{Headers, Message, Position, control};
use mq_core::name::{Group, Topic};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::answer;
use crate::remoting::{Command, code};
use crate::route::Queue;
use crate::stored::{self, Stored};
use crate::topology::{self, Place};
use crate::wire;

/// How many are brought back side by side.
const STEP: usize = 32;
/// Reads as a subscription that the request itself names.
const SUBSCRIPTION: u32 = 4;

#[derive(Debug)]
pub(crate) struct RocketDeadLetters {
    core: Arc<Core>,
    topic: Topic,
    group: Group,
    place: Place,
}

/// One dead letter, and what its headers say.
struct Letter {
    message: Message,
    reserved: Headers,
    position: Position,
}

impl RocketDeadLetters {
    pub(crate) fn new(core: Arc<Core>, topic: &Topic, group: &Group) -> Result<Self> {
        let place = Place::new(topic, group)?;
        Ok(Self { core, topic: topic.clone(), group: group.clone(), place })
    }

    async fn queues(&self, deadline: Instant) -> Result<Vec<Queue>> {
        Ok(self.core.fresh_route(&self.place.dead_letters, deadline).await?.readable.clone())
    }

    /// Where the first stands that was not brought back or deleted, and behind the last.
    async fn bounds(&self, queue: &Queue, deadline: Instant) -> Result<(i64, i64)> {
        let letters = &self.place.dead_letters;
        let first = topology::bound(&self.core, letters, queue, code::GET_MIN_OFFSET, deadline).await?;
        let end = topology::bound(&self.core, letters, queue, code::GET_MAX_OFFSET, deadline).await?;
        let done = topology::committed(&self.core, &self.place, letters, queue, deadline).await?;
        Ok((done.unwrap_or(0).max(first), end))
    }

    /// Up to `max`, from `offset` on.
    async fn read(&self, queue: &Queue, mut offset: i64, end: i64, max: usize) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        while letters.len() < max && offset < end {
            let command = Command::request(code::PULL_MESSAGE)
                .field("consumerGroup", &self.place.group)
                .field("topic", &self.place.dead_letters)
                .field("queueId", queue.id)
                .field("queueOffset", offset)
                .field("maxMsgNums", (max - letters.len()).min(STEP))
                .field("sysFlag", SUBSCRIPTION)
                .field("commitOffset", 0)
                .field("suspendTimeoutMillis", 0)
                .field("subscription", "*")
                .field("subVersion", 0)
                .field("expressionType", "TAG");
            let pulled = self.core.ask_soon(&queue.broker, command, self.core.deadline()).await?;
            let next: i64 = pulled.number("nextBeginOffset").unwrap_or(offset);
            match pulled.code {
                answer::SUCCESS => {
                    let came = stored::decode(pulled.body)?;
                    letters.extend(came.into_iter().map(|stored| self.letter(queue, stored)));
                }
                answer::PULL_NOT_FOUND | answer::PULL_RETRY_IMMEDIATELY | answer::PULL_OFFSET_MOVED => {}
                _ => return Err(pulled.refusal()),
            }
            if next <= offset {
                break;
            }
            offset = next;
        }
        letters.truncate(max);
        Ok(letters)
    }

    fn letter(&self, queue: &Queue, stored: Stored) -> Letter {
        let position = Position::Log { partition: queue.partition(), offset: stored.offset };
        let decoded = wire::decode(&self.topic, stored);
        Letter { message: decoded.message, reserved: decoded.reserved, position }
    }

    async fn bring_back(&self, letter: &Letter) -> Result<()> {
        let redrives = control::number(&letter.reserved, control::REDRIVES).unwrap_or(0).saturating_add(1);
        let mut patch = Headers::with_capacity(3);
        patch.append(control::ATTEMPT, "1");
        patch.append(control::GROUP, self.group.as_str().to_owned());
        patch.append(control::REDRIVES, redrives.to_string());
        self.core.store(&self.place.retry, &wire::hop(&letter.message, &patch)?).await
    }

    async fn forget(&self, queue: &Queue, next: i64) -> Result<()> {
        let letters = &self.place.dead_letters;
        topology::commit(&self.core, &self.place, letters, queue, next, self.core.deadline()).await
    }
}

fn behind(letter: &Letter) -> Option<i64> {
    match letter.position {
        Position::Log { offset, .. } => Some(offset.saturating_add(1)),
        _ => None,
    }
}

#[async_trait]
impl DeadLetterDriver for RocketDeadLetters {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        let deadline = self.core.deadline();
        let mut listed = Vec::new();
        for queue in self.queues(deadline).await? {
            let (first, end) = self.bounds(&queue, deadline).await?;
            let letters = self.read(&queue, first, end, max - listed.len()).await?;
            listed.extend(letters.into_iter().map(|letter| DeadLetter {
                record: DeadLetterRecord::from_headers(&letter.reserved),
                message: letter.message,
                position: letter.position,
            }));
            if listed.len() >= max {
                break;
            }
        }
        Ok(listed)
    }

    async fn redrive(&mut self, max: usize) -> Result<u64> {
        let deadline = self.core.deadline();
        let mut moved = 0;
        for queue in self.queues(deadline).await? {
            // Those that come while this runs are for the next call.
            let (mut first, end) = self.bounds(&queue, deadline).await?;
            while moved < max {
                let letters = self.read(&queue, first, end, STEP.min(max - moved)).await?;
                if letters.is_empty() {
                    break;
                }
                let stored = join_all(letters.iter().map(|letter| self.bring_back(letter))).await;
                let good = stored.iter().take_while(|result| result.is_ok()).count();
                // First the new place, then the removal.
                if let Some(next) = good.checked_sub(1).and_then(|last| letters.get(last)).and_then(behind) {
                    self.forget(&queue, next).await?;
                    first = next;
                }
                moved += good;
                if let Some(failed) = stored.into_iter().find(Result::is_err) {
                    failed?;
                }
            }
        }
        Ok(moved as u64)
    }

    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        let deadline = self.core.deadline();
        let mut left = max.unwrap_or(u64::MAX);
        let mut removed = 0;
        for queue in self.queues(deadline).await? {
            let (first, end) = self.bounds(&queue, deadline).await?;
            let count = u64::try_from(end.saturating_sub(first)).unwrap_or(0).min(left);
            if count > 0 {
                self.forget(&queue, first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX))).await?;
            }
            left -= count;
            removed += count;
        }
        Ok(removed)
    }
}
