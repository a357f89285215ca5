//! Moves due messages to their streams.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::SchedulerDriver;
use mq_core::error::Result;
use mq_core::name::Topic;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::checked;
use crate::names::{self, Keys};
use crate::{reply, script};

/// The pause between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// Messages moved at once from one partition.
const STEP: usize = 100;

/// Moves what is due in these partitions; how many, and whether there is more at once.
pub(crate) async fn move_due(core: &Core, partitions: &[Keys]) -> Result<(u64, bool)> {
    if partitions.is_empty() {
        return Ok((0, false));
    }
    let mut commands = redis::pipe();
    for keys in partitions {
        let named = [&*keys.stream, &keys.delayed(), &keys.delayed_bodies()];
        let mut command = script::call(&script::MOVE, &named);
        command.arg(STEP);
        commands.add_command(command);
    }
    let (mut moved, mut more) = (0, false);
    for answer in core.asking.ask_many(&commands, core.limit()).await? {
        let parts = reply::items(checked(answer)?);
        let count = parts.first().and_then(reply::number).unwrap_or(0).unsigned_abs();
        moved += count;
        more |= count == STEP as u64;
    }
    Ok((moved, more))
}

/// For programs that only send: nobody else moves their messages.
#[derive(Debug)]
pub(crate) struct RedisScheduler {
    core: Arc<Core>,
}

impl RedisScheduler {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn partitions(&self) -> Result<Vec<Keys>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(names::topics_key(&self.core.config.prefix));
        let mut all = Vec::new();
        for name in reply::items(self.core.ask(&command).await?).into_iter().filter_map(reply::text) {
            let Ok(topic) = Topic::parse(name) else { continue };
            // Deleted meanwhile: nothing to move.
            let Ok(keys) = self.core.topic(&topic).await else { continue };
            all.extend(keys.iter().cloned());
        }
        Ok(all)
    }
}

#[async_trait]
impl SchedulerDriver for RedisScheduler {
    async fn run(&mut self, slice: Duration) -> Result<u64> {
        let until = Instant::now() + slice;
        let partitions = self.partitions().await?;
        let mut moved = 0;
        loop {
            let (count, more) = move_due(&self.core, &partitions).await?;
            moved += count;
            if Instant::now() >= until {
                return Ok(moved);
            }
            if !more {
                tokio::time::sleep_until((Instant::now() + LOOK).min(until)).await;
            }
        }
    }

    async fn close(self: Box<Self>, _deadline: Duration) -> Result<()> {
        Ok(())
    }
}
