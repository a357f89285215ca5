//! Measures the cost of `mq` beside the raw client: the same messages, headers and settings, in one process, turn by
//! turn, so that a change of the machine's speed meets both.
//!
//! Figures are medians of pairs; the lower bound is the 2.5 % quantile of bootstrapped medians of the pairwise ratio.

pub mod cli;

mod cases;
mod cpu;
mod pair;
#[cfg(any(feature = "redis-stream", feature = "rocket"))]
mod probe;
mod raw;
mod report;
mod stats;

#[cfg(any(feature = "redis-stream", feature = "rocket"))]
pub use probe::probe;
