//! The messaging contract of `mq`: one set of promises, kept on every broker.
//!
//! Users work with [`Message`], [`Subscription`], producers, consumers
//! and the [`Worker`]; authors of adapters implement the traits of [`driver`].

pub mod broker;
pub mod capability;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod dead_letter;
pub mod driver;
pub mod error;
pub mod event;
pub mod guard;
pub mod half;
pub mod handler;
pub mod memory;
pub mod message;
pub mod name;
pub mod producer;
mod reach;
pub mod retry;
pub mod settle;
pub mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
pub mod worker;

#[cfg(test)]
mod fuzz;

pub use broker::Broker;
pub use capability::{Capabilities, Feature, Level};
pub use consumer::{Consumer, Delivery};
pub use driver::{Receipt, Settled, Verdict};
pub use error::{Error, ErrorKind, Result, Retryability};
pub use event::{Observer, WorkerEvent};
pub use guard::{Guard, MemoryGuard};
pub use half::{HalfProducer, Prepared};
pub use handler::{Batch, Class, Classify, Handler, HandlerError, Layer, OnUnknown, Outcome};
pub use message::{Body, FromMessage, Headers, Json, Message, MessageId, Position, Text};
pub use name::{Group, Topic};
pub use producer::{HandoffError, Pending, Producer, ProducerOptions, SendError};
pub use reach::when_ready;
pub use retry::{RetryOrder, RetryPolicy};
pub use settle::Settling;
pub use subscription::{GroupMode, StartFrom, Subscription};
pub use worker::{AckStrategy, Concurrency, Context, Ended, Rate, Service, Summary, Worker, WorkerHandle, per_second};
