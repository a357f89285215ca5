//! The worker over the memory broker, on tokio's paused clock.

mod bench;
mod concurrency;
mod drain;
mod faults;
mod guards;
mod handlers;
mod outcomes;
mod steering;
mod stress;

use bench::{Bench, Log, S};
