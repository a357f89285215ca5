//! Settling: one lock for a batch, everything as durable as the broker is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::driver::{Settle, Settled, Settlement, SettlerDriver, Token};
use crate::error::{Error, Result};
use crate::memory::NAME;
use crate::memory::server::Server;

pub(super) struct MemorySettler {
    pub(super) server: Arc<Server>,
    pub(super) member: u32,
}

#[async_trait]
impl SettlerDriver for MemorySettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        while !self.try_settle(batch, &mut outcomes) {
            if self.server.passable().await.is_err() {
                let timeout = self.server.config.send_timeout;
                let error = |_| Err(Error::timeout(timeout).with_backend(NAME).with_operation("settle"));
                return batch.drain(..).map(error).collect();
            }
        }
        self.server.room.ring();
        self.server.changed.ring();
        outcomes
    }

    fn ack_now(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) -> bool {
        let mut state = self.server.lock();
        // With faults planned, or stalled, settlements take the long way.
        if state.plan.stalled || !state.plan.settlements.is_empty() {
            return false;
        }
        let mut items = tokens.iter().map(|token| Settlement { token: *token, action: Settle::Ack }).peekable();
        state.settle_all(self.member, &mut items, results);
        drop(state);
        self.server.room.ring();
        self.server.changed.ring();
        true
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }
}

impl MemorySettler {
    /// False when the connection is stalled: nothing was done.
    fn try_settle(&self, batch: &mut Vec<Settlement>, outcomes: &mut Vec<Result<Settled>>) -> bool {
        let mut state = self.server.lock();
        if state.plan.stalled {
            return false;
        }
        state.settle_all(self.member, &mut batch.drain(..).peekable(), outcomes);
        true
    }
}

impl fmt::Debug for MemorySettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySettler").field("member", &self.member).finish_non_exhaustive()
    }
}
