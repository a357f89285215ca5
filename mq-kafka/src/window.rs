//! How many acks may wait for a commit: what a fault would repeat.

/// Bounds the acks that no commit covers yet. While commits succeed the bound follows the speed: as many as two
/// commits cover. When one fails, or takes its time, it is the least: a consumer which went on settling what it has
/// read ahead would do all of that again once the broker is back.
#[derive(Debug, Default)]
pub(crate) struct Window {
    least: usize,
    most: usize,
    allowed: usize,
    /// Acks that no commit has made durable.
    open: usize,
    /// Those the commit under way covers.
    covered: usize,
}

impl Window {
    /// Between `least` and `most` acks, however fast the commits are.
    pub(crate) fn new(least: usize, most: usize) -> Self {
        Self { least, most: most.max(least), allowed: least, open: 0, covered: 0 }
    }

    /// For a consumer that commits nothing.
    pub(crate) fn unbounded() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }

    /// How many messages may be handed out now.
    pub(crate) fn room(&self) -> usize {
        self.allowed.saturating_sub(self.open)
    }

    pub(crate) fn acked(&mut self) {
        self.open = self.open.saturating_add(1);
    }

    /// A commit of everything acked so far begins.
    pub(crate) fn begin(&mut self) {
        self.covered = self.open;
    }

    pub(crate) fn succeeded(&mut self) {
        self.open -= self.covered;
        self.allowed = self.covered.saturating_mul(2).clamp(self.least, self.most);
    }

    pub(crate) fn failed(&mut self) {
        self.allowed = self.least;
    }

    /// Nothing is left to commit: what was acked and not committed belongs to somebody else now.
    pub(crate) fn clear(&mut self) {
        self.open = 0;
        self.covered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(window: &mut Window, count: usize) {
        assert!(window.room() >= count, "{window:?}");
        (0..count).for_each(|_| window.acked());
    }

    #[test]
    fn it_follows_the_speed_and_shrinks_when_a_commit_fails() {
        let mut window = Window::new(10, 35);
        ack(&mut window, 10);
        assert_eq!(window.room(), 0);
        window.begin();
        window.succeeded();
        ack(&mut window, 20);
        window.begin();
        window.succeeded();
        assert_eq!(window.room(), 35, "never more than the most");
        ack(&mut window, 12);
        window.begin();
        ack(&mut window, 3);
        window.failed();
        assert_eq!(window.room(), 0, "{window:?}");
        window.begin();
        window.succeeded();
        assert_eq!(window.room(), 30);
    }

    #[test]
    fn acks_during_a_commit_wait_for_the_next() {
        let mut window = Window::new(4, 4);
        ack(&mut window, 3);
        window.begin();
        ack(&mut window, 1);
        window.succeeded();
        assert_eq!(window.room(), 3);
    }

    #[test]
    fn unbounded_never_fills() {
        let mut window = Window::unbounded();
        ack(&mut window, 1000);
        assert!(window.room() > 1_000_000);
        window.clear();
    }
}
