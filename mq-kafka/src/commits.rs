//! Commits: one path, one in flight, on a thread of their own.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

use crate::lane::Phase;
use crate::shared::{Client, Shared};
use crate::state::State;

/// Commits are at least this far apart: a commit costs the broker more than many messages do.
const COMMIT_GAP: Duration = Duration::from_millis(10);
/// How long after a failed commit the next is tried.
const COMMIT_RETRY: Duration = Duration::from_millis(200);
impl Shared {
    /// Commits when enough has gathered.
    pub(crate) fn tick(&self) {
        let mut state = self.lock();
        self.commit_if_due(&mut state, Instant::now());
    }

    pub(crate) fn commit_if_due(&self, state: &mut State, now: Instant) {
        if state.in_flight.is_some() || state.requested || state.held || state.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let since = state.last_commit.map_or(Duration::MAX, |last| now.duration_since(last));
        let due = state.flush_wanted
            || (state.acks >= self.options.commit_acks && since >= COMMIT_GAP)
            || since >= self.options.commit_interval
            || self.is_urgent(state);
        if !due {
            return;
        }
        if self.options.commits && !self.options.auto_ack && state.is_dirty() {
            state.requested = true;
            self.commit_asked.notify_one();
        } else {
            state.last_commit = Some(now);
            state.flush_wanted = false;
            state.durable_seq = state.settled_seq;
            // Only who waits for room is woken: a consumer woken by its own look would look for ever.
            let awaited = state.window.room() == 0;
            state.window.clear();
            self.durable.notify_waiters();
            if awaited {
                self.ready.notify_one();
            }
        }
    }

    /// True when the broker should know at once what was handed out. Without commits it never does.
    pub(crate) fn is_urgent(&self, state: &State) -> bool {
        self.options.commits && !self.options.auto_ack && state.urgent()
    }

    /// Commits what is asked for until the consumer has ended. The client answers only commits that are waited for, so
    /// this needs a thread of its own: the reading thread must go on polling meanwhile.
    pub(crate) fn run_commits(&self, client: &Client, turn: u32) {
        while let Some((covers, list)) = self.next_commit(turn) {
            let result = client.commit(&list, CommitMode::Sync);
            self.committed(turn, covers, &result, &list);
        }
    }

    /// The number of the [`Self::run_commits`] to come. An earlier one ends, and a commit it has under way tells nothing
    /// any more.
    pub(crate) fn begin_commits(&self) -> u32 {
        let mut state = self.lock();
        state.commits_turn += 1;
        if state.in_flight.take().is_some() {
            state.window.failed();
        }
        state.retry_at = None;
        self.commit_asked.notify_all();
        state.commits_turn
    }

    /// Ends [`Self::run_commits`] after the commit under way.
    pub(crate) fn stop_commits(&self) {
        self.lock().no_more_commits = true;
        self.commit_asked.notify_all();
    }

    fn next_commit(&self, turn: u32) -> Option<(u64, TopicPartitionList)> {
        let mut guard = self.lock();
        while (!guard.requested || guard.held) && !guard.no_more_commits && guard.commits_turn == turn {
            guard = self.commit_asked.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        let state = &mut *guard;
        if !state.requested || state.held || state.commits_turn != turn {
            return None;
        }
        state.requested = false;
        state.flush_wanted = false;
        state.acks = 0;
        state.last_commit = Some(Instant::now());
        let mut list = TopicPartitionList::new();
        for lane in state.lanes.iter_mut().filter(|lane| lane.dirty && lane.phase != Phase::Gone) {
            lane.dirty = false;
            // Given back on purpose: nobody died over it.
            let graceful = state.closing || (lane.out == 0 && lane.phase == Phase::Revoking);
            let (offset, map) = lane.tracker.commit(graceful);
            let (text, complete) = map.encode();
            lane.crowded = !complete;
            let mut element = list.add_partition(&lane.source.name, lane.partition);
            element.set_metadata(&text);
            if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                tracing::debug!(%error, offset, "no log has this offset");
            }
        }
        state.window.begin();
        state.in_flight = Some(state.settled_seq);
        Some((state.settled_seq, list))
    }

    fn committed(&self, turn: u32, covers: u64, result: &KafkaResult<()>, list: &TopicPartitionList) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.commits_turn != turn {
            return;
        }
        state.in_flight = None;
        match result {
            Ok(()) => {
                state.retry_at = None;
                state.durable_seq = state.durable_seq.max(covers);
                state.window.succeeded();
            }
            Err(error) => {
                tracing::debug!(%error, "a commit failed; it is tried again while the partitions are ours");
                state.dirty_again(list);
                state.window.failed();
                state.flush_wanted = true;
                state.retry_at = Some(Instant::now() + COMMIT_RETRY);
            }
        }
        self.commit_if_due(state, Instant::now());
        drop(guard);
        self.durable.notify_waiters();
        // The consumer may wait for room among the acks.
        self.ready.notify_one();
    }

    /// Starts making everything settled so far durable; the number to wait for with [`Self::is_durable`].
    pub(crate) fn begin_flush(&self) -> u64 {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_dirty() {
            state.settled_seq += 1;
        }
        let target = state.settled_seq;
        if state.durable_seq < target {
            state.flush_wanted = true;
            self.commit_if_due(state, Instant::now());
        }
        target
    }

    pub(crate) fn is_durable(&self, target: u64) -> bool {
        let mut state = self.lock();
        if state.durable_seq < target && state.in_flight.is_none() && !state.requested && !state.is_dirty() {
            // What was left to commit belonged to partitions that are gone: it comes again there.
            state.durable_seq = target;
        }
        state.durable_seq >= target || state.closed
    }

    /// Waits until everything settled so far is durable, or its partitions are gone.
    pub(crate) async fn flush(&self) {
        let target = self.begin_flush();
        loop {
            let durable = self.durable.notified();
            tokio::pin!(durable);
            durable.as_mut().enable();
            if self.is_durable(target) {
                return;
            }
            // The reading thread repeats failed commits; the timeout only covers partitions that vanish meanwhile.
            let _ = tokio::time::timeout(Duration::from_millis(100), durable).await;
        }
    }
}
