//! Taking partitions and giving them up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mq_core::driver::Event;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::group::{ASK_AGAIN, settled_coordinator};
use crate::lane::{Lane, Phase};
use crate::offset_map::OffsetMap;
use crate::reader::{Known, Reader};
use crate::rebalance::Seen;

/// How long the final commit of a revocation may take.
pub(crate) const FINAL_COMMIT: Duration = Duration::from_secs(3);
/// How long a group that is forming is waited for before it is left.
pub(crate) const JOINED: Duration = Duration::from_secs(3);

/// One question where the group stands: between two the reading thread looks whether it is to end.
const PLACES: Duration = Duration::from_secs(2);

/// A revocation the group waits for.
pub(crate) struct Revocation {
    pub(crate) id: u64,
    pub(crate) lanes: Vec<usize>,
    /// When to go on without the core.
    pub(crate) deadline: Instant,
    /// The final commit to wait for, and until when.
    pub(crate) commit: Option<(u64, Instant)>,
}

impl Reader {
    pub(crate) fn rebalance(&mut self) {
        let seen = {
            let mut seen = self.client.context().seen.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *seen)
        };
        for seen in seen {
            self.last = None;
            match seen {
                Seen::Assigned(partitions) => {
                    self.joining = false;
                    self.assigned(partitions);
                }
                Seen::Revoked { partitions, lost } => {
                    // What it does next is join again.
                    self.joining = true;
                    self.revoked(&partitions, lost);
                }
            }
        }
    }

    pub(crate) fn assigned(&mut self, partitions: Vec<(String, i32)>) {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        // When the group's places cannot be read now, the client reads the offsets itself and only the map is missing.
        let known = if partitions.is_empty() { Ok(list.clone()) } else { self.stable_places(&list) };
        let mut lanes = Vec::new();
        for place in partitions {
            let element = known.as_ref().ok().and_then(|known| known.find_partition(&place.0, place.1));
            let start = element.as_ref().and_then(|element| element.offset().to_raw()).filter(|offset| *offset >= 0);
            // The wrapper panics on text that is not UTF-8; that is none of ours.
            let map = element
                .and_then(|element| catch_unwind(AssertUnwindSafe(|| OffsetMap::decode(element.metadata()))).ok())
                .flatten()
                .unwrap_or_default();
            let (topic, partition) = place.clone();
            let offset = start.map_or(Offset::Invalid, Offset::Offset);
            if let Some(mut element) = list.find_partition(&topic, partition) {
                // Offsets the broker named are valid, and so is "none".
                let _ = element.set_offset(offset);
            }
            if let Some(lane) = self.open_lane(&place, start, &map) {
                lanes.push(lane);
            }
        }
        if let Err(error) = self.client.incremental_assign(&list) {
            tracing::warn!(%error, "cannot take the partitions assigned");
        }
        // The client keeps a pause beyond the assignment it was made in.
        if let Err(error) = self.client.resume(&list) {
            tracing::warn!(%error, "cannot resume the partitions assigned");
        }
        self.shared.lock().membership = self.client.group_metadata().map(Arc::new);
        if !lanes.is_empty() {
            self.shared.push_event(Event::Assigned(lanes));
        }
    }

    /// Where the group stands, once no transaction has a say in it any more.
    fn stable_places(&self, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        let until = Instant::now() + self.timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(PLACES);
            let found = settled_coordinator(left, |left| self.client.committed_offsets(list.clone(), left));
            let again = match &found {
                Ok(found) => found.elements().iter().any(|element| {
                    let code = element.error().err().and_then(|error| error.rdkafka_error_code());
                    code == Some(Code::UnstableOffsetCommit)
                }),
                Err(error) => {
                    matches!(error.rdkafka_error_code(), Some(Code::UnstableOffsetCommit | Code::OperationTimedOut))
                }
            };
            if !again || Instant::now() >= until || self.shared.lock().closing {
                return found;
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Takes partitions again of which only the broker knows how far the group is.
    pub(crate) fn read_places_again(&mut self) {
        let lanes = std::mem::take(&mut self.shared.lock().read_again);
        if lanes.is_empty() {
            return;
        }
        let ours = self.client.assignment().unwrap_or_default();
        let again: Vec<((String, i32), usize)> = self
            .places
            .iter()
            .filter(|((topic, partition), lane)| {
                let given_up = self.revocations.iter().any(|revocation| revocation.lanes.contains(lane));
                lanes.contains(lane) && !given_up && ours.find_partition(topic, *partition).is_some()
            })
            .map(|(place, lane)| (place.clone(), *lane))
            .collect();
        if again.is_empty() {
            return;
        }
        let (places, lanes): (Vec<_>, Vec<_>) = again.into_iter().unzip();
        self.last = None;
        self.unassign(&lanes);
        self.assigned(places);
    }

    pub(crate) fn open_lane(&mut self, place: &(String, i32), start: Option<i64>, map: &OffsetMap) -> Option<u32> {
        let source = self.sources.get(&place.0)?.clone();
        let mut state = self.shared.lock();
        let index = *self.places.entry(place.clone()).or_insert_with(|| {
            state.lanes.push(Lane::new(source.clone(), place.1));
            state.lanes.len() - 1
        });
        let lane = state.lanes.get_mut(index)?;
        lane.assign(start, map);
        let known = Known { source, epoch: lane.epoch };
        match self.known.get_mut(index) {
            Some(slot) => *slot = known,
            None => self.known.push(known),
        }
        self.paused.remove(&index);
        u32::try_from(index).ok()
    }

    pub(crate) fn revoked(&mut self, partitions: &[(String, i32)], lost: bool) {
        let lanes: Vec<usize> = partitions.iter().filter_map(|place| self.places.get(place).copied()).collect();
        if lost {
            // A dead member may commit nothing: the new owner's place would move back.
            let _ = self.shared.lock().end(&lanes);
            self.shared.push_event(Event::Lost(ids(&lanes)));
            self.unassign(&lanes);
            return;
        }
        let id = self.next_revocation;
        self.next_revocation += 1;
        {
            let mut state = self.shared.lock();
            state.forget_unread(&lanes);
            for index in &lanes {
                if let Some(lane) = state.lanes.get_mut(*index).filter(|lane| lane.phase != Phase::Gone) {
                    lane.phase = Phase::Revoking;
                    lane.dirty = true;
                }
            }
        }
        // The other half of a rebalance that only gives: nothing to drain.
        if !lanes.is_empty() {
            self.shared.push_event(Event::Revoking(id, ids(&lanes)));
        }
        let deadline = Instant::now() + self.shared.options.drain;
        self.revocations.push(Revocation { id, lanes, deadline, commit: None });
    }

    /// Goes on with revocations: drained (or out of time), then committed, then given up.
    pub(crate) fn end_revocations(&mut self) {
        if self.revocations.is_empty() {
            self.shared.lock().drained.clear();
            return;
        }
        let now = Instant::now();
        let lost = self.client.assignment_lost();
        let mut open = Vec::new();
        for mut revocation in std::mem::take(&mut self.revocations) {
            if revocation.commit.is_none() {
                let state = self.shared.lock();
                let out = revocation
                    .lanes
                    .iter()
                    .any(|index| state.lanes.get(*index).is_some_and(|lane| lane.out > 0 || !lane.parked.is_empty()));
                let drained = !out || state.drained.contains(&revocation.id) || now >= revocation.deadline;
                drop(state);
                if drained && !lost {
                    revocation.commit = Some((self.shared.begin_flush(), now + FINAL_COMMIT));
                }
            }
            let ended =
                lost || revocation.commit.is_some_and(|(target, until)| self.shared.is_durable(target) || now >= until);
            if !ended {
                open.push(revocation);
                continue;
            }
            let had_out = self.shared.lock().end(&revocation.lanes);
            if !had_out.is_empty() {
                self.shared.push_event(Event::Lost(had_out));
            }
            self.unassign(&revocation.lanes);
        }
        self.revocations = open;
    }

    pub(crate) fn unassign(&mut self, lanes: &[usize]) {
        let list = self.list(lanes);
        if let Err(error) = self.client.incremental_unassign(&list) {
            tracing::debug!(%error, "cannot give the partitions up");
        }
        for lane in lanes {
            self.paused.remove(lane);
        }
    }
}

pub(crate) fn ids(lanes: &[usize]) -> Vec<u32> {
    lanes.iter().filter_map(|lane| u32::try_from(*lane).ok()).collect()
}
