//! Idempotency guards: a message is handled once although it may be delivered twice.

#[expect(clippy::module_inception, reason = "the trait the folder is about")]
mod guard;
mod memory;

pub use guard::{Claim, Claimed, Guard, Scope};
pub use memory::MemoryGuard;
