//! The broker itself: the state behind its lock, and those who wait for it to change.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::memory::NAME;
use crate::memory::bell::Bell;
use crate::memory::config::MemoryConfig;
use crate::memory::state::State;

pub(super) struct Server {
    pub(super) config: MemoryConfig,
    pub(super) clock: Clock,
    state: Mutex<State>,
    /// Rings for producers that wait for room.
    pub(super) room: Bell,
    /// Rings for those who wait for a condition.
    pub(super) changed: Bell,
    pub(super) connections: AtomicU64,
}

impl Server {
    pub(super) fn new(config: MemoryConfig) -> Self {
        Self::with_clock(config, Clock::tokio())
    }

    pub(super) fn with_clock(config: MemoryConfig, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State::new(config.clone(), clock)),
            config,
            clock,
            room: Bell::default(),
            changed: Bell::default(),
            connections: AtomicU64::new(0),
        }
    }

    /// Waits while every connection is stalled.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::error::ErrorKind::Timeout) when that lasts longer than a send may take.
    pub(super) async fn passable(&self) -> Result<()> {
        let deadline = Instant::now() + self.config.send_timeout;
        let listener = self.room.listen();
        loop {
            let ring = listener.next_ring();
            if !self.lock().plan.stalled {
                return Ok(());
            }
            if timeout_at(deadline, ring).await.is_err() {
                return Err(Error::timeout(self.config.send_timeout).with_backend(NAME));
            }
        }
    }

    /// The state. A panic under the lock leaves counters at worst: going on is better than failing every test after.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("config", &self.config).finish_non_exhaustive()
    }
}
