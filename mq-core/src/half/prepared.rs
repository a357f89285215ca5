//! A half message that is to be decided.

use std::fmt;
use std::sync::Arc;

use crate::driver::{Decision, Half, HalfDriver};
use crate::error::{Error, Result};
use crate::message::MessageId;

/// What saves a decision that did not get through.
const ASKED_BACK: &str = "nothing is lost: the broker asks the check about it, which answers from your own data";

/// A message the broker has stored and nobody sees yet.
///
/// Dropped undecided it is neither committed nor rolled back: only your database knows, so the broker asks the check.
#[must_use = "commit it or roll it back, or the broker asks the check about it later"]
pub struct Prepared {
    driver: Arc<dyn HalfDriver>,
    backend: &'static str,
    half: Half,
    id: MessageId,
}

impl Prepared {
    pub(super) fn new(driver: Arc<dyn HalfDriver>, backend: &'static str, half: Half, id: MessageId) -> Self {
        Self { driver, backend, half, id }
    }

    /// The id it is sent under.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// Makes the message visible. Call it when your own transaction is committed.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses. The message stays prepared, or is visible already
    /// ([ambiguous](Error::is_ambiguous)); in both cases the broker asks the check, so nothing more needs to be done. A
    /// commit that got through while its answer was lost may be repeated by the check: the message then comes twice
    /// under one id.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the decision to the check.
    pub async fn commit(self) -> Result<()> {
        self.decide(Decision::Commit).await.map_err(|error| error.with_operation("commit"))
    }

    /// Takes the message back: nobody ever sees it. Call it when your own transaction was rolled back.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the decision to the check.
    pub async fn rollback(self) -> Result<()> {
        self.decide(Decision::Rollback).await.map_err(|error| error.with_operation("roll back"))
    }

    async fn decide(self, decision: Decision) -> Result<()> {
        let decided = self.driver.decide(&self.half, decision).await;
        decided.map_err(|error: Error| {
            let error = error.with_backend(self.backend).with_context("id", &self.id);
            if error.hint().is_some() { error } else { error.with_hint(ASKED_BACK) }
        })
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("id", &self.id).finish_non_exhaustive()
    }
}
