//! A cluster: a link to each node that has keys, what goes where, and what to do when it has gone elsewhere.

mod keep;
mod route;

pub(crate) use keep::{keep, serves};
pub(crate) use route::{Nodes, owner, run};
