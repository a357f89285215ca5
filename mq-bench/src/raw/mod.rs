//! The raw clients, as their best users would write them.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "rabbit")]
mod rabbit;
#[cfg(feature = "redis-stream")]
pub(crate) mod redis;
#[cfg(feature = "rocket")]
pub(crate) mod rocket;

use bytes::Bytes;
use mq::config::Url;
use mq::{Error, Result};

use crate::cases::Place;
use crate::pair::Cost;

/// A raw client, connected.
pub(crate) enum Raw {
    #[cfg(feature = "kafka")]
    Kafka(kafka::Client),
    #[cfg(feature = "rabbit")]
    Rabbit(Box<rabbit::Client>),
    #[cfg(feature = "redis-stream")]
    Redis(redis::Client),
    #[cfg(feature = "rocket")]
    Rocket(Box<rocket::Client>),
}

impl Raw {
    /// Connects the client that belongs to the URL's scheme.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let parsed = Url::parse(url)?;
        match parsed.scheme.as_str() {
            #[cfg(feature = "kafka")]
            "kafka" => Ok(Self::Kafka(kafka::Client::connect(&parsed)?)),
            #[cfg(feature = "rabbit")]
            "amqp" => Ok(Self::Rabbit(Box::new(rabbit::Client::connect(url).await?))),
            #[cfg(feature = "redis-stream")]
            "redis" => Ok(Self::Redis(redis::Client::connect(&parsed).await?)),
            #[cfg(feature = "rocket")]
            "rocketmq" => Ok(Self::Rocket(Box::new(rocket::Client::connect(&parsed)?))),
            scheme => Err(Error::config(format!("no raw client to compare with for `{scheme}:`")).with_hint(
                "benchmarks run on kafka://, amqp://, redis:// and rocketmq:// with the cargo feature of that broker",
            )),
        }
    }

    /// Sends with `window` in flight, each confirmed.
    pub(crate) async fn send(&self, place: &Place, body: &Bytes, window: usize, messages: u64) -> Result<()> {
        match self {
            #[cfg(feature = "kafka")]
            Self::Kafka(client) => client.send(place, body, window, messages).await,
            #[cfg(feature = "rabbit")]
            Self::Rabbit(client) => client.send(place, body, window, messages).await,
            #[cfg(feature = "redis-stream")]
            Self::Redis(client) => client.send(place, body, window, messages).await,
            #[cfg(feature = "rocket")]
            Self::Rocket(client) => client.send(place, body, window, messages).await,
        }
    }

    /// Receives and acknowledges in batches; timed from the first message on.
    pub(crate) async fn consume(&self, place: &Place, messages: u64) -> Result<Cost> {
        match self {
            #[cfg(feature = "kafka")]
            Self::Kafka(client) => client.consume(place, messages).await,
            #[cfg(feature = "rabbit")]
            Self::Rabbit(client) => client.consume(place, messages).await,
            #[cfg(feature = "redis-stream")]
            Self::Redis(client) => client.consume(place, messages).await,
            #[cfg(feature = "rocket")]
            Self::Rocket(client) => client.consume(place, messages).await,
        }
    }
}
