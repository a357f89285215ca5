//! What handlers do with a message: decided by its id and the seed, so that every process decides alike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How handlers behave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Tells runs apart.
    pub(crate) seed: u64,
    /// The longest a handler usually takes.
    pub(crate) work: Duration,
    /// Of a thousand messages so many fail once and are tried again.
    pub(crate) retried: u32,
    /// Of a thousand messages so many fail twice.
    pub(crate) retried_twice: u32,
    /// Of a thousand messages so many are hopeless.
    pub(crate) hopeless: u32,
    /// Of a thousand handlers so many take `slow` in all.
    pub(crate) slow_ones: u32,
    /// How long those take.
    pub(crate) slow: Duration,
    /// The delay before each further attempt.
    pub(crate) delays: Vec<Duration>,
    /// Failed messages keep the order of their key.
    pub(crate) keep_order: bool,
}

/// What a handler answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Success,
    /// With the delay that follows.
    Retry(Duration),
    Hopeless,
}

impl Plan {
    /// Every message succeeds; slow enough for every fault to find some of them half done and more behind them.
    pub(crate) fn smooth(seed: u64) -> Self {
        Self {
            seed,
            work: Duration::from_millis(50),
            retried: 0,
            retried_twice: 0,
            hopeless: 0,
            slow_ones: 0,
            slow: Duration::ZERO,
            delays: Vec::new(),
            keep_order: false,
        }
    }

    /// Some messages fail, some are hopeless.
    pub(crate) fn rough(seed: u64, keep_order: bool) -> Self {
        let delays = vec![Duration::from_millis(300), Duration::from_millis(600)];
        Self { retried: 30, retried_twice: 10, hopeless: 10, delays, keep_order, ..Self::smooth(seed) }
    }

    fn dice(&self, id: &str, salt: u64) -> fastrand::Rng {
        // FNV-1a: the same in every process.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        fastrand::Rng::with_seed(hash ^ salt.rotate_left(32))
    }

    /// What becomes of this attempt.
    pub(crate) fn answer(&self, id: &str, attempt: u32) -> Answer {
        let fate = self.dice(id, 1).u32(..1000);
        let twice = self.hopeless + self.retried_twice;
        let failures = if fate < self.hopeless {
            return Answer::Hopeless;
        } else if fate < twice {
            2
        } else {
            u32::from(fate < twice + self.retried)
        };
        if attempt > failures {
            return Answer::Success;
        }
        let delay = self.delays.get(attempt.saturating_sub(1) as usize);
        delay.map_or(Answer::Success, |delay| Answer::Retry(*delay))
    }

    /// How long this attempt works.
    pub(crate) fn takes(&self, id: &str, attempt: u32) -> Duration {
        let mut dice = self.dice(id, u64::from(attempt) + 2);
        if dice.u32(..1000) < self.slow_ones {
            return self.slow;
        }
        self.work.mul_f64(dice.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_for_the_same_seed_and_of_every_kind() {
        let plan = Plan::rough(7, true);
        let answers: Vec<Answer> = (0..2000).map(|n| plan.answer(&format!("m{n}"), 1)).collect();
        assert_eq!(answers, (0..2000).map(|n| Plan::rough(7, true).answer(&format!("m{n}"), 1)).collect::<Vec<_>>());
        let retries = answers.iter().filter(|answer| matches!(answer, Answer::Retry(_))).count();
        let hopeless = answers.iter().filter(|answer| **answer == Answer::Hopeless).count();
        assert!((40..130).contains(&retries) && (5..45).contains(&hopeless), "{retries} {hopeless}");
        for n in 0..2000 {
            let id = format!("m{n}");
            assert!(plan.answer(&id, 3) == Answer::Success || plan.answer(&id, 1) == Answer::Hopeless);
            assert!(plan.takes(&id, 1) <= plan.work);
        }
    }
}
