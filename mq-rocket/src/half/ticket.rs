//! What names a half message to the broker that has it.

use mq_core::driver::{Decision, Half};
use mq_core::error::{ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::error::error;
use crate::remoting::{Command, code};

const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;

/// A half message, by the broker's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ticket {
    /// The broker that has it.
    pub(super) broker: String,
    pub(super) topic: String,
    /// Where it stands in the broker's own topic of half messages.
    pub(super) queue_offset: i64,
    /// Where it stands in the broker's log.
    pub(super) log_offset: i64,
    pub(super) id: String,
    pub(super) transaction: String,
}

impl Ticket {
    /// Of a half message just stored.
    pub(super) fn of_stored(answer: &Command, broker: &str, topic: &str, id: &str) -> Result<Self> {
        let transaction = answer.get("transactionId").filter(|text| !text.is_empty()).unwrap_or(id).to_owned();
        Ok(Self {
            broker: broker.to_owned(),
            topic: topic.to_owned(),
            queue_offset: answer.number("queueOffset")?,
            log_offset: answer.get("msgId").and_then(log_offset).ok_or_else(unreadable)?,
            id: id.to_owned(),
            transaction,
        })
    }

    /// Of a question of a broker.
    pub(super) fn of_question(question: &Command, broker: &str, topic: &str) -> Result<Self> {
        let id = question.get("msgId").unwrap_or_default().to_owned();
        Ok(Self {
            broker: broker.to_owned(),
            topic: topic.to_owned(),
            queue_offset: question.number("tranStateTableOffset")?,
            log_offset: question.number("commitLogOffset")?,
            transaction: question.get("transactionId").unwrap_or(&id).to_owned(),
            id,
        })
    }

    pub(super) fn half(&self) -> Result<Half> {
        serde_json::to_vec(self).map(Half::new).map_err(|_| unreadable())
    }

    pub(super) fn read(half: &Half) -> Result<Self> {
        serde_json::from_slice(half.ticket()).map_err(|_| unreadable())
    }

    /// The request that decides about it; `asked` when it answers a question of the broker.
    pub(super) fn decide(&self, group: &str, decision: Decision, asked: bool) -> Command {
        let decision = match decision {
            Decision::Commit => COMMIT,
            Decision::Rollback => ROLLBACK,
        };
        Command::request(code::END_TRANSACTION)
            .field("topic", &self.topic)
            .field("producerGroup", group)
            .field("tranStateTableOffset", self.queue_offset)
            .field("commitLogOffset", self.log_offset)
            .field("commitOrRollback", decision)
            .field("fromTransactionCheck", asked)
            .field("msgId", &self.id)
            .field("transactionId", &self.transaction)
            .field("bname", &self.broker)
    }
}

/// The broker's own id of a message is its address and its place in the log, the latter in the last sixteen digits.
fn log_offset(id: &str) -> Option<i64> {
    i64::from_str_radix(id.get(id.len().checked_sub(16)?..)?, 16).ok()
}

fn unreadable() -> mq_core::Error {
    error(ErrorKind::Internal, "what names a half message cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_as_bytes() {
        let mut answer = Command::request(0).field("queueOffset", 7).field("msgId", "7F00000100002A9F00000000000003E8");
        answer.code = 0;
        let ticket = Ticket::of_stored(&answer, "broker-a", "t", "m0").unwrap();
        assert_eq!((ticket.queue_offset, ticket.log_offset, &*ticket.transaction), (7, 1000, "m0"));
        assert_eq!(Ticket::read(&ticket.half().unwrap()).unwrap(), ticket);
        assert!(Ticket::read(&Half::new("nonsense")).is_err());
        for bad in ["", "7F", "ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"] {
            assert_eq!(log_offset(bad), None, "{bad}");
        }
    }
}
