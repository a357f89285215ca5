//! Ways to break a broker, and what its adapter must keep all the same.

pub(crate) mod child;
pub(crate) mod crash;
pub(crate) mod judge;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod plan;
mod proxy;
pub(crate) mod schedule;
pub(crate) mod sender;
mod server;
pub(crate) mod soak;
mod way;

pub use proxy::Proxy;
pub use server::Server;
pub use soak::{SOAK, Soak, Soaked};
pub use way::{Breakage, Faults, Way};
