//! Acknowledgements that are part of a transaction.
//!
//! The group's place after them travels in the transaction. Until that has ended the consumer commits nothing by itself:
//! a commit in between would put the acknowledgements back where they were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use mq_core::capability::Feature;
use mq_core::driver::{Event, Settle, Settlement, Token};
use mq_core::error::{Error, ErrorKind, Result};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::OwnedMutexGuard;

use crate::error::{BACKEND, fault, from_client};
use crate::lane::Phase;
use crate::many;
use crate::shared::Shared;
use crate::state::offset_of;
use crate::tracker::Tracker;

/// The consumers of a broker, to be found by the numbers in their tokens.
#[derive(Default)]
pub(crate) struct Members(Mutex<Vec<Weak<Shared>>>);

impl Members {
    pub(crate) fn add(&self, shared: &Arc<Shared>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|member| member.strong_count() > 0);
        known.push(Arc::downgrade(shared));
    }

    fn find(&self, number: u64) -> Option<Arc<Shared>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(Weak::upgrade).find(|member| member.number == number)
    }

    /// Finds whose deliveries these are, each consumer with its tokens, in the order of their numbers.
    pub(crate) fn sort(&self, settlements: Vec<Settlement>) -> Result<Vec<(Arc<Shared>, Vec<Token>)>> {
        let mut sorted: BTreeMap<u64, (Arc<Shared>, Vec<Token>)> = BTreeMap::new();
        for Settlement { mut token, action } in settlements {
            let unfit = |hint| Err(Error::unsupported(Feature::AtomicHandoff, BACKEND, hint));
            if !matches!(action, Settle::Ack) {
                return unfit("in one step with messages only acknowledge; retry or dead-letter by itself");
            }
            if let Some((_, tokens)) = sorted.get_mut(&token.minor) {
                many::take_part(&mut token.lane);
                tokens.push(token);
                continue;
            }
            let member = self.find(token.minor).ok_or_else(stale)?;
            if member.options.auto_ack || !member.options.commits {
                return unfit("subscribe as a group, with acknowledgements of your own");
            }
            many::take_part(&mut token.lane);
            sorted.insert(token.minor, (member, vec![token]));
        }
        Ok(sorted.into_values().collect())
    }
}

/// What a transaction is told of a group: who speaks for it, and its places.
pub(crate) type Places = (Arc<ConsumerGroupMetadata>, TopicPartitionList);

/// Acknowledgements of one consumer in a transaction. While it lives, the consumer commits nothing itself; dropped
/// without a word how the transaction ended, that counts as not known.
pub(crate) struct Handoff {
    shared: Arc<Shared>,
    tokens: Vec<Token>,
    /// False: what became of the transaction is not known.
    ended: bool,
    _turn: OwnedMutexGuard<()>,
}

impl Handoff {
    /// Waits for an earlier one of this consumer, and for the commit under way.
    pub(crate) async fn begin(shared: Arc<Shared>, tokens: Vec<Token>, deadline: tokio::time::Instant) -> Result<Self> {
        let busy = || fault(ErrorKind::Backpressure, "the consumer is still committing what came before");
        let turn = Arc::clone(&shared.handoffs).lock_owned();
        let turn = tokio::time::timeout_at(deadline, turn).await.map_err(|_| busy())?;
        shared.lock().held = true;
        let mut handoff = Self { shared, tokens, ended: true, _turn: turn };
        loop {
            let durable = handoff.shared.durable.notified();
            tokio::pin!(durable);
            durable.as_mut().enable();
            if handoff.shared.lock().in_flight.is_none() {
                break;
            }
            tokio::time::timeout_at(deadline, durable).await.map_err(|_| busy())?;
        }
        handoff.ended = false;
        Ok(handoff)
    }

    /// The group's places once these are settled; nothing is settled yet.
    pub(crate) fn places(&self) -> Result<Places> {
        let state = self.shared.lock();
        if state.lanes.len() > many::MAX_LANES {
            return Err(fault(ErrorKind::Config, "a consumer of so many partitions cannot settle in a transaction"));
        }
        let member = state.membership.clone().ok_or_else(stale)?;
        let mut trackers: BTreeMap<u32, Tracker> = BTreeMap::new();
        for token in &self.tokens {
            let lane = state.lane(token).ok_or_else(stale)?;
            let offset = offset_of(token);
            let tracker = trackers.entry(token.lane).or_insert_with(|| lane.tracker.clone());
            // Given back, it is on its way to being delivered again.
            if lane.requeued.contains(&offset) || !tracker.settle(offset) {
                return Err(stale());
            }
        }
        let mut list = TopicPartitionList::new();
        for (index, tracker) in &mut trackers {
            let Some(lane) = state.lanes.get(*index as usize) else { return Err(stale()) };
            let (offset, map) = tracker.commit(false);
            let (text, complete) = map.encode();
            if !complete {
                return Err(fault(ErrorKind::Backpressure, "more is settled out of order than a commit can say")
                    .with_context("topic", &lane.source.name)
                    .with_context("partition", lane.partition)
                    .with_hint("settle the oldest deliveries first, then hand this one off"));
            }
            let mut element = list.add_partition(&lane.source.name, lane.partition);
            element.set_metadata(&text);
            element.set_offset(Offset::Offset(offset)).map_err(|error| from_client(&error, "hand off"))?;
        }
        Ok((member, list))
    }

    /// The transaction is committed: they are settled.
    pub(crate) fn committed(mut self) {
        self.ended = true;
        let mut state = self.shared.lock();
        state.begin_batch();
        for token in &self.tokens {
            // Lost meanwhile, they are settled all the same: the next owner waits for the end of the transaction.
            let _ = state.ack(token);
        }
    }

    /// Nothing was done: they are as they were.
    pub(crate) fn nothing(mut self) {
        self.ended = true;
    }

    /// Nobody knows how it ended, but the broker will: the places are read again once it has. Until then these
    /// partitions are not ours.
    fn unknown(&self) {
        let mut state = self.shared.lock();
        let lanes: Vec<usize> = self
            .tokens
            .iter()
            .filter(|token| state.lane(token).is_some())
            .map(|token| token.lane as usize)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let again: Vec<usize> = lanes
            .iter()
            .copied()
            .filter(|lane| state.lanes.get(*lane).is_some_and(|lane| lane.phase == Phase::Assigned))
            .collect();
        let had_out = state.end(&lanes);
        if !had_out.is_empty() {
            state.events.push_back(Event::Lost(had_out));
        }
        state.read_again.extend(again);
    }
}

impl Drop for Handoff {
    fn drop(&mut self) {
        if !self.ended {
            self.unknown();
        }
        let mut state = self.shared.lock();
        state.held = false;
        self.shared.commit_if_due(&mut state, Instant::now());
        drop(state);
        self.shared.commit_asked.notify_all();
        self.shared.durable.notify_waiters();
        self.shared.ready.notify_one();
    }
}

/// The deliveries are another session's.
pub(crate) fn stale() -> Error {
    fault(
        ErrorKind::Rejected,
        "the session of these deliveries is over: nothing was stored, and they come again, here or elsewhere",
    )
}
