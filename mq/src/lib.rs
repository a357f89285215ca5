//! `mq`: one messaging contract, kept on Kafka, RabbitMQ, Redis Streams, RocketMQ and in memory.
//!
//! A program written against this crate changes its broker by a cargo feature and a URL:
//!
//! | URL | cargo feature |
//! |---|---|
//! | `memory:` | none |
//! | `kafka://host:9092` | `kafka` |
//! | `amqp://user:password@host:5672/vhost`, `amqps://…` | `rabbit` |
//! | `redis://user:password@host:6379/0`, `rediss://…` | `redis-stream` |
//! | `rocketmq://access:secret@host:9876,host:9876` (name servers), `rocketmqs://…` | `rocket` |
//!
//! ```
//! use mq::{Message, Subscription};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq::Result<()> {
//! let broker = mq::connect("memory:?auto_create").await?;
//! let mut consumer = broker.consumer(Subscription::new("order.events", "billing")).await?;
//! let producer = broker.producer().await?;
//! producer.send(Message::new("order.events")?.key("order-7").body("placed")).await?;
//!
//! let delivery = consumer.recv().await?;
//! assert_eq!(delivery.message().body_bytes().map(|body| &body[..]), Some(b"placed".as_slice()));
//! delivery.ack().await?;
//! # Ok(())
//! # }
//! ```

mod backend;

mod connect;
#[cfg(test)]
mod fuzz;
mod redact;
mod settings;

pub use connect::{connect, connect_when_ready};
pub use mq_core::*;
pub use settings::Config;

/// The Kafka adapter: its settings in full, for programs that build them in code.
#[cfg(feature = "kafka")]
pub use mq_kafka as kafka;
/// The RabbitMQ adapter: its settings in full, for programs that build them in code.
#[cfg(feature = "rabbit")]
pub use mq_rabbit as rabbit;
/// The Redis Streams adapter: its settings in full, for programs that build them in code.
#[cfg(feature = "redis-stream")]
pub use mq_redis_stream as redis_stream;
/// The RocketMQ adapter: its settings in full, for programs that build them in code.
#[cfg(feature = "rocket")]
pub use mq_rocket as rocket;
