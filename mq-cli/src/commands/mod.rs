//! One file a command.

pub(crate) mod bench;
pub(crate) mod conformance;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod lag;
mod main;
pub(crate) mod receive;
mod scheduler;
pub(crate) mod seek;
pub(crate) mod send;
pub(crate) mod topic;
pub(crate) mod topology;
pub(crate) mod work;

pub(crate) use main::main;
