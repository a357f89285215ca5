//! Receiving: joining, polling, leaving.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::capability::Feature;
use crate::config::Topology;
use crate::driver::{ConsumerDriver, ConsumerSpec, Event};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::NAME;
use crate::memory::flight::Receiver;
use crate::memory::group::{Hand, Seat};
use crate::memory::member::{Member, Sub};
use crate::memory::server::Server;
use crate::memory::state::{State, fail, no_group, no_topic};
use crate::name::Group;
use crate::subscription::{GroupMode, Selector};

pub(super) struct MemoryConsumer {
    server: Arc<Server>,
    member: u32,
    wake: Arc<Notify>,
    left: bool,
}

/// Sleeps are cut into pieces of this length, so that no time of day is too far for a timer.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl ConsumerDriver for MemoryConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        let mut deadline = None;
        loop {
            let next = match self.server.lock().poll(self.member, events, max)? {
                Polled::Something { freed } => {
                    if freed {
                        self.server.room.ring();
                    }
                    self.server.changed.ring();
                    return Ok(());
                }
                Polled::Nothing { next } => next,
            };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert_with(|| now + wait.min(LONGEST_SLEEP));
            if now >= deadline {
                return Ok(());
            }
            let until =
                next.map_or(deadline, |next| deadline.min(now + self.server.clock.until(next).min(LONGEST_SLEEP)));
            // Woken or due: either way look again.
            let _ = timeout_at(until, self.wake.notified()).await;
        }
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        match self.server.lock().members.get_mut(&self.member) {
            Some(member) => {
                member.paused = paused;
                member.wake();
                Ok(())
            }
            None => Err(ended()),
        }
    }

    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        self.server.lock().drained(revocation);
        self.server.changed.ring();
        Ok(())
    }

    async fn close(mut self: Box<Self>, _deadline: Duration) -> Result<()> {
        self.leave(false);
        Ok(())
    }
}

impl MemoryConsumer {
    pub(super) fn open(server: &Arc<Server>, spec: &ConsumerSpec, connection: u64, topology: Topology) -> Result<Self> {
        let (member, wake) = server.lock().join(spec, connection, topology == Topology::Declare)?;
        server.changed.ring();
        Ok(Self { server: Arc::clone(server), member, wake, left: false })
    }

    pub(super) fn member(&self) -> u32 {
        self.member
    }

    fn leave(&mut self, blame: bool) {
        if !std::mem::replace(&mut self.left, true) {
            self.server.lock().leave(self.member, blame);
            self.server.room.ring();
            self.server.changed.ring();
        }
    }
}

/// A consumer dropped without being closed is one whose process died.
impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.leave(true);
    }
}

impl fmt::Debug for MemoryConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConsumer").field("member", &self.member).finish_non_exhaustive()
    }
}

fn ended() -> Error {
    fail(ErrorKind::Closed, "the consumer's session has ended")
}

/// What a look at the state brought.
pub(super) enum Polled {
    /// There are events. `freed`: by acknowledging at receipt.
    Something { freed: bool },
    /// There is nothing before `next`, unless somebody does something.
    Nothing { next: Option<SystemTime> },
}

impl State {
    fn join(&mut self, spec: &ConsumerSpec, connection: u64, declare: bool) -> Result<(u32, Arc<Notify>)> {
        if self.plan.down {
            return Err(fail(ErrorKind::Unavailable, "the connection is cut"));
        }
        let subscription = &spec.subscription;
        subscription.check()?;
        if let Some(selector) = subscription.selector() {
            let feature = match selector {
                Selector::RoutingPattern(_) => Feature::RoutingPattern,
                Selector::Headers { .. } => Feature::RoutingHeaders,
            };
            return Err(Error::unsupported(feature, NAME, "choose messages in the handler"));
        }
        let (id, epoch) = (self.new_number(), self.new_number());
        let ephemeral = subscription.group().is_none();
        let group = subscription.group().cloned().map_or_else(|| Group::parse(format!("broadcast-{id}")), Ok)?;
        let mut subs: Vec<Sub> = Vec::new();
        let mut lane_base = 0;
        for topic in subscription.topics() {
            if subs.iter().any(|sub| sub.names.0 == *topic) {
                continue;
            }
            let number = self.topic_id(topic)?;
            let joined = self.join_group(
                number,
                &group,
                subscription.group_mode(),
                subscription.start_from(),
                declare || ephemeral,
            )?;
            let lanes = self.topics.get(&number).map_or(0, |state| state.log.len()) as u32;
            subs.push(Sub { topic: number, group: joined, names: (topic.clone(), group.clone()), lane_base, lanes });
            lane_base += lanes;
        }
        let mut member = Member::new(spec, subs, connection, epoch);
        let wake = Arc::clone(&member.wake);
        if subscription.group_mode() == GroupMode::Shared {
            member.push(Event::Assigned((0..lane_base).collect()));
        }
        self.members.insert(id, member);
        self.seat(id);
        Ok((id, wake))
    }

    fn seat(&mut self, id: u32) {
        let now = self.clock.now();
        let Self { topics, members, revocation, .. } = self;
        let places: Vec<_> = members
            .get(&id)
            .into_iter()
            .flat_map(|member| member.subs.iter().map(|sub| (sub.topic, sub.group, sub.lane_base)))
            .collect();
        for (topic, group, lane_base) in places {
            if let Some(group) = topics.get_mut(&topic).and_then(|topic| topic.groups.get_mut(&group)) {
                group.seats.push(Seat { member: id, lane_base });
                group.rebalance(members, now, revocation);
            }
        }
    }

    /// Ends a consumer's session: what it has goes back, with blame when it did not leave by itself.
    pub(super) fn leave(&mut self, id: u32, blame: bool) {
        let now = self.clock.now();
        let Self { topics, members, revocation, .. } = self;
        let Some(member) = members.remove(&id) else { return };
        for sub in &member.subs {
            let Some(topic) = topics.get_mut(&sub.topic) else { continue };
            let Some(group) = topic.groups.get_mut(&sub.group) else { continue };
            group.leave(id, blame);
            group.rebalance(members, now, revocation);
            crate::memory::state::wake(group, members);
            if member.ephemeral {
                topic.remove_group(sub.group);
            }
        }
        // A poll that waits learns of its end.
        member.wake.notify_one();
    }

    fn drained(&mut self, revoked: u64) {
        let now = self.clock.now();
        let Self { topics, members, revocation, .. } = self;
        for group in topics.values_mut().flat_map(|topic| topic.groups.values_mut()) {
            if group.leaving > 0 && group.drained(revoked, members) {
                group.rebalance(members, now, revocation);
            }
        }
    }

    pub(super) fn poll(&mut self, id: u32, events: &mut Vec<Event>, max: usize) -> Result<Polled> {
        self.keep_time(id)?;
        let Self { members, topics, delivery, config, plan, .. } = self;
        let member = members.get_mut(&id).ok_or_else(ended)?;
        let subs = member.subs.len();
        member.waiting = false;
        let before = events.len();
        events.extend(member.events.drain(..));
        let quiet = member.paused || !member.connected || plan.stalled;
        let mut room = if quiet { 0 } else { member.room().min(max) };
        let mut freed = false;
        for step in 0..subs {
            if room == 0 {
                break;
            }
            let Some(sub) = member.subs.get((member.turn + step) % subs) else { continue };
            let Some(topic) = topics.get_mut(&sub.topic) else { continue };
            let Some(group) = topic.groups.get_mut(&sub.group) else { continue };
            let to = Receiver { member: id, epoch: member.epoch, lane: 0, partition: 0, delivery: 0 };
            let mut hand = Hand { to, lane_base: sub.lane_base, room, auto_ack: member.auto_ack, delivery, events };
            let (delivered, sizes) = group.deliver(&topic.log, &mut hand, config.history);
            freed |= member.auto_ack && delivered > 0;
            sizes.into_iter().for_each(|size| topic.forget(size));
            room -= delivered;
            if !member.auto_ack {
                member.in_flight += delivered;
            }
        }
        member.turn = if member.turn + 1 < subs { member.turn + 1 } else { 0 };
        if events.len() > before {
            return Ok(Polled::Something { freed });
        }
        member.waiting = true;
        let next = member
            .subs
            .iter()
            .filter_map(|sub| topics.get(&sub.topic).and_then(|topic| topic.next_due(sub.group)))
            .min();
        Ok(Polled::Nothing { next })
    }

    /// Does what is due on the topics of a consumer; fails when a topic or the group was deleted.
    fn keep_time(&mut self, id: u32) -> Result<()> {
        let mut waits = false;
        for sub in &self.members.get(&id).ok_or_else(ended)?.subs {
            let Some(topic) = self.topics.get(&sub.topic) else { return Err(no_topic(&sub.names.0)) };
            let Some(group) = topic.groups.get(&sub.group) else { return Err(no_group(&sub.names.0, &sub.names.1)) };
            waits |= !topic.delayed.is_empty() || group.next_due().is_some();
        }
        // The usual case: nothing waits for its time, so nobody asks for the time.
        if waits {
            let now = self.clock.now();
            let subs = self.members.get(&id).map_or(&[][..], |member| &member.subs);
            for topic in subs.iter().map(|sub| sub.topic).collect::<Vec<_>>() {
                self.advance(topic, now);
            }
        }
        Ok(())
    }
}
