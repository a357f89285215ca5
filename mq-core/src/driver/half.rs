//! Half messages: stored unseen, then committed or rolled back; the broker asks back about those nobody decided.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::message::Message;

/// What becomes of a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Every group sees it.
    Commit,
    /// Nobody ever sees it.
    Rollback,
}

/// What a check knows of a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its local transaction is committed.
    Commit,
    /// Its local transaction was rolled back, and can no longer commit.
    Rollback,
    /// Not known now: the broker asks again later.
    Unknown,
}

impl Verdict {
    /// The decision, unless there is none yet.
    pub fn decision(self) -> Option<Decision> {
        match self {
            Self::Commit => Some(Decision::Commit),
            Self::Rollback => Some(Decision::Rollback),
            Self::Unknown => None,
        }
    }
}

/// Answers for half messages that nobody decided. The core's own: it ends within a deadline, bounds how many run at
/// once, and answers [`Verdict::Unknown`] for one that panics.
#[async_trait]
pub trait CheckBack: Send + Sync + fmt::Debug {
    /// What became of the local transaction of this message.
    async fn check(&self, message: &Message) -> Verdict;
}

/// Names a half message to the driver that stored it. The meaning of the bytes is the adapter's own; a few hundred at
/// most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half(Bytes);

impl Half {
    /// For adapters: what they need to decide about it.
    pub fn new(ticket: impl Into<Bytes>) -> Self {
        Self(ticket.into())
    }

    /// What the adapter kept.
    pub fn ticket(&self) -> &Bytes {
        &self.0
    }
}

/// Stores half messages under the name of a group of producers. Shared by all tasks of a program.
///
/// While it is open, the broker's questions about half messages of its name reach the check, also about those of a
/// producer that died.
#[async_trait]
pub trait HalfDriver: Send + Sync + fmt::Debug {
    /// Stores a message that nobody sees yet, within the send deadline of the configuration. After an ambiguous error it
    /// may be stored: then the broker asks back about it.
    async fn prepare(&self, message: Message) -> Result<Half>;

    /// Decides, within the send deadline of the configuration. After an error nothing is lost: a half message not
    /// decided is asked back about.
    async fn decide(&self, half: &Half, decision: Decision) -> Result<()>;

    /// Answers no questions any more. Waits at most `deadline`.
    async fn close(&self, deadline: Duration) -> Result<()>;
}
