//! What a lane knows of each message: where it is now, and what became of it before.

use std::time::SystemTime;

use crate::driver::Origin;
use crate::message::Message;

/// A message of the log between the first unsettled one and the last delivered one.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) trail: Trail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Came back, waits for redelivery.
    Returned,
    InFlight(Flight),
    Settled,
}

/// What the broker remembers of the deliveries of a message.
#[derive(Clone, Copy)]
pub(super) struct Trail {
    pub(super) attempt: u32,
    pub(super) redeliveries: u32,
    pub(super) delivered: bool,
    pub(super) first_failed: Option<SystemTime>,
    /// When the consumer that held it meant to run it again: nobody may before.
    pub(super) due: Option<SystemTime>,
}

impl Trail {
    pub(super) const NEW: Self = Self { attempt: 1, redeliveries: 0, delivered: false, first_failed: None, due: None };

    /// It was given back; with blame that counts as a redelivery.
    pub(super) fn came_back(&mut self, blame: bool) {
        self.delivered = true;
        self.redeliveries = self.redeliveries.saturating_add(u32::from(blame));
    }
}

/// Who has a message now, by which delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) member: u32,
    pub(super) delivery: u64,
    pub(super) held: bool,
}

/// A copy only this group receives: a retry or a redriven dead letter.
pub(super) struct Own {
    pub(super) message: Message,
    pub(super) size: usize,
    pub(super) trail: Trail,
    pub(super) redrives: u32,
    pub(super) origin: Origin,
    /// Where the message stood in the log.
    pub(super) offset: u64,
}

/// What was settled, for the books of others.
pub(super) struct Closed {
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) held: bool,
    /// The size of a copy of the group's own that is gone now.
    pub(super) freed: Option<usize>,
}

/// Who receives, and what its deliveries are called.
#[derive(Clone, Copy)]
pub(super) struct Receiver {
    pub(super) member: u32,
    pub(super) epoch: u32,
    pub(super) lane: u32,
    pub(super) partition: u32,
    pub(super) delivery: u64,
}
