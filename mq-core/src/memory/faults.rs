//! Breaking things on purpose.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::driver::Event;
use crate::error::{Error, ErrorKind};
use crate::memory::inspect::SettledHow;
use crate::memory::member::Member;
use crate::memory::server::Server;
use crate::memory::state::{State, fail};

/// What becomes of a send that is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendFault {
    /// Not stored, and it will not be: the broker refuses it.
    Refused,
    /// Not stored: the broker cannot be reached. Trying again may help.
    Unavailable,
    /// Stored, but the confirmation is lost: the sender learns that it may have been stored.
    StoredUnconfirmed,
    /// Not stored, and the sender learns that it may have been stored.
    LostUnconfirmed,
}

impl SendFault {
    pub(super) fn stores(self) -> bool {
        self == Self::StoredUnconfirmed
    }

    pub(super) fn error(self) -> Error {
        match self {
            Self::Refused => fail(ErrorKind::Rejected, "the send was made to fail"),
            Self::Unavailable => fail(ErrorKind::Unavailable, "the send was made to fail"),
            Self::StoredUnconfirmed | Self::LostUnconfirmed => {
                fail(ErrorKind::Timeout, "the confirmation was made to get lost").ambiguous()
            }
        }
    }
}

/// What becomes of a settlement that is made to fail. Unless it says otherwise, the delivery stays unsettled
/// and its token valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SettleFault {
    /// Nothing happens: the broker cannot be reached.
    Unavailable,
    /// A retry or dead letter is stored, but the delivery is not settled, as if the process had died in between: a
    /// duplicate to come. Of other settlements, nothing happens.
    Halfway,
    /// It is settled as asked, but the answer is lost: trying again finds the delivery stale.
    Unanswered,
}

impl SettleFault {
    pub(super) fn error(self) -> Error {
        let error = fail(ErrorKind::Unavailable, "the settlement was made to fail").with_operation("settle");
        if self != Self::Unavailable { error.ambiguous() } else { error }
    }
}

/// The faults in force.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) sends: VecDeque<SendFault>,
    pub(super) settlements: VecDeque<(SettledHow, SettleFault)>,
    pub(super) blocked: bool,
    pub(super) stalled: bool,
    pub(super) down: bool,
}

/// The switches of one memory broker, for every connection to it.
#[derive(Debug, Clone)]
pub struct Faults {
    server: Arc<Server>,
}

impl Faults {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server }
    }

    /// The next sends end like this, one fault each, in order, behind those planned before.
    pub fn fail_sends(&self, faults: impl IntoIterator<Item = SendFault>) {
        self.change(|state| state.plan.sends.extend(faults));
    }

    /// The next settlements of this kind end like this, one fault each, in order, behind those planned before. The
    /// other kinds are left alone, so that a test can fail dead letters while acks pass.
    pub fn fail_settlements(&self, how: SettledHow, faults: impl IntoIterator<Item = SettleFault>) {
        let faults = faults.into_iter().map(|fault| (how, fault));
        self.change(|state| state.plan.settlements.extend(faults));
    }

    /// Forgets the faults of sends and settlements planned and not yet used.
    pub fn clear(&self) {
        self.change(|state| {
            state.plan.sends.clear();
            state.plan.settlements.clear();
        });
    }

    /// Blocks (or unblocks) the broker as one out of disk: sends wait, and fail with `Backpressure` when
    /// [`MemoryConfig::send_timeout`](super::MemoryConfig::send_timeout) has passed. Consumers go on.
    pub fn block(&self, blocked: bool) {
        self.change(|state| state.plan.blocked = blocked);
    }

    /// Stalls (or releases) every connection as a network that swallows packets: no message comes, sends, settlements
    /// and admin calls get no answer, and fail when [`MemoryConfig::send_timeout`](super::MemoryConfig::send_timeout)
    /// has passed. Sessions stand.
    pub fn stall(&self, stalled: bool) {
        self.change(|state| state.plan.stalled = stalled);
    }

    /// Ends every consumer as if its process had been killed: what it had in flight is redelivered with one
    /// redelivery more, and using it again is an error.
    pub fn crash_consumers(&self) {
        self.change(|state| {
            for id in state.members.keys().copied().collect::<Vec<_>>() {
                state.leave(id, true);
            }
        });
    }

    /// Cuts every connection. Consumers are told and wait; what they had in flight is stale and is redelivered with
    /// one redelivery more; sends and admin calls fail as `Unavailable`. Nothing stored is lost.
    pub fn disconnect(&self) {
        self.change(|state| {
            if !std::mem::replace(&mut state.plan.down, true) {
                state.cut();
            }
        });
    }

    /// Lets connections stand again; consumers go on by themselves.
    pub fn reconnect(&self) {
        self.change(|state| {
            if std::mem::take(&mut state.plan.down) {
                state.mend();
            }
        });
    }

    fn change(&self, what: impl FnOnce(&mut State)) {
        {
            let mut state = self.server.lock();
            what(&mut state);
            state.members.values_mut().for_each(Member::wake);
        }
        self.server.room.ring();
        self.server.changed.ring();
    }
}

impl Plan {
    /// The fault planned for the next settlement of this kind.
    pub(super) fn settlement(&mut self, how: SettledHow) -> Option<SettleFault> {
        if self.settlements.is_empty() {
            return None;
        }
        let index = self.settlements.iter().position(|(planned, _)| *planned == how)?;
        self.settlements.remove(index).map(|(_, fault)| fault)
    }
}

impl State {
    fn cut(&mut self) {
        let Self { topics, members, .. } = self;
        for group in topics.values_mut().flat_map(|topic| topic.groups.values_mut()) {
            group.disconnect();
        }
        for member in members.values_mut() {
            (member.in_flight, member.held, member.connected) = (0, 0, false);
            member.push(Event::Disconnected("the connection was cut on purpose".into()));
        }
    }

    fn mend(&mut self) {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        for id in ids {
            let epoch = self.new_number();
            if let Some(member) = self.members.get_mut(&id) {
                (member.epoch, member.connected) = (epoch, true);
                member.push(Event::Reconnected);
            }
        }
        let now = self.clock.now();
        let Self { topics, members, revocation, .. } = self;
        for group in topics.values_mut().flat_map(|topic| topic.groups.values_mut()) {
            group.rebalance(members, now, revocation);
        }
    }
}
