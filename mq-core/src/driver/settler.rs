//! Settling: what becomes of a delivery.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::dead_letter::DeadLetterRecord;
use crate::driver::Token;
use crate::error::Result;
use crate::message::{Message, Position};

/// What becomes of a delivery.
#[derive(Debug)]
pub enum Settle {
    /// Handled: never again for this group.
    Ack,
    /// Give it back for redelivery soon, without counting an attempt.
    Requeue,
    /// Give it back at once and without blame: it was never started.
    Release,
    /// Store a copy that becomes visible to this group when due; then ack.
    Retry(Box<Retry>),
    /// Key order mode: record the failed attempt durably, but leave the message with us. The core runs it again when
    /// it is due and settles it then; until that the token stays valid.
    Hold(Box<Hold>),
    /// Store it among the dead letters of the group; then ack.
    DeadLetter(Box<DeadLettering>),
    /// The handler is still running: keep the message ours for this much longer.
    Extend(Duration),
}

/// A retry through the broker.
#[derive(Debug)]
pub struct Retry {
    /// The message as delivered (with its native part); only control headers change.
    pub message: Message,
    /// The delay asked for: one of [`ConsumerSpec::retry_delays`](crate::driver::ConsumerSpec::retry_delays), which
    /// picks the tier.
    pub delay: Duration,
    /// When it is due by the scheduling clock; never delivered before.
    pub due: SystemTime,
    /// The attempt the retry will be. Unchanged from the delivery when a claim was merely deferred.
    pub attempt: u32,
    /// When the message first failed.
    pub first_failed: Option<SystemTime>,
    /// How often it was redriven.
    pub redrives: u32,
}

/// A retry in memory that keeps the key's order.
#[derive(Debug)]
pub struct Hold {
    /// The attempt to be recorded: the one that comes next.
    pub attempt: u32,
    /// When it will be run again.
    pub due: SystemTime,
}

/// A move to the dead letters.
#[derive(Debug)]
pub struct DeadLettering {
    /// The message as delivered (with its native part).
    pub message: Message,
    /// What is recorded beside it.
    pub record: DeadLetterRecord,
    /// Where the delivery stood.
    pub position: Position,
}

/// One settlement.
#[derive(Debug)]
pub struct Settlement {
    /// The delivery.
    pub token: Token,
    /// What becomes of it.
    pub action: Settle,
}

/// How durable a settlement became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settled {
    /// The broker has stored it: a crash does not bring the message back.
    Durable,
    /// Handed to the client; within the declared duplicate window until the next flush.
    Sent,
    /// The delivery was from an earlier session: nothing was settled; the message was or will be redelivered.
    Stale,
}

/// Settles deliveries; never waits behind a poll. Shared.
#[async_trait]
pub trait SettlerDriver: Send + Sync + fmt::Debug {
    /// Settles each item; results in the order of `batch`, which is emptied (its memory is the caller's to reuse).
    ///
    /// The core sends `Ack`, `Requeue`, `Release`, `Extend` and `Hold` in batches one after the other, in order, and
    /// `Retry` and `DeadLetter` from tasks of their own, so that a slow confirmation delays no ack. An error leaves the
    /// message unsettled: it stays ours, and the core decides.
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>>;

    /// Acknowledges each delivery right now, with one result each appended to `results`; false, and nothing done, when
    /// that would take waiting (or the driver never can): then the core goes by [`settle`](Self::settle).
    ///
    /// An ack is mostly a note in memory. Taken by whoever polls anyway, it costs no task switch. Called on the
    /// runtime; must not block.
    fn ack_now(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) -> bool {
        let _ = (tokens, results);
        false
    }

    /// How long a delivery stays ours without [`Settle::Extend`]; the core extends it every third of that while its
    /// handler runs. `None`: as long as the session stands.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Makes every settlement so far durable. Waits at most `deadline`.
    async fn flush(&self, deadline: Duration) -> Result<()>;
}
