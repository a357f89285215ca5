//! How many messages a worker starts per second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A rate; see [`per_second`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: u32,
}

/// `count` messages per second, evenly: a worker that was idle may start at most those of 20 ms (at least one) at once.
/// Zero stops the worker until the rate is changed.
pub fn per_second(count: u32) -> Rate {
    Rate { per_second: f64::from(count), burst: (count / 50).max(1) }
}

impl Rate {
    /// As [`per_second`], for rates such as one in ten seconds (0.1). What is not a positive number counts as zero.
    pub fn of(per_second: f64) -> Self {
        let rate = if per_second.is_finite() { per_second.max(0.0) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; not negative")]
        let burst = ((rate / 50.0) as u32).max(1);
        Self { per_second: rate, burst }
    }

    /// Lets a worker that was idle start up to `burst` messages at once.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = burst.max(1);
        self
    }

    /// The most tokens there may be.
    fn full(self) -> f64 {
        if self.per_second > 0.0 { f64::from(self.burst) } else { 0.0 }
    }
}

/// A token bucket. Costs one relaxed load while no rate is set.
#[derive(Debug)]
pub(crate) struct Limiter {
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    rate: Option<Rate>,
    /// Negative: owed to those who wait.
    tokens: f64,
    at: Instant,
}

/// Longer than this nobody waits without looking again: the rate may have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Limiter {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let tokens = rate.map_or(0.0, Rate::full);
        Self {
            limited: AtomicBool::new(rate.is_some()),
            bucket: Mutex::new(Bucket { rate, tokens, at: Instant::now() }),
        }
    }

    pub(crate) fn set(&self, rate: Option<Rate>) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.refill();
        bucket.tokens = bucket.tokens.min(rate.map_or(0.0, Rate::full));
        bucket.rate = rate;
        self.limited.store(rate.is_some(), Ordering::Release);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// Takes `count` tokens, or says how long to wait before asking again. A count above the burst is let through when
    /// the bucket is full, and owed.
    pub(crate) fn take(&self, count: usize) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.refill();
        let Some(rate) = bucket.rate else { return Ok(()) };
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let needed = count.min(f64::from(rate.burst));
        // A millionth of a token is rounding.
        if bucket.tokens + 1e-6 >= needed {
            bucket.tokens -= count;
            return Ok(());
        }
        if rate.per_second <= 0.0 {
            return Err(LOOK_AGAIN);
        }
        let wait = Duration::try_from_secs_f64((needed - bucket.tokens) / rate.per_second).unwrap_or(LOOK_AGAIN);
        Err(wait.min(LOOK_AGAIN).max(Duration::from_micros(100)))
    }
}

impl Bucket {
    fn refill(&mut self) {
        let now = Instant::now();
        let Some(rate) = self.rate else {
            self.at = now;
            return;
        };
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.full());
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn taken_in(limiter: &Limiter, time: Duration) -> u32 {
        let end = Instant::now() + time;
        let mut taken = 0;
        while Instant::now() < end {
            match limiter.take(1) {
                Ok(()) => taken += 1,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_rate_and_follows_changes() {
        let limiter = Limiter::new(Some(per_second(10)));
        let taken = taken_in(&limiter, Duration::from_secs(10)).await;
        assert!((99..=102).contains(&taken), "{taken}");
        limiter.set(Some(per_second(1000)));
        let taken = taken_in(&limiter, Duration::from_secs(10)).await;
        assert!((9_800..=10_100).contains(&taken), "{taken}");
        limiter.set(Some(Rate::of(0.0)));
        assert!(taken_in(&limiter, Duration::from_secs(10)).await <= 21);
        limiter.set(None);
        assert!(!limiter.is_limited() && limiter.take(1_000_000).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_above_the_burst_is_owed() {
        let limiter = Limiter::new(Some(per_second(10)));
        assert!(limiter.take(10).is_ok());
        let mut waited = Duration::ZERO;
        while let Err(wait) = limiter.take(1) {
            waited += wait;
            tokio::time::sleep(wait).await;
        }
        assert!(waited >= Duration::from_millis(950), "{waited:?}");
    }
}
