//! `cargo xtask kills`: the command at work while its broker and its worker are killed.

pub(crate) mod cli;
mod judge;
pub(crate) mod note;
mod plan;
mod programs;
mod run;
