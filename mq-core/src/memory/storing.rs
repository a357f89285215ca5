//! What a send does to the state.

use std::time::SystemTime;

use crate::driver::{Destination, Origin, Publish, Receipt, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::flight::{Own, Trail};
use crate::memory::state::{State, fail, no_group, wake};
use crate::memory::topic::DelayedSend;
use crate::message::{Message, Position};
use crate::name::{Group, Topic, fnv1a};

/// Why a send must wait.
#[derive(Clone, Copy)]
pub(super) enum Full {
    Capacity,
    Blocked,
}

impl Full {
    pub(super) fn error(self, topic: &Topic) -> Error {
        let error = match self {
            Self::Capacity => fail(ErrorKind::Backpressure, "the topic is full of messages not yet settled")
                .with_hint("consume them, purge dead letters, or raise `capacity`"),
            Self::Blocked => fail(ErrorKind::Backpressure, "the broker is blocked or stalled"),
        };
        error.with_context("topic", topic)
    }
}

impl State {
    /// Stores one message; the outer error says that there is no room now.
    pub(super) fn accept(&mut self, publish: &Publish, now: SystemTime) -> Result<Result<Receipt>, Full> {
        if self.plan.down {
            return Ok(Err(fail(ErrorKind::Unavailable, "the connection is cut")));
        }
        if self.plan.blocked || self.plan.stalled {
            return Err(Full::Blocked);
        }
        let message = publish.message();
        let (topic, size) = match self.check(message) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let fault = self.plan.sends.pop_front();
        if let Some(fault) = fault
            && !fault.stores()
        {
            return Ok(Err(fault.error()));
        }
        if !self.make_room(topic, size, now) {
            self.plan.sends.extend(fault);
            return Err(Full::Capacity);
        }
        let stored = self.place(topic, message, size, publish.destination(), publish.deliver_at(), now);
        Ok(match fault {
            None => stored,
            Some(fault) => Err(fault.error()),
        })
    }

    /// The topic of a message that may be sent, and the size it counts with.
    pub(super) fn check(&mut self, message: &Message) -> Result<(u32, usize)> {
        let size = message.size();
        let limit = self.config.max_message_bytes.min(self.config.capacity_bytes);
        if size > limit {
            return Err(fail(ErrorKind::TooLarge, format!("the message has {size} B, the limit is {limit} B"))
                .with_context("topic", message.topic())
                .with_hint("send a reference to the data, or raise `max_message_bytes`"));
        }
        Ok((self.topic_id(message.topic())?, size))
    }

    pub(super) fn make_room(&mut self, topic: u32, size: usize, now: SystemTime) -> bool {
        let Self { topics, config, .. } = self;
        let Some(state) = topics.get_mut(&topic) else { return false };
        state.expire(now);
        let room = state.make_room(size, config);
        if room {
            state.keep(size);
        }
        room
    }

    pub(super) fn place(
        &mut self,
        topic: u32,
        message: &Message,
        size: usize,
        destination: &Destination,
        deliver_at: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Receipt> {
        let mut message = message.clone();
        if message.made_at().is_none() {
            message = message.with_timestamp(Some(now));
        }
        let due = deliver_at.filter(|due| *due > now);
        match (destination, due) {
            (Destination::Group(group), _) => self.place_for_group(topic, message, size, group, due),
            (_, None) => Ok(Receipt::at(self.store(topic, message, size, now))),
            (_, Some(due)) => {
                self.sequence += 1;
                if let Some(state) = self.topics.get_mut(&topic) {
                    state.delayed.insert((due, self.sequence), DelayedSend { message, size });
                    self.wake_topic(topic);
                }
                Ok(Receipt::at(Position::None).due(due, false))
            }
        }
    }

    fn place_for_group(
        &mut self,
        topic: u32,
        message: Message,
        size: usize,
        group: &Group,
        due: Option<SystemTime>,
    ) -> Result<Receipt> {
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(state) = self.topics.get_mut(&topic) else { return Ok(Receipt::default()) };
        let partition = fnv1a(message.key_bytes().map_or(&[][..], |key| key)) % state.log.len() as u64;
        let offset = state.log[partition as usize].end();
        let Some(known) = state.groups.values_mut().find(|known| known.group == *group) else {
            state.forget(size);
            return Err(no_group(&state.topic, group));
        };
        let own =
            Own { message, size, trail: Trail { due, ..Trail::NEW }, redrives: 0, origin: Origin::Redrive, offset };
        let receipt = match due {
            Some(due) => {
                known.delayed.insert((due, sequence), (partition as u32, own));
                Receipt::at(Position::None).due(due, false)
            }
            None => {
                known.lanes[partition as usize].enqueue(sequence, own);
                Receipt::at(Position::None)
            }
        };
        self.wake_topic(topic);
        Ok(receipt)
    }

    /// Stores all messages and settles all deliveries, or nothing.
    pub(super) fn atomic(&mut self, batch: &[Message], settlements: Vec<Settlement>) -> Result<()> {
        if self.plan.down {
            return Err(fail(ErrorKind::Unavailable, "the connection is cut"));
        }
        if self.plan.blocked {
            return Err(fail(ErrorKind::Backpressure, "the broker is blocked"));
        }
        if settlements.iter().any(|settlement| !self.is_current(settlement.token)) {
            return Err(fail(ErrorKind::Rejected, "a delivery to be settled is stale: nothing was stored")
                .with_hint("its message is redelivered; let it be handled again"));
        }
        let fault = self.plan.sends.pop_front();
        if let Some(fault) = fault
            && !fault.stores()
        {
            return Err(fault.error());
        }
        let now = self.clock.now();
        let mut kept = Vec::with_capacity(batch.len());
        for message in batch {
            let outcome = self.check(message).and_then(|(topic, size)| {
                let room = self.make_room(topic, size, now);
                if room { Ok((topic, size)) } else { Err(Full::Capacity.error(message.topic())) }
            });
            match outcome {
                Ok(place) => kept.push(place),
                Err(error) => {
                    for (topic, size) in kept {
                        self.topics.get_mut(&topic).into_iter().for_each(|state| state.forget(size));
                    }
                    return Err(error);
                }
            }
        }
        for (message, (topic, size)) in batch.iter().zip(kept) {
            self.place(topic, message, size, &Destination::Topic, None, now)?;
        }
        // Faults of single settlements do not tear the batch apart: they wait for single ones.
        let planned = std::mem::take(&mut self.plan.settlements);
        for settlement in settlements {
            let member = self.member_of(settlement.token);
            self.settle(member, settlement)?;
        }
        self.plan.settlements = planned;
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn wake_topic(&mut self, topic: u32) {
        let Self { topics, members, .. } = self;
        for group in topics.get(&topic).into_iter().flat_map(|state| state.groups.values()) {
            wake(group, members);
        }
    }
}
