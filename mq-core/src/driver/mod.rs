//! The contract between the SDK and an adapter. Only authors of adapters need this module.
//!
//! Adapters own *mechanism*: publish, poll, settle, topology. *Policy* (when to retry, how often, what a dead letter
//! records, order per key, rate, drain) is the core's, once for all brokers. Rules for every driver:
//!
//! - **Never retry** by yourself what the caller can see; report what happened. (The client's own safe retries, such as
//!   those of an idempotent Kafka producer, are fine.)
//! - **Every call ends**: each has a deadline, given or from the configuration.
//! - **First the new place, then the ack**: a message is settled only after its retry or dead letter is confirmed.
//! - **One result per item**; one bad item never fails its neighbours.
//! - **Old epochs are stale**: settling a delivery from before a reconnect or rebalance answers [`Settled::Stale`] and
//!   touches nothing.
//! - **No secret** in any error, log line or `Debug`.

mod admin;
mod audit;
mod broker;
mod consumer;
mod half;
mod producer;
mod settler;

pub use admin::{
    AdminDriver, DeadLetterDriver, GroupInfo, GroupSpec, Lag, PartitionLag, SeekTo, TopicInfo, TopicSpec, TopologyItem,
};
pub use audit::{AuditSpec, Finding, Severity};
pub use broker::{BrokerDriver, Health, SchedulerDriver};
pub use consumer::{ConsumerDriver, ConsumerSpec, Event, Incoming, Origin, Token};
pub use half::{CheckBack, Decision, Half, HalfDriver, Verdict};
pub use producer::{Destination, ProducerDriver, Publish, Receipt};
pub use settler::{DeadLettering, Hold, Retry, Settle, Settled, Settlement, SettlerDriver};

pub(crate) use producer::{Completed, in_flight_with};
/// For adapters' own tests and for the core: a publish and the future of its outcome.
pub use producer::{Pending, in_flight};
