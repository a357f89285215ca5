//! What is read when: backpressure, pauses, and what was given back.

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::Offset;

use crate::lane::Phase;
use crate::reader::Reader;

/// A full buffer is waited for this long before partitions pause: pausing throws away what was fetched ahead.
const PATIENCE: Duration = Duration::from_millis(500);

impl Reader {
    /// Fetches again what was given back.
    pub(crate) fn seek_back(&self) {
        // A rebalance undoes seeks: wait until it is over.
        if !self.revocations.is_empty() {
            return;
        }
        let mut wanted = TopicPartitionList::new();
        let mut lanes: Vec<(usize, i64)> = Vec::new();
        let now = Instant::now();
        {
            let mut state = self.shared.lock();
            for (index, lane) in state.lanes.iter().enumerate() {
                if (lane.seek || lane.is_overdue(now))
                    && lane.phase == Phase::Assigned
                    && let Some(first) = lane.requeued.first()
                    && wanted.add_partition_offset(&lane.source.name, lane.partition, Offset::Offset(*first)).is_ok()
                {
                    lanes.push((index, *first));
                }
            }
            if lanes.is_empty() {
                return;
            }
            // What was read ahead of these partitions comes again after the seek, behind what was given back.
            let requeued: Vec<_> = lanes.iter().map(|(index, _)| state.unread_from(*index)).collect();
            for ((index, _), (requeued, read)) in lanes.iter().zip(requeued) {
                state.forget_unread(std::slice::from_ref(index));
                if let Some(lane) = state.lanes.get_mut(*index) {
                    lane.requeued = requeued;
                    lane.seek = true;
                    lane.read = read;
                }
            }
        }
        match self.client.seek_partitions(wanted, Duration::from_secs(1)) {
            Ok(done) => {
                let mut state = self.shared.lock();
                for (index, from) in lanes {
                    if let Some(lane) = state.lanes.get_mut(index) {
                        let failed = done
                            .find_partition(&lane.source.name, lane.partition)
                            .is_some_and(|element| element.error().is_err());
                        // Something given back meanwhile may lie before the place sought.
                        lane.sought = lane.sought.saturating_add(1);
                        lane.sought_at = Some(now);
                        lane.seek = failed || lane.requeued.first().is_some_and(|first| *first < from);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot seek back now; tried again"),
        }
    }

    /// Pauses what may not be read now and resumes what may. True while the buffer is full and nothing is paused yet:
    /// then the caller waits a moment instead of polling.
    pub(crate) fn pause_or_resume(&mut self) -> bool {
        let (full, half_empty, wanted) = {
            let state = self.shared.lock();
            let full = state.is_full(&self.shared.options);
            let all = state.user_paused || self.overfull;
            let wanted: Vec<usize> = state
                .lanes
                .iter()
                .enumerate()
                .filter(|(_, lane)| lane.phase == Phase::Assigned && (all || lane.is_full()))
                .map(|(index, _)| index)
                .collect();
            (full, state.is_half_empty(&self.shared.options), wanted)
        };
        self.overfull &= !half_empty;
        let mut wait = false;
        if !full {
            self.full_since = None;
        } else if !self.overfull {
            let since = *self.full_since.get_or_insert_with(Instant::now);
            self.overfull = since.elapsed() >= PATIENCE;
            wait = !self.overfull && self.revocations.is_empty();
        }
        if wanted.is_empty() && self.paused.is_empty() {
            return wait;
        }
        let pause: Vec<usize> = wanted.iter().copied().filter(|lane| !self.paused.contains(lane)).collect();
        let resume: Vec<usize> = self.paused.iter().copied().filter(|lane| !wanted.contains(lane)).collect();
        if !pause.is_empty() && self.client.pause(&self.list(&pause)).is_ok() {
            self.paused.extend(&pause);
        }
        if !resume.is_empty() && self.client.resume(&self.list(&resume)).is_ok() {
            for lane in &resume {
                self.paused.remove(lane);
            }
        }
        wait
    }
}
