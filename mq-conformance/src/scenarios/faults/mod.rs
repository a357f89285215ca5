//! Everything breaks under load, and the contract holds.

pub(super) mod brokers;
pub(super) mod crashes;
pub(super) mod members;
pub(super) mod random;
pub(super) mod ways;

/// Enough for a fault in the middle, and little enough for a small machine.
const MESSAGES: usize = 600;
const KEYS: usize = 24;
/// Messages a second: a load that lasts as long as its faults.
const RATE: u32 = 300;
