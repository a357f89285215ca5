//! Sending: confirmed, pipelined, batched, delayed, or at most once.

mod admission;
mod fence;
mod fill;
mod handoff;
mod pending;
#[expect(clippy::module_inception, reason = "the type the folder is about")]
mod producer;

pub use handoff::HandoffError;
pub use pending::{Pending, SendError};
pub use producer::{Producer, ProducerOptions};

pub(crate) use fill::fill;
