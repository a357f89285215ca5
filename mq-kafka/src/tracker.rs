//! Which messages of a partition are settled, and from where a crash would go on.

use std::collections::{BTreeMap, VecDeque};

use crate::offset_map::OffsetMap;

const BITS: i64 = 64;

/// The settlements of one partition in one session.
///
/// A bit for every offset from the oldest unsettled one on: set while the message is out. Offsets never seen
/// (compaction, transaction markers) count as settled.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    /// The offset of the first bit.
    base: i64,
    bits: VecDeque<u64>,
    /// Behind the last offset handed out.
    end: i64,
    /// Settled in an earlier session, above the place the group stood: never handed out again.
    skip: VecDeque<(i64, i64)>,
    /// Attempts recorded for messages held here, or by an earlier session.
    attempts: BTreeMap<i64, u32>,
    /// How often a message was given back after it was begun.
    requeues: BTreeMap<i64, u32>,
    /// Below this, an earlier session had handed out.
    suspect_end: i64,
    /// In how many sessions.
    sessions: u32,
    /// Handed out something of which a crash right now would leave no trace.
    news: bool,
    handed: bool,
}

/// From this many sessions without an end on, every single message handed out is news.
const SUSPICIOUS: u32 = 3;

impl Tracker {
    /// Starts at the committed offset with what was remembered beside it.
    pub(crate) fn new(start: i64, map: &OffsetMap) -> Self {
        let at = |offset: u64| start.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX));
        Self {
            base: start,
            bits: VecDeque::new(),
            end: start,
            skip: map.settled.iter().map(|(from, to)| (at(*from), at(*to))).collect(),
            attempts: map.attempts.iter().map(|(offset, attempt)| (at(*offset), *attempt)).collect(),
            requeues: map.requeues.iter().map(|(offset, count)| (at(*offset), *count)).collect(),
            suspect_end: at(map.handed),
            sessions: map.sessions,
            news: false,
            handed: false,
        }
    }

    /// Starts over at `offset`: the log no longer has what was remembered.
    pub(crate) fn restart(&mut self, offset: i64) {
        *self = Self::new(offset, &OffsetMap::default());
    }

    /// True when an earlier session settled it.
    pub(crate) fn skips(&self, offset: i64) -> bool {
        self.skip.iter().take_while(|(from, _)| *from <= offset).any(|(_, to)| offset < *to)
    }

    /// A message is handed out (perhaps not for the first time).
    pub(crate) fn hand(&mut self, offset: i64) {
        if self.bits.is_empty() {
            self.base = offset;
        }
        if offset < self.base {
            return;
        }
        let Ok(index) = usize::try_from((offset - self.base) / BITS) else { return };
        if index >= self.bits.len() {
            self.bits.resize(index + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(index) {
            *word |= 1 << ((offset - self.base) % BITS);
        }
        if offset >= self.end {
            self.end = offset.saturating_add(1);
        }
        if !self.handed || (offset < self.suspect_end && self.sessions >= SUSPICIOUS) {
            self.handed = true;
            self.news = true;
        }
    }

    /// True when a commit should follow at once, so that a crash is counted.
    pub(crate) fn is_news(&self) -> bool {
        self.news
    }

    /// A message is settled; false when it was not out.
    pub(crate) fn settle(&mut self, offset: i64) -> bool {
        if offset < self.base {
            return false;
        }
        let Ok(index) = usize::try_from((offset - self.base) / BITS) else { return false };
        let Some(word) = self.bits.get_mut(index) else { return false };
        let bit = 1_u64 << ((offset - self.base) % BITS);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        if index == 0 {
            while self.bits.front() == Some(&0) {
                self.bits.pop_front();
                self.base = self.base.saturating_add(BITS);
            }
        }
        if !self.attempts.is_empty() {
            self.attempts.remove(&offset);
        }
        if !self.requeues.is_empty() {
            self.requeues.remove(&offset);
        }
        true
    }

    /// True while the message is out (or was given back).
    pub(crate) fn is_out(&self, offset: i64) -> bool {
        offset >= self.base
            && usize::try_from((offset - self.base) / BITS)
                .ok()
                .and_then(|index| self.bits.get(index))
                .is_some_and(|word| word & (1 << ((offset - self.base) % BITS)) != 0)
    }

    /// Behind the last offset handed out.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// True while any message is out.
    pub(crate) fn has_out(&self) -> bool {
        !self.bits.is_empty()
    }

    /// Records the attempt a held message will be.
    pub(crate) fn set_attempt(&mut self, offset: i64, attempt: u32) {
        self.attempts.insert(offset, attempt);
    }

    /// The attempt a message is: recorded, or the first.
    pub(crate) fn attempt(&self, offset: i64) -> u32 {
        if self.attempts.is_empty() { 1 } else { self.attempts.get(&offset).copied().unwrap_or(1) }
    }

    /// The message was begun and given back.
    pub(crate) fn count_requeue(&mut self, offset: i64) {
        let count = self.requeues.entry(offset).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// How often the message was handed out in vain: given back, or in sessions that ended without settling it.
    pub(crate) fn redeliveries(&self, offset: i64) -> u32 {
        let given_back = if self.requeues.is_empty() { 0 } else { self.requeues.get(&offset).copied().unwrap_or(0) };
        self.crashes(offset).saturating_add(given_back)
    }

    /// In how many earlier sessions the message was handed out and not settled.
    pub(crate) fn crashes(&self, offset: i64) -> u32 {
        if offset < self.suspect_end { self.sessions } else { 0 }
    }

    /// From here on a crash would go on: the lowest offset that is out, or the end.
    pub(crate) fn watermark(&self) -> i64 {
        for (index, word) in self.bits.iter().enumerate() {
            if *word != 0 {
                let index = i64::try_from(index).unwrap_or(i64::MAX / BITS);
                return self.base + index * BITS + i64::from(word.trailing_zeros());
            }
        }
        self.end
    }

    /// The offset to commit and what to remember beside it. `graceful`: nothing that is out was started, or it is being
    /// given back on purpose, so nobody is to blame later.
    pub(crate) fn commit(&mut self, graceful: bool) -> (i64, OffsetMap) {
        self.news = false;
        let mark = self.watermark();
        let relative = |offset: i64| u64::try_from(offset.saturating_sub(mark)).unwrap_or(0);
        let mut settled: Vec<(u64, u64)> = Vec::new();
        let mut run = mark;
        for out in self.out() {
            if out > run {
                settled.push((relative(run), relative(out)));
            }
            run = out + 1;
        }
        // Nothing out: then the mark is the end. Otherwise what lies between the last one out and the end is settled.
        if self.end > run {
            settled.push((relative(run), relative(self.end)));
        }
        while self.skip.front().is_some_and(|(_, to)| *to <= self.end) {
            self.skip.pop_front();
        }
        for (from, to) in &self.skip {
            let from = (*from).max(self.end);
            match settled.last_mut() {
                Some((_, last)) if *last == relative(from) => *last = relative(*to),
                _ => settled.push((relative(from), relative(*to))),
            }
        }
        self.attempts.retain(|offset, _| *offset >= mark);
        let attempts = self.attempts.iter().map(|(offset, attempt)| (relative(*offset), *attempt)).collect();
        self.requeues.retain(|offset, _| *offset >= mark);
        let requeues = self.requeues.iter().map(|(offset, count)| (relative(*offset), *count)).collect();
        let suspects = self.suspect_end > mark;
        let (handed, sessions) = if graceful || (self.end <= mark && !suspects) {
            if suspects { (relative(self.suspect_end), self.sessions) } else { (0, 0) }
        } else if suspects {
            (relative(self.suspect_end.max(self.end)), self.sessions.saturating_add(u32::from(self.end > mark)))
        } else {
            (relative(self.end), 1)
        };
        (mark, OffsetMap { handed, sessions, settled, attempts, requeues })
    }

    fn out(&self) -> impl Iterator<Item = i64> + '_ {
        let base = |index: usize| self.base.saturating_add(i64::try_from(index).unwrap_or(i64::MAX / BITS) * BITS);
        self.bits.iter().enumerate().map(move |(index, word)| (base(index), word)).flat_map(|(base, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros();
                word &= word - 1;
                Some(base + i64::from(bit))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(start: i64) -> Tracker {
        Tracker::new(start, &OffsetMap::default())
    }

    #[test]
    fn the_watermark_waits_for_the_oldest() {
        let mut tracker = fresh(10);
        for offset in [10, 11, 13, 200] {
            tracker.hand(offset);
        }
        assert_eq!((tracker.watermark(), tracker.end), (10, 201));
        assert!(tracker.settle(11) && tracker.settle(200) && !tracker.settle(12) && !tracker.settle(11));
        assert_eq!(tracker.watermark(), 10);
        assert!(tracker.settle(10));
        assert_eq!(tracker.watermark(), 13);
        assert!(tracker.settle(13));
        assert_eq!(tracker.watermark(), 201);
        assert_eq!(tracker.commit(false), (201, OffsetMap::default()));
    }

    #[test]
    fn a_crash_goes_on_with_what_was_not_settled() {
        let mut tracker = fresh(100);
        (100..110).for_each(|offset| tracker.hand(offset));
        for offset in [101, 102, 105, 109] {
            tracker.settle(offset);
        }
        tracker.set_attempt(103, 4);
        let (mark, map) = tracker.commit(false);
        assert_eq!(mark, 100);
        let (text, _) = map.encode();
        let next = Tracker::new(mark, &OffsetMap::decode(&text).unwrap());
        let left: Vec<_> = (100..112).filter(|offset| !next.skips(*offset)).collect();
        assert_eq!(left, [100, 103, 104, 106, 107, 108, 110, 111]);
        assert_eq!((next.attempt(103), next.attempt(104)), (4, 1));
        assert_eq!((next.redeliveries(100), next.redeliveries(110)), (1, 0));
    }

    #[test]
    fn a_second_crash_before_anything_is_read_forgets_nothing() {
        let mut tracker = fresh(0);
        (0..4).for_each(|offset| tracker.hand(offset));
        tracker.settle(2);
        let (mark, first) = tracker.commit(false);
        let (again, second) = Tracker::new(mark, &first).commit(false);
        assert_eq!((mark, &first.settled), (again, &second.settled));
        assert_eq!((first.handed, first.sessions), (second.handed, second.sessions));
    }

    #[test]
    fn crashes_are_counted_and_clean_ends_are_not() {
        let mut tracker = fresh(0);
        for session in 1..4 {
            tracker.hand(0);
            let (mark, map) = tracker.commit(false);
            assert_eq!((mark, map.sessions), (0, session));
            tracker = Tracker::new(mark, &map);
            assert_eq!(tracker.redeliveries(0), session);
        }
        tracker.hand(0);
        let (mark, map) = tracker.commit(true);
        assert_eq!(Tracker::new(mark, &map).redeliveries(0), 3);
        tracker.settle(0);
        assert_eq!(tracker.commit(false), (1, OffsetMap::default()));
    }
}
