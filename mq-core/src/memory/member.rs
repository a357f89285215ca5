//! A consumer as the broker sees it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::driver::{ConsumerSpec, Event};
use crate::name::{Group, Topic};

/// Every consumer, by its number.
pub(super) type Members = BTreeMap<u32, Member>;

/// One topic read by a consumer.
pub(super) struct Sub {
    pub(super) topic: u32,
    pub(super) group: u32,
    pub(super) names: (Topic, Group),
    /// The number of this topic's first lane: lanes are numbered through over all topics of a consumer.
    pub(super) lane_base: u32,
    pub(super) lanes: u32,
}

pub(super) struct Member {
    pub(super) connection: u64,
    pub(super) epoch: u32,
    pub(super) subs: Vec<Sub>,
    pub(super) prefetch: usize,
    pub(super) parking: usize,
    pub(super) auto_ack: bool,
    pub(super) drain: Duration,
    /// Its group is its own and ends with it.
    pub(super) ephemeral: bool,
    pub(super) in_flight: usize,
    pub(super) held: usize,
    pub(super) paused: bool,
    pub(super) connected: bool,
    pub(super) events: VecDeque<Event>,
    /// The topic to be served first next time.
    pub(super) turn: usize,
    pub(super) waiting: bool,
    pub(super) wake: Arc<Notify>,
}

impl Member {
    pub(super) fn new(spec: &ConsumerSpec, subs: Vec<Sub>, connection: u64, epoch: u32) -> Self {
        Self {
            connection,
            epoch,
            subs,
            prefetch: spec.prefetch.max(1),
            parking: spec.parking,
            auto_ack: spec.auto_ack,
            drain: spec.drain,
            ephemeral: spec.subscription.group().is_none(),
            in_flight: 0,
            held: 0,
            paused: false,
            connected: true,
            events: VecDeque::new(),
            turn: 0,
            waiting: false,
            wake: Arc::new(Notify::new()),
        }
    }

    /// How many more it may have in flight. While messages are held for retries the parking window comes on top: how
    /// many others wait behind them, the consumer alone knows, and asks for no more than it has room for.
    pub(super) fn room(&self) -> usize {
        let parking = if self.held > 0 { self.parking } else { 0 };
        self.prefetch.saturating_add(parking).saturating_sub(self.in_flight)
    }

    /// The topic a lane belongs to, and the partition.
    pub(super) fn sub_of(&self, lane: u32) -> Option<(&Sub, u32)> {
        let sub = self.subs.iter().rev().find(|sub| sub.lane_base <= lane)?;
        let partition = lane - sub.lane_base;
        (partition < sub.lanes).then_some((sub, partition))
    }

    /// One delivery less.
    pub(super) fn settled(&mut self, held: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.held = self.held.saturating_sub(usize::from(held));
    }

    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.wake.notify_one();
        }
    }
}
