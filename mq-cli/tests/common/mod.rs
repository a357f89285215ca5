//! Runs the built command against a real broker. A broker that is not named fails the test.

pub(crate) mod broker;
pub(crate) mod process;

pub(crate) use broker::{Broker, Kind};
pub(crate) use process::{Done, Running, run};
