//! A group of one topic: its lanes, members, waiting retries, dead letters, and the book of settlements.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use crate::dead_letter::DeadLetterRecord;
use crate::driver::{Event, Lag, PartitionLag, Token};
use crate::memory::flight::{Closed, Own, Receiver};
use crate::memory::inspect::SettledHow;
use crate::memory::lane::{Lane, Owner};
use crate::memory::topic::Partition;
use crate::message::{Message, Position};
use crate::name::Group;
use crate::subscription::GroupMode;

/// Behind everything: a lane with nothing to deliver.
const NOTHING: u64 = u64::MAX;

/// A dead letter.
pub(super) struct Dead {
    pub(super) number: i64,
    pub(super) message: Message,
    pub(super) record: DeadLetterRecord,
    pub(super) size: usize,
}

/// A line in the book of settlements; the message is looked up in the log when somebody asks.
#[derive(Clone, Copy)]
pub(super) struct Note {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) how: SettledHow,
}

/// A consumer of the group.
pub(super) struct Seat {
    pub(super) member: u32,
    /// The number this consumer's lanes of this topic start with.
    pub(super) lane_base: u32,
}

pub(super) struct GroupState {
    pub(super) group: Group,
    pub(super) mode: GroupMode,
    pub(super) lanes: Vec<Lane>,
    pub(super) seats: Vec<Seat>,
    pub(super) delayed: BTreeMap<(SystemTime, u64), (u32, Own)>,
    pub(super) dead: VecDeque<Dead>,
    pub(super) dead_count: i64,
    pub(super) notes: VecDeque<Note>,
    /// Where each lane stands while messages are handed out; kept for its memory.
    heads: Vec<u64>,
    /// How many lanes are changing hands: only then is there a deadline to watch.
    pub(super) leaving: usize,
}

/// What a consumer is handed in one go.
pub(super) struct Hand<'a> {
    pub(super) to: Receiver,
    pub(super) lane_base: u32,
    pub(super) room: usize,
    pub(super) auto_ack: bool,
    pub(super) delivery: &'a mut u64,
    pub(super) events: &'a mut Vec<Event>,
}

impl GroupState {
    pub(super) fn new(group: Group, mode: GroupMode, starts: impl Iterator<Item = u64>) -> Self {
        Self {
            group,
            mode,
            lanes: starts.map(Lane::new).collect(),
            seats: Vec::new(),
            delayed: BTreeMap::new(),
            dead: VecDeque::new(),
            dead_count: 0,
            notes: VecDeque::new(),
            heads: Vec::new(),
            leaving: 0,
        }
    }

    /// Hands out messages in the order the broker took them in; how many. Returns the sizes freed by acknowledging at
    /// receipt.
    pub(super) fn deliver(&mut self, log: &[Partition], hand: &mut Hand<'_>, history: usize) -> (usize, Vec<usize>) {
        let mut delivered = 0;
        let mut freed = Vec::new();
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        let ordered = self.mode == GroupMode::Ordered;
        heads.extend(self.lanes.iter_mut().zip(log).map(|(lane, log)| {
            if !ordered {
                return lane.head(log).unwrap_or(NOTHING);
            }
            let mine = lane.owner == Owner::Member(hand.to.member);
            mine.then(|| lane.next_in_order(log)).flatten().unwrap_or(NOTHING)
        }));
        while delivered < hand.room {
            let Some((index, head)) = heads.iter_mut().enumerate().min_by_key(|(_, head)| **head) else { break };
            if *head == NOTHING {
                break;
            }
            let (lane, log) = (&mut self.lanes[index], &log[index]);
            let partition = index as u32;
            *hand.delivery += 1;
            let to = Receiver { lane: hand.lane_base + partition, partition, delivery: *hand.delivery, ..hand.to };
            let Some(token) = lane.take(log, to, hand.events) else { break };
            let next = if ordered { lane.next_in_order(log) } else { lane.head(log) };
            *head = next.unwrap_or(NOTHING);
            delivered += 1;
            if hand.auto_ack {
                freed.extend(self.acknowledge_at_receipt(index, token, history));
            }
        }
        self.heads = heads;
        (delivered, freed)
    }

    fn acknowledge_at_receipt(&mut self, index: usize, token: Token, history: usize) -> Option<usize> {
        let closed = self.lanes[index].close(token)?;
        self.note(index as u32, &closed, SettledHow::Ack, history);
        closed.freed
    }

    pub(super) fn note(&mut self, partition: u32, closed: &Closed, how: SettledHow, history: usize) {
        if history == 0 {
            return;
        }
        if self.notes.len() >= history {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { partition, offset: closed.offset, attempt: closed.attempt, how });
    }

    /// Puts retries that are due in line.
    pub(super) fn release_due(&mut self, now: SystemTime, sequence: &mut u64) -> bool {
        let mut any = false;
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let (partition, own) = first.remove();
            *sequence += 1;
            if let Some(lane) = self.lanes.get_mut(partition as usize) {
                lane.enqueue(*sequence, own);
                any = true;
            }
        }
        for lane in &mut self.lanes {
            any |= lane.resting() > 0 && lane.wake_due(now);
        }
        any
    }

    /// When something of this group happens by itself.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        let lanes = self.lanes.iter().flat_map(|lane| {
            let leaving = match lane.owner {
                Owner::Leaving { until, .. } => Some(until),
                _ => None,
            };
            lane.rests_until().into_iter().chain(leaving)
        });
        lanes.chain(self.delayed.first_key_value().map(|((due, _), _)| *due)).min()
    }

    /// The sizes of everything kept for this group alone.
    pub(super) fn kept_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        let own = self.lanes.iter().flat_map(Lane::own_sizes);
        own.chain(self.delayed.values().map(|(_, own)| own.size)).chain(self.dead.iter().map(|dead| dead.size))
    }

    /// Takes back everything in flight from everybody, with blame; nobody owns a partition until the next rebalance.
    pub(super) fn disconnect(&mut self) {
        for lane in &mut self.lanes {
            lane.recall(None, true, |_, _| ());
            lane.owner = Owner::Nobody;
        }
        self.leaving = 0;
    }

    pub(super) fn lag(&self, log: &[Partition]) -> Lag {
        let place = |partition: usize, offset: u64| Position::Log {
            partition: partition as u32,
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
        };
        let partitions: Vec<_> = self
            .lanes
            .iter()
            .zip(log)
            .enumerate()
            .map(|(index, (lane, log))| PartitionLag {
                partition: index as u32,
                ready: lane.ready(log),
                position: place(index, lane.low),
                end: place(index, log.end()),
            })
            .collect();
        Lag {
            ready: partitions.iter().map(|partition| partition.ready).sum(),
            unsettled: Some(self.lanes.iter().map(|lane| lane.in_flight as u64).sum()),
            retrying: Some(self.delayed.len() as u64 + self.lanes.iter().map(Lane::resting).sum::<u64>()),
            dead: Some(self.dead.len() as u64),
            partitions,
        }
    }
}
