//! Half messages: a message and a transaction of your own database, both or neither.
//!
//! Prepare the message, commit your transaction, commit the message. When the program dies in between, the broker asks
//! the check of any producer of the same name what became of the transaction.
//!
//! ```
//! use mq_core::memory::MemoryBroker;
//! use mq_core::{Message, Result, Verdict};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let memory = MemoryBroker::new();
//! memory.declare_topic("order.events")?;
//!
//! let orders = memory
//!     .broker()
//!     .half_producer("order-service", |message: Message| async move {
//!         // Look the order up in your database, by what the message says.
//!         if message.headers().get_str("order").is_some() { Verdict::Commit } else { Verdict::Unknown }
//!     })
//!     .await?;
//!
//! let prepared = orders.prepare(Message::new("order.events")?.body("order 7").header("order", "7")).await?;
//! // ... commit the transaction of your database here ...
//! prepared.commit().await?;
//! assert_eq!(memory.sent("order.events")?.len(), 1);
//! # Ok(())
//! # }
//! ```

mod check;
mod prepared;
mod producer;

pub use prepared::Prepared;
pub use producer::HalfProducer;

pub(crate) use check::Check;
