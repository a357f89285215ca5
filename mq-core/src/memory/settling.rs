//! What a settlement does to the state.

use std::iter::Peekable;

use crate::dead_letter::{MAX_ERROR, cut};
use crate::driver::{DeadLettering, Origin, Retry, Settle, Settled, Settlement, Token};
use crate::error::Result;
use crate::memory::faults::SettleFault;
use crate::memory::flight::{Own, Trail};
use crate::memory::group::{Dead, GroupState};
use crate::memory::inspect::SettledHow;
use crate::memory::state::{State, wake};

impl State {
    /// Settles deliveries of a consumer, in order.
    pub(super) fn settle_all(
        &mut self,
        member: u32,
        items: &mut Peekable<impl Iterator<Item = Settlement>>,
        outcomes: &mut Vec<Result<Settled>>,
    ) {
        while items.peek().is_some() {
            self.acknowledge(member, items, outcomes);
            outcomes.extend(items.next().map(|settlement| self.settle(member, settlement)));
        }
        // Room in the prefetch window may be what the consumer waits for.
        if let Some(member) = self.members.get_mut(&member) {
            member.wake();
        }
    }

    /// Settles a run of plain acks of one topic, looking everything up once: the hot path of every worker. Stops at the
    /// first settlement that is something else.
    fn acknowledge(
        &mut self,
        member: u32,
        items: &mut Peekable<impl Iterator<Item = Settlement>>,
        outcomes: &mut Vec<Result<Settled>>,
    ) {
        let Self { members, topics, config, plan, .. } = self;
        if !plan.settlements.is_empty() {
            return;
        }
        let Some(first) = items.peek().map(|settlement| settlement.token) else { return };
        let Some(member) = members.get_mut(&member).filter(|member| !member.auto_ack) else { return };
        let Some((sub, _)) = member.sub_of(first.lane) else { return };
        let (epoch, base, lanes) = (member.epoch, sub.lane_base, sub.lanes);
        let Some(topic) = topics.get_mut(&sub.topic) else { return };
        let Some(group) = topic.groups.get_mut(&sub.group) else { return };
        let (mut copies, mut bytes) = (0, 0);
        let mine = |settlement: &Settlement| {
            let Token { epoch: of, lane, .. } = settlement.token;
            matches!(settlement.action, Settle::Ack) && of == epoch && (base..base + lanes).contains(&lane)
        };
        while let Some(Settlement { token, .. }) = items.next_if(mine) {
            let partition = token.lane - base;
            let closed = group.lanes[partition as usize].close(token);
            outcomes.push(Ok(if closed.is_some() { Settled::Durable } else { Settled::Stale }));
            if let Some(closed) = closed {
                member.settled(closed.held);
                group.note(partition, &closed, SettledHow::Ack, config.history);
                if let Some(size) = closed.freed {
                    (copies, bytes) = (copies + 1, bytes + size);
                }
            }
        }
        topic.forget_many(copies, bytes);
    }

    /// Settles one delivery of a consumer.
    pub(super) fn settle(&mut self, member: u32, settlement: Settlement) -> Result<Settled> {
        let Settlement { token, action } = settlement;
        let Self { members, topics, sequence, config, clock, plan, .. } = self;
        let Some(member) = members.get_mut(&member).filter(|member| member.epoch == token.epoch) else {
            return Ok(Settled::Stale);
        };
        if member.auto_ack {
            return Ok(if matches!(action, Settle::Ack) { Settled::Durable } else { Settled::Stale });
        }
        let Some((sub, partition)) = member.sub_of(token.lane) else { return Ok(Settled::Stale) };
        let Some(topic) = topics.get_mut(&sub.topic) else { return Ok(Settled::Stale) };
        let Some(group) = topic.groups.get_mut(&sub.group) else { return Ok(Settled::Stale) };
        let lane = &mut group.lanes[partition as usize];
        let Some(offset) = lane.offset_of(token) else { return Ok(Settled::Stale) };
        let how = SettledHow::of(&action);
        let fault = plan.settlement(how);
        if let Some(fault @ SettleFault::Unavailable) = fault {
            return Err(fault.error());
        }
        let closed = match &action {
            _ if fault == Some(SettleFault::Halfway) => None,
            Settle::Ack | Settle::Retry(_) | Settle::DeadLetter(_) => lane.close(token),
            Settle::Requeue => lane.give_back(token, true),
            Settle::Release => lane.give_back(token, false),
            Settle::Hold(hold) => lane.hold(token, hold, clock.now()),
            // A lease is the session itself here: it needs no extending.
            Settle::Extend(_) => None,
        };
        match &closed {
            Some(closed) if how == SettledHow::Hold => member.held += usize::from(!closed.held),
            Some(closed) => member.settled(closed.held),
            None => {}
        }
        if let Some(closed) = &closed {
            group.note(partition, closed, how, config.history);
        }
        let kept = group.keep_copy(action, partition, offset, sequence);
        if matches!(how, SettledHow::Requeue | SettledHow::Release | SettledHow::Retry) {
            wake(group, members);
        }
        if let Some(size) = closed.and_then(|closed| closed.freed) {
            topic.forget(size);
        }
        if let Some(size) = kept {
            topic.keep(size);
        }
        fault.map_or(Ok(Settled::Durable), |fault| Err(fault.error()))
    }

    /// The consumer whose session the token is from; 0, which nobody has, when it ended.
    pub(super) fn member_of(&self, token: Token) -> u32 {
        self.members.iter().find(|(_, member)| member.epoch == token.epoch).map_or(0, |(id, _)| *id)
    }

    /// True when the delivery is still in flight.
    pub(super) fn is_current(&mut self, token: Token) -> bool {
        let id = self.member_of(token);
        let Self { members, topics, .. } = self;
        let Some((sub, partition)) = members.get(&id).and_then(|member| member.sub_of(token.lane)) else {
            return false;
        };
        topics
            .get_mut(&sub.topic)
            .and_then(|topic| topic.groups.get_mut(&sub.group))
            .is_some_and(|group| group.lanes[partition as usize].offset_of(token).is_some())
    }
}

impl GroupState {
    /// Stores the copy a retry or a dead letter asks for; its size.
    fn keep_copy(&mut self, action: Settle, partition: u32, offset: u64, sequence: &mut u64) -> Option<usize> {
        match action {
            Settle::Retry(retry) => {
                *sequence += 1;
                let due = retry.due;
                let own = own(*retry, offset);
                let size = own.size;
                self.delayed.insert((due, *sequence), (partition, own));
                Some(size)
            }
            Settle::DeadLetter(dead) => {
                self.dead_count += 1;
                let dead = dead_letter(*dead, self.dead_count);
                let size = dead.size;
                self.dead.push_back(dead);
                Some(size)
            }
            _ => None,
        }
    }
}

fn own(retry: Retry, offset: u64) -> Own {
    Own {
        size: retry.message.size(),
        trail: Trail { attempt: retry.attempt, first_failed: retry.first_failed, due: Some(retry.due), ..Trail::NEW },
        redrives: retry.redrives,
        origin: Origin::Retry,
        offset,
        message: retry.message,
    }
}

fn dead_letter(dead: DeadLettering, number: i64) -> Dead {
    let DeadLettering { message, mut record, position: _ } = dead;
    if record.error.len() > MAX_ERROR {
        record.error = cut(&record.error, MAX_ERROR).to_owned();
    }
    Dead { number, size: message.size(), message, record }
}
