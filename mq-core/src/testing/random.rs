//! Chance that comes from a seed, and from nothing else.

use std::fmt;
use std::time::Duration;

/// Random numbers that are the same for the same seed.
pub struct Random(fastrand::Rng);

impl Random {
    /// One of several independent sequences of a seed: drawing more from one leaves the others as they are.
    pub(crate) fn stream(seed: u64, stream: u64) -> Self {
        // Seeds are counted up by people: neighbours must not look alike.
        let mixed = (seed ^ stream.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut rng = fastrand::Rng::with_seed(mixed);
        rng.u64(..);
        Self(fastrand::Rng::with_seed(rng.u64(..)))
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { self.0.usize(..end) }
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A duration from `least` up to `most`, in whole milliseconds.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_millis()).unwrap_or(u64::MAX - 1);
        least + Duration::from_millis(self.0.u64(..=span))
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// Without choices.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len());
        #[expect(clippy::indexing_slicing, reason = "documented: there must be something to choose from")]
        choices[index].clone()
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").finish_non_exhaustive()
    }
}
