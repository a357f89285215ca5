//! Handlers: the user's code, and what it answers.

mod batch;
mod blocking;
mod classify;
mod function;
#[expect(clippy::module_inception, reason = "the trait the folder is about")]
mod handler;
mod outcome;

pub(crate) use batch::Shared;
pub use batch::{Batch, BatchFn, BatchHandler, IntoBatchOutcome};
pub use blocking::{BlockingFn, BlockingHandler};
pub use classify::{Class, Classify, OnUnknown};
pub use function::{FnHandler, FromDelivery, HandlerFn};
pub use handler::{Handler, Layer, NoLayer, Stack};
pub use outcome::{Cause, HandlerError, IntoOutcome, Outcome};

pub(crate) use classify::Classification;
