//! `cargo xtask test`: everything that is checked, from nothing, with one verdict at the end.

mod allowed;
pub(crate) mod binaries;
mod checks;
pub(crate) mod cli;
mod example;
mod features;
mod lanes;
mod outcome;
mod servers;
mod step;
mod stream;
mod tally;
