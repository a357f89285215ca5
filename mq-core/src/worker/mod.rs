//! The reliable loop around a handler: retries, dead letters, order by key, rate, leases, drain.

mod audit;
mod background;
mod builder;
mod claims;
mod conclude;
mod context;
mod control;
mod coordinator;
mod drive;
mod gate;
mod handled;
mod intake;
mod judge;
mod lanes;
mod outbox;
mod pipeline;
mod rate;
mod republish;
mod running;
mod service;
mod settings;
mod shared;
mod side;
mod summary;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod window;

pub use builder::Worker;
pub use context::{Context, TRACEPARENT, TRACESTATE};
pub use control::WorkerHandle;
pub use rate::{Rate, per_second};
pub use service::Service;
pub use settings::{AckStrategy, Concurrency};
pub use summary::{Ended, Summary};
