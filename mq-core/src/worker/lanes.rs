//! Messages that wait for a worker's turn: in order of arrival, and one at a time per key where that is asked for.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::SystemTime;

use tokio::time::Instant;

use crate::worker::context::Context;
use crate::worker::window::Window;

/// What becomes of a lane when a message has been through it.
pub(crate) enum Finish {
    /// The message is settled or on its way to be: the next one of its key may run.
    Free(Option<u64>),
    /// It runs again, as this attempt; until then its key waits.
    Park { context: Context, until: Instant, attempt: u32, first_failed: Option<SystemTime> },
    /// It runs again as soon as there is a turn; until then its key waits.
    Again(Context),
}

/// The lanes of a worker. No lane is tied to a slot: any idle slot takes the next message that may run, so uneven keys
/// leave no slot idle.
pub(crate) struct Lanes {
    ready: VecDeque<Context>,
    /// Keys that are ready, running or parked, with the messages that wait behind.
    keys: HashMap<u64, Key>,
    parked: BTreeMap<(Instant, u64), Context>,
    sequence: u64,
    /// What each slot is running.
    running: Vec<Vec<Context>>,
    busy: usize,
    window: Window,
}

#[derive(Default)]
struct Key {
    waiting: VecDeque<Context>,
    parked: bool,
}

impl Lanes {
    pub(crate) fn new(slots: usize, window: Window) -> Self {
        Self {
            ready: VecDeque::new(),
            keys: HashMap::new(),
            parked: BTreeMap::new(),
            sequence: 0,
            running: (0..slots).map(|_| Vec::new()).collect(),
            busy: 0,
            window,
        }
    }

    /// Takes in a message; true when it may run now.
    pub(crate) fn push(&mut self, context: Context) -> bool {
        if let Some(key) = context.0.key {
            match self.keys.entry(key) {
                Entry::Occupied(mut entry) => {
                    let key = entry.get_mut();
                    if key.parked {
                        self.window.enter(&context);
                    }
                    key.waiting.push_back(context);
                    return false;
                }
                Entry::Vacant(entry) => {
                    entry.insert(Key::default());
                }
            }
        }
        self.ready.push_back(context);
        true
    }

    /// Takes in a message that failed under an earlier worker and may not run before `until`; its key waits behind it.
    /// True when it may run all the same: something of its key is before it, and takes its own time.
    pub(crate) fn push_resting(&mut self, context: Context, until: Instant) -> bool {
        if context.0.key.is_some_and(|key| self.keys.contains_key(&key)) {
            return self.push(context);
        }
        let (attempt, first_failed) = (context.attempt(), context.0.first_failed);
        self.finish(Finish::Park { context, until, attempt, first_failed })
    }

    /// Gives `slot`, which runs nothing, up to `max` messages that may run; false when there are none.
    pub(crate) fn take(&mut self, slot: usize, max: usize, queue: &mut VecDeque<Context>) -> bool {
        let Some(running) = self.running.get_mut(slot) else { return false };
        let count = max.min(self.ready.len());
        for context in self.ready.drain(..count) {
            running.push(context.clone());
            queue.push_back(context);
        }
        self.busy += usize::from(count > 0);
        count > 0
    }

    /// Forgets that `slot` runs anything: before its messages are given away, so that nobody else holds them.
    pub(crate) fn clear(&mut self, slot: usize) {
        if let Some(running) = self.running.get_mut(slot).filter(|running| !running.is_empty()) {
            running.clear();
            self.busy -= 1;
        }
    }

    /// Forgets all that `slot` runs but the last `left`.
    pub(crate) fn keep_last(&mut self, slot: usize, left: usize) {
        if let Some(running) = self.running.get_mut(slot) {
            running.drain(..running.len().saturating_sub(left));
        }
    }

    /// A message has been through its lane; true when another may run now.
    pub(crate) fn finish(&mut self, finish: Finish) -> bool {
        match finish {
            Finish::Free(None) => false,
            Finish::Free(Some(key)) => self.free(key),
            Finish::Park { mut context, until, attempt, first_failed } => {
                context.again(attempt, first_failed);
                if let Some(key) = context.0.key {
                    let key = self.keys.entry(key).or_default();
                    key.parked = true;
                    for waiting in &key.waiting {
                        self.window.enter(waiting);
                    }
                }
                self.window.enter(&context);
                self.sequence += 1;
                self.parked.insert((until, self.sequence), context);
                false
            }
            Finish::Again(mut context) => {
                let attempt = context.attempt();
                context.again(attempt, None);
                context.job_mut().trials += 1;
                self.ready.push_back(context);
                true
            }
        }
    }

    /// The next message of `key` may run.
    fn free(&mut self, key: u64) -> bool {
        let Entry::Occupied(mut entry) = self.keys.entry(key) else { return false };
        match entry.get_mut().waiting.pop_front() {
            Some(next) => {
                self.ready.push_back(next);
                true
            }
            None => {
                entry.remove();
                false
            }
        }
    }

    /// When the first parked message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.parked.first_key_value().map(|((until, _), _)| *until)
    }

    /// Makes parked messages run that are due at `now`; returns how many.
    pub(crate) fn wake_due(&mut self, now: Instant) -> usize {
        let mut woken = 0;
        while let Some(entry) = self.parked.first_entry().filter(|entry| entry.key().0 <= now) {
            let context = entry.remove();
            self.window.leave(&context);
            if let Some(key) = context.0.key.and_then(|key| self.keys.get_mut(&key)) {
                key.parked = false;
                for waiting in &key.waiting {
                    self.window.leave(waiting);
                }
            }
            // Before those that came later: it has waited longest.
            self.ready.push_front(context);
            woken += 1;
        }
        woken
    }

    /// Takes out every message that is not running and for which `pred` holds.
    pub(crate) fn remove(&mut self, pred: impl Fn(&Context) -> bool) -> Vec<Context> {
        let mut removed = Vec::new();
        let mut kept = Vec::new();
        let mut sort = |context: Context, kept: &mut Vec<Context>| {
            if pred(&context) { removed.push(context) } else { kept.push(context) }
        };
        for context in std::mem::take(&mut self.ready) {
            sort(context, &mut kept);
        }
        let mut parked = Vec::new();
        for (due, context) in std::mem::take(&mut self.parked) {
            let mut keep = Vec::new();
            sort(context, &mut keep);
            parked.extend(keep.into_iter().map(|context| (due, context)));
        }
        let mut lanes: Vec<VecDeque<Context>> =
            std::mem::take(&mut self.keys).into_values().map(|key| key.waiting).collect();
        // In the order they came: the same history must lead to the same settlements, whatever the hashes are.
        lanes.sort_unstable_by_key(|waiting| {
            waiting.front().map(|context| (context.token().lane, context.token().major, context.token().minor))
        });
        let mut waiting = Vec::new();
        for context in lanes.into_iter().flatten() {
            sort(context, &mut waiting);
        }
        // Put back what stays, as if it had just come: first what holds its key, then what waits behind it.
        self.window.clear();
        let running: HashSet<u64> = self.running.iter().flatten().filter_map(|context| context.0.key).collect();
        for key in running {
            self.keys.insert(key, Key::default());
        }
        for (due, context) in parked {
            self.window.enter(&context);
            if let Some(key) = context.0.key {
                self.keys.insert(key, Key { waiting: VecDeque::new(), parked: true });
            }
            self.parked.insert(due, context);
        }
        for context in kept {
            self.push(context);
        }
        for context in waiting {
            self.push(context);
        }
        removed
    }

    /// Every message that is being run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Context)> {
        self.running.iter().enumerate().flat_map(|(slot, running)| running.iter().map(move |context| (slot, context)))
    }

    /// True when no slot runs anything.
    pub(crate) fn idle(&self) -> bool {
        self.busy == 0
    }

    /// True when there is a message that may run.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many messages the parking window holds: they are not counted against prefetch.
    pub(crate) fn windowed(&self) -> usize {
        self.window.held()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::worker::testing::context;

    fn keyed(key: u64, major: u64) -> Context {
        let mut context = context(0, major);
        context.job_mut().key = Some(key);
        context
    }

    fn take(lanes: &mut Lanes, slot: usize) -> Option<u64> {
        let mut batch = VecDeque::new();
        lanes.take(slot, 1, &mut batch).then(|| batch[0].token().major)
    }

    fn done(lanes: &mut Lanes, slot: usize, key: u64) {
        lanes.clear(slot);
        lanes.finish(Finish::Free(Some(key)));
    }

    #[test]
    fn a_key_runs_one_at_a_time_and_any_slot_takes_the_next() {
        let mut lanes = Lanes::new(2, Window::new(0, 0));
        for (key, n) in [(1, 1), (1, 2), (1, 3), (2, 4)] {
            lanes.push(keyed(key, n));
        }
        assert_eq!(take(&mut lanes, 0), Some(1));
        assert_eq!(take(&mut lanes, 1), Some(4));
        done(&mut lanes, 1, 2);
        assert_eq!(take(&mut lanes, 1), None, "2 and 3 wait for 1");
        done(&mut lanes, 0, 1);
        assert_eq!(take(&mut lanes, 1), Some(2));
        assert_eq!(take(&mut lanes, 0), None);
        done(&mut lanes, 1, 1);
        assert_eq!(take(&mut lanes, 0), Some(3));
        done(&mut lanes, 0, 1);
        assert!(lanes.keys.is_empty() && lanes.idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_message_holds_its_key_only() {
        let mut lanes = Lanes::new(1, Window::new(2, 1 << 20));
        for (key, n) in [(1, 1), (1, 2), (2, 3)] {
            lanes.push(keyed(key, n));
        }
        let mut batch = VecDeque::new();
        lanes.take(0, 1, &mut batch);
        lanes.clear(0);
        let due = Instant::now() + Duration::from_secs(5);
        let context = batch.remove(0).unwrap();
        lanes.finish(Finish::Park { context, until: due, attempt: 2, first_failed: None });
        assert_eq!(lanes.windowed(), 2, "the parked one and the one behind it");
        lanes.push(keyed(1, 4));
        assert_eq!(lanes.windowed(), 2, "the window is full");
        assert_eq!(take(&mut lanes, 0), Some(3), "the other key flows");
        done(&mut lanes, 0, 2);
        assert_eq!(take(&mut lanes, 0), None);
        assert_eq!(lanes.next_due(), Some(due));
        assert_eq!(lanes.wake_due(due), 1);
        assert_eq!(lanes.windowed(), 0);
        for n in [1, 2, 4] {
            assert_eq!(take(&mut lanes, 0), Some(n), "in order across the retry");
            done(&mut lanes, 0, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_held_by_an_earlier_worker_rests_with_its_key() {
        let mut lanes = Lanes::new(1, Window::new(10, 1 << 20));
        let due = Instant::now() + Duration::from_secs(5);
        assert!(!lanes.push_resting(keyed(1, 1), due));
        assert!(!lanes.push(keyed(1, 2)), "behind the one that rests");
        assert!(lanes.push(keyed(2, 3)), "the other key flows");
        assert_eq!((lanes.windowed(), lanes.next_due()), (2, Some(due)));
        assert_eq!(take(&mut lanes, 0), Some(3));
        done(&mut lanes, 0, 2);
        assert_eq!(take(&mut lanes, 0), None);
        assert_eq!(lanes.wake_due(due), 1);
        for n in [1, 2] {
            assert_eq!(take(&mut lanes, 0), Some(n), "in order");
            done(&mut lanes, 0, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn removing_a_partition_keeps_the_order_of_the_rest() {
        let mut lanes = Lanes::new(1, Window::new(10, 1 << 20));
        let on = |lane: u32, key: u64, n: u64| {
            let mut context = context(lane, n);
            context.job_mut().key = Some(key);
            context
        };
        for context in [on(0, 1, 1), on(1, 1, 2), on(0, 1, 3), on(1, 2, 4), on(1, 1, 5)] {
            lanes.push(context);
        }
        let removed = lanes.remove(|context| context.token().lane == 0);
        assert_eq!(removed.iter().map(|context| context.token().major).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(take(&mut lanes, 0), Some(4), "2 has become the head of its key, behind what was ready");
        done(&mut lanes, 0, 2);
        assert_eq!(take(&mut lanes, 0), Some(2));
        let removed = lanes.remove(|context| context.token().major == 5);
        assert_eq!(removed.len(), 1);
        lanes.push(on(1, 1, 6));
        assert_eq!(take(&mut lanes, 0), None, "the running one still holds its key");
    }
}
