//! What stands between a worker and its surroundings in a simulated process: writes down everything that passes, and
//! stops everything once the process has crashed.

mod broker;
mod consumer;
mod guard;
mod handler;
mod settler;

pub(crate) use broker::ProbedBroker;
pub(crate) use consumer::{key, name};
pub(crate) use guard::{Guards, ProbedGuard};
pub(crate) use handler::ProbedHandler;
