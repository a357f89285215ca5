//! Reads a queue by position, as nobody: nothing is consumed by that.

use mq_core::error::Result;

use crate::core::Core;
use crate::error::answer;
use crate::remoting::{Command, code};
use crate::route::Queue;
use crate::stored::{self, Stored};

/// The most messages a broker gives for one question.
pub(crate) const STEP: usize = 32;
/// Reads as a subscription that the request itself names.
const SUBSCRIPTION: u32 = 4;

/// Up to `max` messages of one queue of `topic`, from `offset` on and before `end`.
pub(crate) async fn pull(
    core: &Core,
    group: &str,
    topic: &str,
    queue: &Queue,
    (mut offset, end): (i64, i64),
    max: usize,
) -> Result<Vec<Stored>> {
    let mut came = Vec::new();
    while came.len() < max && offset < end {
        let command = Command::request(code::PULL_MESSAGE)
            .field("consumerGroup", group)
            .field("topic", topic)
            .field("queueId", queue.id)
            .field("queueOffset", offset)
            .field("maxMsgNums", (max - came.len()).min(STEP))
            .field("sysFlag", SUBSCRIPTION)
            .field("commitOffset", 0)
            .field("suspendTimeoutMillis", 0)
            .field("subscription", "*")
            .field("subVersion", 0)
            .field("expressionType", "TAG");
        let pulled = core.ask_soon(&queue.broker, command, core.deadline()).await?;
        let next: i64 = pulled.number("nextBeginOffset").unwrap_or(offset);
        match pulled.code {
            answer::SUCCESS => came.extend(stored::decode(pulled.body)?),
            answer::PULL_NOT_FOUND | answer::PULL_RETRY_IMMEDIATELY | answer::PULL_OFFSET_MOVED => {}
            _ => return Err(pulled.refusal()),
        }
        if next <= offset {
            break;
        }
        offset = next;
    }
    came.truncate(max);
    Ok(came)
}
