//! One group's view of one partition: how far it is, what is in flight, what came back, and copies of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::SystemTime;

use crate::driver::{Event, Hold, Incoming, Origin, Token};
use crate::memory::flight::{Closed, Flight, Own, Receiver, Slot, SlotState, Trail};
use crate::memory::resting::Resting;
use crate::memory::topic::Partition;
use crate::message::{Control, Position};

/// Marks the `major` of a token as naming a copy of the group's own, not an offset of the log.
const OWN: u64 = 1 << 63;

/// Whose partition it is, in ordered mode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Member(u32),
    /// Taken away from `from`, which may finish what it has until `until`.
    Leaving {
        from: u32,
        revocation: u64,
        until: SystemTime,
    },
}

pub(super) struct Lane {
    /// The first offset not settled.
    pub(super) low: u64,
    window: VecDeque<Slot>,
    returned: BTreeSet<u64>,
    /// Messages that were held for a retry when they came back, and their followers: not before they are due.
    resting: Resting,
    waiting: BTreeMap<u64, Own>,
    flying: BTreeMap<u64, (Own, Flight)>,
    pub(super) in_flight: usize,
    pub(super) owner: Owner,
}

impl Lane {
    pub(super) fn new(start: u64) -> Self {
        Self {
            low: start,
            window: VecDeque::new(),
            returned: BTreeSet::new(),
            resting: Resting::default(),
            waiting: BTreeMap::new(),
            flying: BTreeMap::new(),
            in_flight: 0,
            owner: Owner::Nobody,
        }
    }

    fn next(&self) -> u64 {
        self.low + self.window.len() as u64
    }

    /// Messages that could be delivered now.
    pub(super) fn ready(&self, log: &Partition) -> u64 {
        self.returned.len() as u64 + self.waiting.len() as u64 + log.end().saturating_sub(self.next())
    }

    /// The place in the broker's order of the message that comes next.
    pub(super) fn head(&self, log: &Partition) -> Option<u64> {
        let offset = self.returned.first().copied().unwrap_or_else(|| self.next());
        let logged = log.get(offset).map(|entry| entry.sequence);
        match (self.waiting.first_key_value(), logged) {
            (Some((own, _)), Some(logged)) => Some(logged.min(*own)),
            (Some((own, _)), None) => Some(*own),
            (None, logged) => logged,
        }
    }

    /// As [`Lane::head`], where no message may overtake one of its key that rests.
    pub(super) fn next_in_order(&mut self, log: &Partition) -> Option<u64> {
        if self.resting() > 0 {
            self.keep_order(log);
        }
        self.head(log)
    }

    /// Delivers the message [`Lane::head`] spoke of: written where it is to lie, since moving it costs more than all
    /// the rest.
    pub(super) fn take(&mut self, log: &Partition, to: Receiver, events: &mut Vec<Event>) -> Option<Token> {
        let flight = Flight { member: to.member, delivery: to.delivery, held: false };
        let returned = self.returned.first().copied();
        let offset = returned.unwrap_or_else(|| self.next());
        let entry = log.get(offset);
        if let Some((own, _)) = self.waiting.first_key_value()
            && entry.is_none_or(|entry| entry.sequence > *own)
        {
            return self.take_own(flight, to, events);
        }
        let entry = entry?;
        let mut trail = Trail::NEW;
        if returned.is_some() {
            self.returned.pop_first();
            let slot = self.slot(offset)?;
            slot.state = SlotState::InFlight(flight);
            trail = slot.trail;
        } else {
            self.window.push_back(Slot { state: SlotState::InFlight(flight), trail });
        }
        self.in_flight += 1;
        let token = Token { epoch: to.epoch, lane: to.lane, major: offset, minor: to.delivery };
        events.push(Event::Message(Incoming {
            token,
            message: entry.message.clone(),
            position: position(to.partition, offset),
            control: Control {
                attempt: trail.attempt,
                due: trail.due,
                first_failed: trail.first_failed,
                ..Control::default()
            },
            redeliveries: trail.redeliveries,
            redelivered: trail.delivered,
            origin: Origin::Topic,
        }));
        Some(token)
    }

    fn take_own(&mut self, flight: Flight, to: Receiver, events: &mut Vec<Event>) -> Option<Token> {
        let (id, own) = self.waiting.pop_first()?;
        let token = Token { epoch: to.epoch, lane: to.lane, major: id | OWN, minor: to.delivery };
        events.push(Event::Message(Incoming {
            token,
            message: own.message.clone(),
            position: position(to.partition, own.offset),
            control: Control {
                attempt: own.trail.attempt,
                redrives: own.redrives,
                due: own.trail.due,
                first_failed: own.trail.first_failed,
                ..Control::default()
            },
            redeliveries: own.trail.redeliveries,
            redelivered: own.trail.delivered,
            origin: own.origin,
        }));
        self.flying.insert(id, (own, flight));
        self.in_flight += 1;
        Some(token)
    }

    /// Puts a copy of the group's own in line.
    pub(super) fn enqueue(&mut self, id: u64, own: Own) {
        self.waiting.insert(id, own);
    }

    fn slot(&mut self, offset: u64) -> Option<&mut Slot> {
        let index = usize::try_from(offset.checked_sub(self.low)?).ok()?;
        self.window.get_mut(index)
    }

    /// Where the message of a delivery in flight stands in the log; `None` when the delivery is stale.
    pub(super) fn offset_of(&mut self, token: Token) -> Option<u64> {
        let (flight, offset) = if token.major & OWN != 0 {
            self.flying.get(&(token.major & !OWN)).map(|(own, flight)| (*flight, own.offset))?
        } else {
            match self.slot(token.major)?.state {
                SlotState::InFlight(flight) => (flight, token.major),
                _ => return None,
            }
        };
        (flight.delivery == token.minor).then_some(offset)
    }

    /// Settles the delivery for good; `None` when it is stale.
    pub(super) fn close(&mut self, token: Token) -> Option<Closed> {
        if token.major & OWN != 0 {
            let id = token.major & !OWN;
            self.flying.get(&id).filter(|(_, flight)| flight.delivery == token.minor)?;
            let (own, flight) = self.flying.remove(&id)?;
            self.in_flight -= 1;
            return Some(Closed {
                offset: own.offset,
                attempt: own.trail.attempt,
                held: flight.held,
                freed: Some(own.size),
            });
        }
        let slot = self.slot(token.major)?;
        let SlotState::InFlight(flight) = slot.state else { return None };
        if flight.delivery != token.minor {
            return None;
        }
        slot.state = SlotState::Settled;
        let attempt = slot.trail.attempt;
        self.in_flight -= 1;
        while self.window.front().is_some_and(|slot| slot.state == SlotState::Settled) {
            self.window.pop_front();
            self.low += 1;
        }
        Some(Closed { offset: token.major, attempt, held: flight.held, freed: None })
    }

    /// Gives the delivery back; with blame it counts as a redelivery. `None` when it is stale.
    pub(super) fn give_back(&mut self, token: Token, blame: bool) -> Option<Closed> {
        if token.major & OWN != 0 {
            let id = token.major & !OWN;
            self.flying.get(&id).filter(|(_, flight)| flight.delivery == token.minor)?;
            let (mut own, flight) = self.flying.remove(&id)?;
            own.trail.came_back(blame);
            let closed = Closed { offset: own.offset, attempt: own.trail.attempt, held: flight.held, freed: None };
            self.waiting.insert(id, own);
            self.in_flight -= 1;
            return Some(closed);
        }
        let slot = self.slot(token.major)?;
        let SlotState::InFlight(flight) = slot.state else { return None };
        if flight.delivery != token.minor {
            return None;
        }
        slot.state = SlotState::Returned;
        slot.trail.came_back(blame);
        let trail = slot.trail;
        self.come_back(token.major, trail);
        self.in_flight -= 1;
        Some(Closed { offset: token.major, attempt: trail.attempt, held: flight.held, freed: None })
    }

    /// Records the attempt; the message stays with its consumer. `held` in the answer: it was held before.
    pub(super) fn hold(&mut self, token: Token, hold: &Hold, now: SystemTime) -> Option<Closed> {
        let (trail, flight, offset) = if token.major & OWN != 0 {
            let (own, flight) = self.flying.get_mut(&(token.major & !OWN))?;
            (&mut own.trail, flight, own.offset)
        } else {
            let Slot { state: SlotState::InFlight(flight), trail } = self.slot(token.major)? else { return None };
            (trail, flight, token.major)
        };
        if flight.delivery != token.minor {
            return None;
        }
        (trail.attempt, trail.due) = (hold.attempt, Some(hold.due));
        trail.first_failed.get_or_insert(now);
        let held = std::mem::replace(&mut flight.held, true);
        Some(Closed { offset, attempt: hold.attempt, held, freed: None })
    }

    /// Takes back what these members have in flight (all of it without a name); how many each had, and held.
    pub(super) fn recall(&mut self, member: Option<u32>, blame: bool, mut had: impl FnMut(u32, bool)) {
        let wanted = |flight: &Flight| member.is_none_or(|member| member == flight.member);
        let mut back = Vec::new();
        for (offset, slot) in (self.low..).zip(&mut self.window) {
            if let SlotState::InFlight(flight) = slot.state
                && wanted(&flight)
            {
                had(flight.member, flight.held);
                slot.state = SlotState::Returned;
                slot.trail.came_back(blame);
                back.push((offset, slot.trail));
            }
        }
        self.in_flight -= back.len();
        for (offset, trail) in back {
            self.come_back(offset, trail);
        }
        while let Some(id) = self.flying.iter().find(|(_, (_, flight))| wanted(flight)).map(|(id, _)| *id)
            && let Some((mut own, flight)) = self.flying.remove(&id)
        {
            had(flight.member, flight.held);
            own.trail.came_back(blame);
            self.waiting.insert(id, own);
            self.in_flight -= 1;
        }
    }

    fn come_back(&mut self, offset: u64, trail: Trail) {
        match trail.due {
            Some(due) => self.resting.add(offset, due),
            None => {
                self.returned.insert(offset);
            }
        }
    }

    /// How many rest until they are due.
    pub(super) fn resting(&self) -> u64 {
        self.resting.len() as u64
    }

    /// When the first of them is due.
    pub(super) fn rests_until(&self) -> Option<SystemTime> {
        self.resting.until()
    }

    /// Puts those that are due in line again.
    pub(super) fn wake_due(&mut self, now: SystemTime) -> bool {
        let before = self.returned.len();
        self.returned.extend(std::iter::from_fn(|| self.resting.pop_due(now)));
        self.returned.len() > before
    }

    /// Keeps the followers of resting messages behind them: the next message is then of a key that may go on.
    fn keep_order(&mut self, log: &Partition) {
        while let offset = self.returned.first().copied().unwrap_or_else(|| self.next())
            && let Some(entry) = log.get(offset)
            && let Some(due) = self.resting.key_until(&entry.message, log)
        {
            if self.returned.pop_first().is_none() {
                self.window.push_back(Slot { state: SlotState::Returned, trail: Trail::NEW });
            }
            self.resting.follow(offset, due);
        }
    }

    /// The sizes of the copies of the group's own.
    pub(super) fn own_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.waiting.values().map(|own| own.size).chain(self.flying.values().map(|(own, _)| own.size))
    }

    /// Goes on at `offset`. Nothing of the log may be in flight.
    pub(super) fn seek(&mut self, offset: u64) {
        self.low = offset;
        self.window.clear();
        self.returned.clear();
        self.resting = Resting::default();
    }
}

fn position(partition: u32, offset: u64) -> Position {
    Position::Log { partition, offset: i64::try_from(offset).unwrap_or(i64::MAX) }
}
