//! The way of settlements from deliveries to the driver: queued without waiting, sent in batches by one task.

mod queue;
mod settling;
mod task;

pub use settling::Settling;

pub(crate) use queue::SettleQueue;
