//! Guards and drivers that stage what happens rarely.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_core::MemoryGuard;
use mq_core::driver::{Settle, Settled, Settlement, SettlerDriver};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::guard::{Claim, Claimed, Guard, Scope};

use crate::spoil::Mischief;

/// Says that somebody else holds every message, for the first claims of it.
#[derive(Debug)]
pub(super) struct BusyElsewhere {
    pub(super) inner: MemoryGuard,
    pub(super) claims: AtomicUsize,
    pub(super) busy: usize,
}

#[async_trait]
impl Guard for BusyElsewhere {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        if self.claims.fetch_add(1, Ordering::SeqCst) < self.busy {
            return Ok(Claimed::InProgress { retry_after: Duration::from_millis(100) });
        }
        self.inner.claim(scope, lease).await
    }
    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.inner.extend(claim, lease).await
    }
    async fn complete(&self, claim: &Claim) -> Result<()> {
        self.inner.complete(claim).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.inner.release(claim).await
    }
}

/// A store that cannot be asked for a while.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) inner: MemoryGuard,
    pub(super) until: Instant,
}

#[async_trait]
impl Guard for Down {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        if Instant::now() < self.until {
            return Err(Error::new(ErrorKind::Unavailable, "the guard's store is down"));
        }
        self.inner.claim(scope, lease).await
    }
    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.inner.extend(claim, lease).await
    }
    async fn complete(&self, claim: &Claim) -> Result<()> {
        self.inner.complete(claim).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.inner.release(claim).await
    }
}

/// Loses the first ack of each message: it comes again, flagged.
#[derive(Debug, Default)]
pub(super) struct LosesAnAck(AtomicUsize);

#[async_trait]
impl Mischief for LosesAnAck {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut().filter(|settlement| matches!(settlement.action, Settle::Ack)) {
            if self.0.fetch_add(1, Ordering::SeqCst) < 3 {
                settlement.action = Settle::Requeue;
            }
        }
        let asked: Vec<bool> = batch.iter().map(|settlement| matches!(settlement.action, Settle::Requeue)).collect();
        let results = to.settle(batch).await;
        // The connection broke with the acks under way: nothing of them arrived.
        results.into_iter().zip(asked).map(|(result, lost)| if lost { Ok(Settled::Stale) } else { result }).collect()
    }
}
