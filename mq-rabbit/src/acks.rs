//! Which deliveries of a channel are settled, so that many acknowledgements become one.
//!
//! `basic.ack` with `multiple` settles everything up to its tag; it is sent for the longest settled prefix. What is
//! settled behind a hole waits a moment for the hole to close, and is then acknowledged one by one.

use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// With the application, or not delivered yet.
    Open,
    /// To be acknowledged.
    Settled,
    /// The broker was told.
    Gone,
}

/// The deliveries of one channel from the first that is not settled.
#[derive(Debug)]
pub(crate) struct AckWindow {
    /// The tag of the first slot. Tags count from 1.
    base: u64,
    slots: VecDeque<Slot>,
    waiting: usize,
}

impl Default for AckWindow {
    fn default() -> Self {
        Self { base: 1, slots: VecDeque::new(), waiting: 0 }
    }
}

impl AckWindow {
    /// Marks a delivery to be acknowledged; false when it was settled before.
    pub(crate) fn settle(&mut self, tag: u64) -> bool {
        let fresh = self.mark(tag, Slot::Settled);
        self.waiting += usize::from(fresh);
        fresh
    }

    /// Marks a delivery of which the broker is told otherwise (a reject); false when it was settled before.
    pub(crate) fn gone(&mut self, tag: u64) -> bool {
        self.mark(tag, Slot::Gone)
    }

    /// True until it is settled.
    pub(crate) fn is_open(&self, tag: u64) -> bool {
        let index = tag.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        index.is_some_and(|index| self.slots.get(index).is_none_or(|slot| *slot == Slot::Open))
    }

    fn mark(&mut self, tag: u64, slot: Slot) -> bool {
        let Some(index) = tag.checked_sub(self.base).and_then(|index| usize::try_from(index).ok()) else {
            return false;
        };
        while self.slots.len() <= index {
            self.slots.push_back(Slot::Open);
        }
        match self.slots.get_mut(index) {
            Some(found) if *found == Slot::Open => {
                *found = slot;
                true
            }
            _ => false,
        }
    }

    /// The tag up to which everything is settled, if that has grown: to be acknowledged with `multiple`.
    pub(crate) fn advance(&mut self) -> Option<u64> {
        let mut upto = None;
        while let Some(slot) = self.slots.front().filter(|slot| **slot != Slot::Open) {
            if *slot == Slot::Settled {
                // The broker refuses `multiple` for a tag that it no longer waits for, hence only such a one.
                upto = Some(self.base);
                self.waiting -= 1;
            }
            self.slots.pop_front();
            self.base += 1;
        }
        upto
    }

    /// How many are settled, and the broker was not told.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The tags settled behind a hole: to be acknowledged one by one.
    pub(crate) fn take_waiting(&mut self) -> Vec<u64> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let mut tags = Vec::with_capacity(self.waiting);
        for (tag, slot) in (self.base..).zip(&mut self.slots) {
            if *slot == Slot::Settled {
                *slot = Slot::Gone;
                tags.push(tag);
            }
        }
        self.waiting = 0;
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_until_settled() {
        let mut window = AckWindow::default();
        window.settle(1);
        window.gone(3);
        assert_eq!([0, 1, 2, 3, 4].map(|tag| window.is_open(tag)), [false, false, true, false, true]);
    }

    #[test]
    fn a_prefix_is_one_acknowledgement() {
        let mut window = AckWindow::default();
        for tag in 1..=5 {
            assert!(window.settle(tag));
        }
        assert_eq!(window.advance(), Some(5));
        assert_eq!(window.advance(), None);
        assert!(!window.settle(3), "settled before");
        assert!(!window.settle(0), "no such tag");
    }

    #[test]
    fn what_is_behind_a_hole_waits_or_goes_alone() {
        let mut window = AckWindow::default();
        window.settle(2);
        window.settle(4);
        assert_eq!((window.advance(), window.waiting()), (None, 2));
        window.settle(1);
        assert_eq!((window.advance(), window.waiting()), (Some(2), 1));
        assert_eq!(window.take_waiting(), [4]);
        window.settle(3);
        assert_eq!(window.advance(), Some(3), "4 is gone already, and 3 is what the broker still waits for");
        window.gone(5);
        assert_eq!(window.advance(), None, "a reject needs no acknowledgement");
        window.settle(6);
        assert_eq!(window.advance(), Some(6));
    }

    /// Against a model of the broker: every settled tag is acknowledged exactly once, none that is open.
    #[test]
    fn agrees_with_the_broker_under_any_order() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut order: Vec<u64> = (1..=64).collect();
            random.shuffle(&mut order);
            let mut window = AckWindow::default();
            let mut unacked: std::collections::BTreeSet<u64> = (1..=64).collect();
            let mut settled = std::collections::BTreeSet::new();
            for tag in order {
                if random.u8(..) < 50 {
                    assert!(window.gone(tag));
                    assert!(unacked.remove(&tag));
                } else {
                    assert!(window.settle(tag));
                    settled.insert(tag);
                }
                if let Some(upto) = window.advance() {
                    assert!(unacked.contains(&upto), "the broker would close the channel");
                    assert!(
                        unacked.range(..=upto).all(|tag| settled.contains(tag)),
                        "one that is open was acknowledged"
                    );
                    unacked.retain(|tag| *tag > upto);
                }
                if random.u8(..) < 20 {
                    for tag in window.take_waiting() {
                        assert!(unacked.remove(&tag));
                    }
                }
                assert!(settled.iter().filter(|tag| unacked.contains(tag)).count() == window.waiting());
            }
            assert!(unacked.is_empty(), "{unacked:?}");
        }
    }
}
