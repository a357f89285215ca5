//! Conditions that hold for every process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is wrong just now, apart from the broker.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    guard_down: AtomicBool,
    guard_mute: AtomicBool,
    slow_ms: AtomicU64,
}

impl Weather {
    pub(crate) fn guard_down(&self, down: bool) {
        self.guard_down.store(down, Ordering::Relaxed);
    }

    pub(crate) fn is_guard_down(&self) -> bool {
        self.guard_down.load(Ordering::Relaxed)
    }

    pub(crate) fn guard_mute(&self, mute: bool) {
        self.guard_mute.store(mute, Ordering::Relaxed);
    }

    pub(crate) fn is_guard_mute(&self) -> bool {
        self.guard_mute.load(Ordering::Relaxed)
    }

    pub(crate) fn slow(&self, by: Duration) {
        self.slow_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much longer every handler takes.
    pub(crate) fn slowness(&self) -> Duration {
        Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn clear(&self) {
        self.guard_down(false);
        self.guard_mute(false);
        self.slow(Duration::ZERO);
    }
}
