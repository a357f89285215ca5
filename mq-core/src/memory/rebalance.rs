//! Ordered mode: each partition has one reader at a time, and changes hands only after it was drained.

use std::time::SystemTime;

use crate::driver::Event;
use crate::memory::group::GroupState;
use crate::memory::lane::Owner;
use crate::memory::member::Members;
use crate::subscription::GroupMode;

impl GroupState {
    /// Shares the partitions evenly among the consumers, moving as few as possible. `numbers` counts revocations.
    pub(super) fn rebalance(&mut self, members: &mut Members, now: SystemTime, numbers: &mut u64) {
        if self.mode == GroupMode::Shared || self.seats.is_empty() {
            return;
        }
        let quotas = self.quotas();
        for (seat, quota) in quotas.iter().enumerate() {
            self.take_excess(seat, *quota, members, now, numbers);
        }
        for (seat, quota) in quotas.iter().enumerate() {
            self.give_free(seat, *quota, members);
        }
    }

    /// How many partitions each consumer should have; who has most already keeps the odd one.
    fn quotas(&self) -> Vec<usize> {
        let (base, extra) = (self.lanes.len() / self.seats.len(), self.lanes.len() % self.seats.len());
        let mut order: Vec<usize> = (0..self.seats.len()).collect();
        order.sort_by_key(|seat| std::cmp::Reverse(self.owned(self.seats[*seat].member).len()));
        let mut quotas = vec![base; self.seats.len()];
        for seat in order.into_iter().take(extra) {
            quotas[seat] += 1;
        }
        quotas
    }

    fn owned(&self, member: u32) -> Vec<usize> {
        (0..self.lanes.len()).filter(|lane| self.lanes[*lane].owner == Owner::Member(member)).collect()
    }

    fn take_excess(&mut self, seat: usize, quota: usize, members: &mut Members, now: SystemTime, numbers: &mut u64) {
        let (id, base) = (self.seats[seat].member, self.seats[seat].lane_base);
        let excess: Vec<usize> = self.owned(id).into_iter().skip(quota).collect();
        let Some(member) = members.get_mut(&id) else { return };
        if excess.is_empty() {
            return;
        }
        *numbers += 1;
        let until = now.checked_add(member.drain).unwrap_or(now);
        for index in &excess {
            let lane = &mut self.lanes[*index];
            // Nothing in flight, nothing to wait for.
            lane.owner = if lane.in_flight == 0 {
                Owner::Nobody
            } else {
                self.leaving += 1;
                Owner::Leaving { from: id, revocation: *numbers, until }
            };
        }
        member.push(Event::Revoking(*numbers, numbered(&excess, base)));
    }

    fn give_free(&mut self, seat: usize, quota: usize, members: &mut Members) {
        let (id, base) = (self.seats[seat].member, self.seats[seat].lane_base);
        let missing = quota.saturating_sub(self.owned(id).len());
        let free: Vec<usize> =
            (0..self.lanes.len()).filter(|lane| self.lanes[*lane].owner == Owner::Nobody).take(missing).collect();
        if free.is_empty() {
            return;
        }
        for index in &free {
            self.lanes[*index].owner = Owner::Member(id);
        }
        if let Some(member) = members.get_mut(&id) {
            member.push(Event::Assigned(numbered(&free, base)));
        }
    }

    /// The consumer says these partitions are drained: what it still has goes back without blame.
    pub(super) fn drained(&mut self, revoked: u64, members: &mut Members) -> bool {
        self.let_go(members, false, |owner| matches!(owner, Owner::Leaving { revocation, .. } if revocation == revoked))
    }

    /// Goes on without those that did not drain in time.
    pub(super) fn enforce_drain(&mut self, members: &mut Members, now: SystemTime) -> bool {
        self.leaving > 0
            && self.let_go(members, true, |owner| matches!(owner, Owner::Leaving { until, .. } if until <= now))
    }

    fn let_go(&mut self, members: &mut Members, late: bool, which: impl Fn(Owner) -> bool) -> bool {
        let mut any = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Owner::Leaving { from, .. } = lane.owner else { continue };
            if !which(lane.owner) {
                continue;
            }
            any = true;
            lane.owner = Owner::Nobody;
            self.leaving -= 1;
            lane.recall(None, late, |id, held| {
                if let Some(member) = members.get_mut(&id) {
                    member.settled(held);
                }
            });
            if late
                && let Some(member) = members.get_mut(&from)
                && let Some(seat) = self.seats.iter().find(|seat| seat.member == from)
            {
                member.push(Event::Lost(vec![seat.lane_base + index as u32]));
            }
        }
        any
    }

    /// A consumer is gone: what it has goes back, its partitions are free.
    pub(super) fn leave(&mut self, id: u32, blame: bool) {
        self.seats.retain(|seat| seat.member != id);
        for lane in &mut self.lanes {
            lane.recall(Some(id), blame, |_, _| ());
            match lane.owner {
                Owner::Member(owner) if owner == id => lane.owner = Owner::Nobody,
                Owner::Leaving { from, .. } if from == id => {
                    lane.owner = Owner::Nobody;
                    self.leaving -= 1;
                }
                _ => {}
            }
        }
    }
}

fn numbered(lanes: &[usize], base: u32) -> Vec<u32> {
    lanes.iter().map(|lane| base + *lane as u32).collect()
}
