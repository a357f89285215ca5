//! Signs that there may be something to read: a server answers a read that blocks for the keys of one slot only, so on a
//! cluster each partition has a connection of its own that waits.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use mq_core::error::Result;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};

use crate::error::{checked, within};
use crate::link::Link;
use crate::session::millis;

/// What one partition waits for: the ids after which something would be new in these streams.
#[derive(Debug)]
pub(crate) struct Sign {
    pub(crate) lane: u32,
    pub(crate) after: [(String, String); 2],
}

/// Reads that wait, at most one a partition.
#[derive(Default)]
pub(crate) struct Signs {
    idle: HashMap<u32, MultiplexedConnection>,
    waiting: FuturesUnordered<BoxFuture<'static, (u32, MultiplexedConnection, Result<Value>)>>,
    armed: Vec<u32>,
}

impl Signs {
    /// Returns when a partition has something new, or after `wait`. A sign may be late by one call, never missing.
    pub(crate) async fn wait(&mut self, link: &Link, signs: Vec<Sign>, wait: Duration, limit: Duration) -> Result<()> {
        for sign in signs {
            if self.armed.contains(&sign.lane) {
                continue;
            }
            let mut connection = match self.idle.remove(&sign.lane) {
                Some(connection) => connection,
                None => link.another(&sign.after[0].0).await?,
            };
            let command = command(&sign, wait);
            let limit = wait + limit;
            self.armed.push(sign.lane);
            self.waiting.push(
                async move {
                    let answer = within(limit, connection.send_packed_command(&command)).await.and_then(checked);
                    (sign.lane, connection, answer)
                }
                .boxed(),
            );
        }
        let Ok(Some((lane, connection, answer))) = tokio::time::timeout(wait, self.waiting.next()).await else {
            return Ok(());
        };
        self.armed.retain(|armed| *armed != lane);
        match answer {
            Ok(_) => drop(self.idle.insert(lane, connection)),
            // The slot has moved, or the node has gone: the next sign is asked of whoever has it then.
            Err(cause) => {
                tracing::debug!(lane, %cause, "a partition is waited for anew");
                link.shared.lost.notify_one();
                tokio::time::sleep(AGAIN).await;
            }
        }
        Ok(())
    }
}

/// Between two attempts to wait for a partition.
const AGAIN: Duration = Duration::from_millis(20);

fn command(sign: &Sign, wait: Duration) -> Cmd {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(1).arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS");
    for (name, _) in &sign.after {
        command.arg(name);
    }
    for (_, id) in &sign.after {
        command.arg(id);
    }
    command
}
