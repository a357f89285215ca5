//! Messages: what is sent, what arrives, and the headers the SDK reserves for itself.

mod body;
pub mod control;
mod headers;
mod id;
#[expect(clippy::module_inception, reason = "the type the folder is about")]
mod message;
mod position;

pub use control::Control;

pub use body::{Body, FromMessage, Json, Text};
pub use headers::{HeaderName, Headers};
pub use id::MessageId;
pub use message::{Message, Native};
pub use position::Position;
