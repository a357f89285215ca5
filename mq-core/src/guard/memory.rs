//! A guard in the memory of this process.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lru::LruCache;
use tokio::time::Instant;

use crate::error::Result;
use crate::guard::{Claim, Claimed, Guard, Scope};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);
const CAPACITY: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// Remembers handled messages in this process: cuts duplicates while it lives. Other processes and a restart know
/// nothing of it; for those, take a guard with a store.
///
/// Bounded: the messages longest not asked for are forgotten first (100,000 unless set), all of them after the time to
/// live (24 h unless set).
pub struct MemoryGuard {
    ttl: Duration,
    state: Mutex<State>,
}

struct State {
    known: LruCache<Scope, Entry>,
    fencing: u64,
}

#[derive(Clone, Copy)]
enum Entry {
    Claimed { fencing: u64, until: Instant },
    Done { until: Instant },
}

impl MemoryGuard {
    /// A guard with the default bounds.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// A guard that remembers at most `capacity` messages.
    pub fn with_capacity(capacity: NonZeroUsize) -> Self {
        Self { ttl: TTL, state: Mutex::new(State { known: LruCache::new(capacity), fencing: 0 }) }
    }

    /// Sets how long a handled message is remembered. It must cover every retry and the longest outage.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The entry, when `claim` still holds it.
    fn held(&mut self, claim: &Claim) -> Option<&mut Entry> {
        self.known
            .get_mut(&claim.scope)
            .filter(|entry| matches!(entry, Entry::Claimed { fencing, .. } if *fencing == claim.fencing))
    }
}

#[async_trait]
impl Guard for MemoryGuard {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        let now = Instant::now();
        let mut state = self.state();
        match state.known.get(scope) {
            Some(Entry::Done { until }) if *until > now => return Ok(Claimed::Done),
            Some(Entry::Claimed { until, .. }) if *until > now => {
                return Ok(Claimed::InProgress { retry_after: *until - now });
            }
            _ => {}
        }
        state.fencing += 1;
        let fencing = state.fencing;
        state.known.put(scope.clone(), Entry::Claimed { fencing, until: now + lease });
        Ok(Claimed::Fresh(Claim { scope: scope.clone(), fencing }))
    }

    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        let until = Instant::now() + lease;
        let mut state = self.state();
        let held = state.held(claim);
        let extended = held.is_some();
        if let Some(entry) = held {
            *entry = Entry::Claimed { fencing: claim.fencing, until };
        }
        Ok(extended)
    }

    async fn complete(&self, claim: &Claim) -> Result<()> {
        // Also when the lease ran out meanwhile: it was handled.
        let until = Instant::now() + self.ttl;
        self.state().known.put(claim.scope.clone(), Entry::Done { until });
        Ok(())
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        let mut state = self.state();
        if state.held(claim).is_some() {
            state.known.pop(&claim.scope);
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGuard")
            .field("ttl", &self.ttl)
            .field("known", &self.state().known.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    const LEASE: Duration = Duration::from_secs(10);

    fn scope(id: &str, redrives: u32) -> Scope {
        Scope { group: None, id: MessageId::from(id), redrives }
    }

    async fn fresh(guard: &MemoryGuard, scope: &Scope) -> Claim {
        match guard.claim(scope, LEASE).await.unwrap() {
            Claimed::Fresh(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn done_is_done_until_the_time_to_live_ends() {
        let guard = MemoryGuard::new().ttl(Duration::from_secs(60));
        let claim = fresh(&guard, &scope("a", 0)).await;
        guard.complete(&claim).await.unwrap();
        assert_eq!(guard.claim(&scope("a", 0), LEASE).await.unwrap(), Claimed::Done);
        fresh(&guard, &scope("a", 1)).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        fresh(&guard, &scope("a", 0)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_excludes_others_until_it_ends_or_is_released() {
        let guard = MemoryGuard::new();
        let first = fresh(&guard, &scope("a", 0)).await;
        assert_eq!(guard.claim(&scope("a", 0), LEASE).await.unwrap(), Claimed::InProgress { retry_after: LEASE });
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(guard.extend(&first, LEASE).await.unwrap());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(matches!(guard.claim(&scope("a", 0), LEASE).await.unwrap(), Claimed::InProgress { .. }));
        tokio::time::advance(Duration::from_secs(2)).await;
        let second = fresh(&guard, &scope("a", 0)).await;
        assert!(second.fencing > first.fencing);
        // The first one lost its claim: it can neither extend nor release what is the second's now.
        assert!(!guard.extend(&first, LEASE).await.unwrap());
        guard.release(&first).await.unwrap();
        assert!(matches!(guard.claim(&scope("a", 0), LEASE).await.unwrap(), Claimed::InProgress { .. }));
        guard.release(&second).await.unwrap();
        fresh(&guard, &scope("a", 0)).await;
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let guard = MemoryGuard::with_capacity(NonZeroUsize::new(2).unwrap());
        for id in ["a", "b", "c"] {
            let claim = fresh(&guard, &scope(id, 0)).await;
            guard.complete(&claim).await.unwrap();
        }
        fresh(&guard, &scope("a", 0)).await;
        assert_eq!(guard.claim(&scope("c", 0), LEASE).await.unwrap(), Claimed::Done);
    }
}
