//! A broker in memory: the contract kept inside the process, for tests of your own services and for the suite.
//!
//! A topic is a log of partitions; each group has a cursor and a table of what is in flight, and outlives its consumers.
//! Time is tokio's, so `tokio::time::pause` lets retries of hours run in milliseconds, never early. What was sent, how
//! it was settled and what became a dead letter can be read at any time, and [`MemoryBroker::until`] waits for a
//! condition by event, not by sleeping. [`Faults`] breaks things on purpose.
//!
//! Everything is kept by the process only: the broker ends with the last handle on it.
//!
//! ```
//! use std::time::Duration;
//!
//! use mq_core::memory::MemoryBroker;
//! use mq_core::{Message, Result, Subscription};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let memory = MemoryBroker::new();
//! memory.declare_topic("order.events")?;
//! let broker = memory.broker(); // what your service is given in place of the real one
//!
//! let mut consumer = broker.consumer(Subscription::new("order.events", "billing")).await?;
//! broker.producer().await?.send(Message::new("order.events")?.body("order 7")).await?;
//! consumer.recv().await?.dead_letter("no such customer").await?;
//!
//! memory.until_idle("order.events", "billing", Duration::from_secs(5)).await?;
//! assert_eq!(memory.sent("order.events")?.len(), 1);
//! assert_eq!(memory.dead_letters("order.events", "billing")?.len(), 1);
//! # Ok(())
//! # }
//! ```

mod admin;
mod bell;
mod broker;
mod capabilities;
mod config;
mod consumer;
mod dead_letters;
mod faults;
mod flight;
mod group;
mod half;
mod halves;
mod inspect;
mod lane;
mod member;
mod producer;
mod rebalance;
mod registry;
mod resting;
mod server;
mod settler;
mod settling;
mod state;
mod storing;
mod topic;

pub use broker::MemoryBroker;
pub use config::MemoryConfig;
pub use faults::{Faults, SendFault, SettleFault};
pub use inspect::{SettledDelivery, SettledHow};

#[cfg(test)]
mod tests;

/// The adapter's name in errors, the matrix and URLs.
pub(crate) const NAME: &str = "memory";
