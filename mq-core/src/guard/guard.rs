//! The interface of idempotency guards.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::message::MessageId;
use crate::name::Group;

/// What a guard decides about: one message, for one group, since it was last redriven.
///
/// Groups do not share their guards' memory: each handles every message. A redriven message keeps its id but runs
/// again, hence the count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The group; `None` for a broadcast subscription.
    pub group: Option<Group>,
    /// The message's id, taken from the message or by the worker's `id_extractor`, or derived from the position.
    pub id: MessageId,
    /// How often it was brought back from the dead letters.
    pub redrives: u32,
}

/// A right to handle a message, for as long as its lease lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The message.
    pub scope: Scope,
    /// Rises with every claim of the guard: a store that refuses lower numbers than it has seen keeps out handlers
    /// whose lease was lost.
    pub fencing: u64,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody has handled it: handle it, then complete.
    Fresh(Claim),
    /// Somebody is handling it; ask again after this long.
    InProgress {
        /// What is left of the other's lease.
        retry_after: Duration,
    },
    /// It was handled: acknowledge it without running.
    Done,
}

/// Remembers what was handled. The worker claims before the handler runs and completes after it succeeded; never the
/// other way round, so a crash can repeat a message but not lose one.
///
/// Errors mean that the store cannot be asked: the worker then waits, it neither runs handlers nor sets messages aside.
/// Every call must end by itself, within seconds.
#[async_trait]
pub trait Guard: Send + Sync + fmt::Debug + 'static {
    /// Claims the message for `lease`.
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed>;

    /// Makes the lease last `lease` from now on. False when the claim is no longer ours.
    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool>;

    /// The message was handled: later claims of its scope answer [`Claimed::Done`].
    async fn complete(&self, claim: &Claim) -> Result<()>;

    /// It was not handled: the next claim of its scope is fresh. A claim that is no longer ours is left alone.
    async fn release(&self, claim: &Claim) -> Result<()>;

    /// It was set aside. Not handled: a redrive must run it, so by default the claim is released.
    async fn dead_lettered(&self, claim: &Claim) -> Result<()> {
        self.release(claim).await
    }
}
