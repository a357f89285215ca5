//! When a failed message is tried again, and how often.

use std::time::Duration;

use crate::error::{Error, Result};

/// Most distinct delays a policy may have: each is a place on the broker.
const MAX_TIERS: usize = 32;

/// What happens to the other messages of a key while one of them waits for its retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum RetryOrder {
    /// The retry waits in the broker; later messages of its key are handled meanwhile.
    #[default]
    NonBlocking,
    /// The retry waits in memory, its attempt recorded durably; later messages of its key wait behind it. Needs the
    /// capability `KeyOrderedRetry`; with `KeyIndependentRetry` other keys flow, else their partition waits with it.
    KeepKeyOrder,
}

/// How often, and after which delays, a failed message is tried again; then it goes to the dead letters.
///
/// Delays are lower bounds: jitter and the broker only ever add to them. They come from a finite set of tiers, because
/// on most brokers each delay is a place that must exist before it is used.
///
/// ```
/// use mq_core::RetryPolicy;
/// use std::time::Duration;
///
/// let policy = RetryPolicy::exponential(Duration::from_millis(500), Duration::from_secs(60)).attempts(6).jitter(0.5);
/// assert!(policy.tiers().len() <= 15);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    delays: Delays,
    max_attempts: u32,
    jitter: f64,
    order: RetryOrder,
}

#[derive(Debug, Clone, PartialEq)]
enum Delays {
    Fixed(Vec<Duration>),
    Exponential { first: Duration, max: Duration },
}

impl Default for RetryPolicy {
    /// Three retries, after 1 s, 5 s and 30 s.
    fn default() -> Self {
        Self::delays([Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)])
    }
}

impl RetryPolicy {
    /// One retry after each of `delays`, in this order. No delays: no retry.
    pub fn delays(delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays: Vec<Duration> = delays.into_iter().map(whole_millis).collect();
        let max_attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self { delays: Delays::Fixed(delays), max_attempts, jitter: 0.0, order: RetryOrder::default() }
    }

    /// Delays that double from `first` up to `max`; five attempts unless set otherwise.
    pub fn exponential(first: Duration, max: Duration) -> Self {
        let first = whole_millis(first);
        let max = whole_millis(max).max(first);
        Self { delays: Delays::Exponential { first, max }, max_attempts: 5, jitter: 0.0, order: RetryOrder::default() }
    }

    /// No retry: the first failure is final.
    pub fn never() -> Self {
        Self::delays([])
    }

    /// The attempts a message gets in all, the first one included; at least 1. Beyond a fixed list its last delay
    /// repeats.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Adds a random part of up to `fraction` (0 to 1) of each delay, so that messages that failed together are not
    /// tried again together. Only ever later, never earlier.
    #[must_use]
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.jitter = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    /// Keeps the order of each key across retries; see [`RetryOrder::KeepKeyOrder`].
    #[must_use]
    pub fn keep_key_order(mut self) -> Self {
        self.order = RetryOrder::KeepKeyOrder;
        self
    }

    /// Whether retries keep the order of their key.
    pub fn order(&self) -> RetryOrder {
        self.order
    }

    /// The attempts a message gets in all.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Every delay this policy can ask for, ascending and without repeats.
    pub fn tiers(&self) -> Vec<Duration> {
        let mut tiers = Vec::new();
        let mut last = None;
        for failure in 1..self.max_attempts {
            let Some(base) = self.base(failure) else { break };
            if last == Some(base) {
                break;
            }
            last = Some(base);
            tiers.push(base);
            if self.jitter > 0.0 {
                tiers.push(whole_millis(base.mul_f64(1.0 + self.jitter / 2.0)));
                tiers.push(whole_millis(base.mul_f64(1.0 + self.jitter)));
            }
        }
        if let Delays::Fixed(delays) = &self.delays {
            // A fixed list may go up and down again: the loop above ends at the first repeat.
            tiers.extend(delays.iter().take(self.max_attempts as usize - 1));
        }
        tiers.sort_unstable();
        tiers.dedup();
        tiers
    }

    /// Fails when the policy needs more places than a broker should be given.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::error::ErrorKind::Config), with the way out.
    pub fn check(&self) -> Result<()> {
        let tiers = self.tiers().len();
        if tiers <= MAX_TIERS {
            return Ok(());
        }
        Err(Error::config(format!("the retry policy has {tiers} distinct delays, at most {MAX_TIERS} are allowed"))
            .with_hint("repeat delays, take a larger first delay, or leave out the jitter"))
    }

    /// The delay before the next attempt after attempt number `failed` failed; `None` when the budget is used up.
    pub(crate) fn delay_after(&self, failed: u32) -> Option<Duration> {
        if failed >= self.max_attempts {
            return None;
        }
        let base = self.base(failed)?;
        if self.jitter == 0.0 {
            return Some(base);
        }
        Some(round_up(&self.tiers(), base.mul_f64(1.0 + self.jitter * fastrand::f64())))
    }

    /// The delay after failure number `failure` (from 1), before jitter.
    pub(crate) fn base(&self, failure: u32) -> Option<Duration> {
        match &self.delays {
            Delays::Fixed(delays) => delays.get(failure as usize - 1).or(delays.last()).copied(),
            Delays::Exponential { first, max } => {
                let factor = 1u32.checked_shl(failure - 1).unwrap_or(u32::MAX);
                Some(first.checked_mul(factor).map_or(*max, |delay| delay.min(*max)))
            }
        }
    }
}

/// The smallest of `tiers` (ascending) that is not shorter than `delay`, else the longest; `delay` without tiers.
pub(crate) fn round_up(tiers: &[Duration], delay: Duration) -> Duration {
    tiers.iter().find(|tier| **tier >= delay).or(tiers.last()).copied().unwrap_or(delay)
}

/// Brokers count milliseconds; rounded up, so that nothing comes early.
fn whole_millis(delay: Duration) -> Duration {
    let millis = delay.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_fixed_list_is_used_in_order_then_ends() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.max_attempts(), 4);
        assert_eq!(
            (1..=4).map(|n| policy.delay_after(n)).collect::<Vec<_>>(),
            [Some(S(1)), Some(S(5)), Some(S(30)), None]
        );
        assert_eq!(policy.tiers(), [S(1), S(5), S(30)]);
        assert_eq!(RetryPolicy::never().delay_after(1), None);
        assert!(RetryPolicy::never().tiers().is_empty());
    }

    #[test]
    fn a_budget_above_the_list_repeats_the_last_delay() {
        let policy = RetryPolicy::delays([S(1), S(2)]).attempts(5);
        assert_eq!(policy.delay_after(4), Some(S(2)));
        assert_eq!(policy.delay_after(5), None);
        assert_eq!(RetryPolicy::delays([S(5), S(5), S(1)]).tiers(), [S(1), S(5)]);
    }

    #[test]
    fn exponential_doubles_to_the_cap_and_does_not_overflow() {
        let policy = RetryPolicy::exponential(S(1), S(10)).attempts(100);
        assert_eq!(policy.tiers(), [S(1), S(2), S(4), S(8), S(10)]);
        assert_eq!(policy.delay_after(70), Some(S(10)));
    }

    #[test]
    fn jitter_only_adds_and_stays_on_the_tiers() {
        let policy = RetryPolicy::exponential(S(1), S(60)).attempts(6).jitter(0.5);
        let tiers = policy.tiers();
        for failure in 1..6 {
            let base = policy.base(failure).unwrap();
            for _ in 0..200 {
                let delay = policy.delay_after(failure).unwrap();
                assert!(delay >= base && tiers.contains(&delay), "{delay:?} after {base:?}");
            }
        }
        assert!(policy.check().is_ok());
        assert!(RetryPolicy::delays((1..40).map(S)).check().is_err());
    }

    #[test]
    fn rounds_up_to_a_tier() {
        let tiers = [S(1), S(5)];
        assert_eq!(round_up(&tiers, S(2)), S(5));
        assert_eq!(round_up(&tiers, S(9)), S(5));
        assert_eq!(round_up(&[], S(9)), S(9));
        assert_eq!(whole_millis(Duration::from_nanos(1)), Duration::from_millis(1));
    }
}
