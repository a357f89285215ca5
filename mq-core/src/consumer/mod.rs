//! Receiving and settling by hand.

#[expect(clippy::module_inception, reason = "the type the folder is about")]
mod consumer;
mod delivery;
mod session;

pub use consumer::Consumer;
pub use delivery::Delivery;

pub(crate) use session::Session;
