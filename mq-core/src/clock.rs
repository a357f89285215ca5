//! The clock by which retries and delays become due.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the time of day. Brokers outside the process use the system's clock; the in-memory broker counts with tokio's,
/// so that `tokio::time::pause` makes tests of hours run in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Tokio { wall: SystemTime, started: Instant },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Tokio's clock, starting at the system's time now.
    pub fn tokio() -> Self {
        Self::tokio_from(SystemTime::now())
    }

    /// Tokio's clock, showing `wall` now: for tests whose times must be the same in every run.
    pub fn tokio_from(wall: SystemTime) -> Self {
        Self(Source::Tokio { wall, started: Instant::now() })
    }

    /// The time of day by this clock.
    pub fn now(&self) -> SystemTime {
        match self.0 {
            Source::System => SystemTime::now(),
            Source::Tokio { wall, started } => wall + started.elapsed(),
        }
    }

    /// The time of day `delay` from now; delays beyond the year 9999 end there, so that no delay can overflow.
    pub fn after(&self, delay: Duration) -> SystemTime {
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        self.now().checked_add(delay).map_or(last, |at| at.min(last))
    }

    /// How long until `at`; zero when it has passed.
    pub fn until(&self, at: SystemTime) -> Duration {
        at.duration_since(self.now()).unwrap_or_default()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_delay_overflows() {
        let clock = Clock::system();
        assert!(clock.after(Duration::MAX) > clock.after(Duration::from_secs(3600)));
    }
}
