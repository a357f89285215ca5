//! Arguments with a syntax of their own.

mod duration;
#[cfg(test)]
mod fuzz;
mod header;
mod position;
mod start;

pub(crate) use duration::{Delays, delays, duration};
pub(crate) use header::header;
pub(crate) use start::{seek, start};
