//! The parking window: how much may wait for retries in memory, apart from prefetch.

use std::collections::{HashMap, HashSet};

use crate::driver::Token;
use crate::worker::context::Context;

/// Counts what is parked, and what waits behind it, for each partition. What finds the window full still waits, but
/// counts against prefetch, so that the partition pauses.
pub(crate) struct Window {
    max: usize,
    max_bytes: usize,
    held: HashSet<Token>,
    partitions: HashMap<u32, (usize, usize)>,
}

impl Window {
    /// A window of `max` messages or `max_bytes` for each partition; 0 is none.
    pub(crate) fn new(max: usize, max_bytes: usize) -> Self {
        Self { max, max_bytes, held: HashSet::new(), partitions: HashMap::new() }
    }

    /// Counts `context` if there is room.
    pub(crate) fn enter(&mut self, context: &Context) {
        let size = context.message().size();
        let (count, bytes) = self.partitions.entry(context.token().lane).or_default();
        if *count < self.max && *bytes + size <= self.max_bytes && self.held.insert(context.token()) {
            *count += 1;
            *bytes += size;
        }
    }

    /// No longer counts `context`.
    pub(crate) fn leave(&mut self, context: &Context) {
        if self.held.remove(&context.token())
            && let Some((count, bytes)) = self.partitions.get_mut(&context.token().lane)
        {
            *count -= 1;
            *bytes -= context.message().size();
        }
    }

    /// How many are counted.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Counts from nothing again.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.partitions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::context;

    #[test]
    fn counts_messages_and_bytes_by_partition() {
        let mut window = Window::new(2, 100);
        for context in [context(0, 1), context(0, 2), context(0, 3), context(1, 4)] {
            window.enter(&context);
        }
        assert_eq!(window.held(), 3);
        window.leave(&context(0, 3));
        assert_eq!(window.held(), 3, "it had found no room");
        window.leave(&context(0, 1));
        window.enter(&context(0, 3));
        assert_eq!(window.held(), 3);
        let mut small = Window::new(10, context(0, 1).message().size());
        small.enter(&context(0, 1));
        small.enter(&context(0, 2));
        assert_eq!(small.held(), 1, "full by bytes");
    }
}
