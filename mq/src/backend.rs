//! Which adapter serves a name: the only place that knows which of them are compiled in.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use mq_core::config::Url;
use mq_core::memory::{MemoryBroker, MemoryConfig};
use mq_core::{Broker, Error, ErrorKind, Result};
use serde::de::{DeserializeOwned, IgnoredAny};

/// The names of the brokers as in `[broker.NAME]`, for error messages.
pub(crate) const NAMES: &[&str] = &["memory", "kafka", "rabbit", "redis-stream", "rocket"];

type Connecting = Pin<Box<dyn Future<Output = Result<Broker>> + Send>>;

/// An adapter with its settings, ready to connect.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn connect(&self) -> Connecting;
}

/// Where an adapter's settings come from: a URL, or a table of a configuration file.
pub(crate) trait Source: Sized {
    type Error;
    fn read<C: DeserializeOwned>(self, from_url: impl FnOnce(&str) -> Result<C>) -> Result<C, Self::Error>;
    fn unknown(self, name: &str) -> Self::Error;
}

/// The adapter called `name`, with its settings from `source`.
///
/// An adapter that is not compiled in answers only when asked to connect: a configuration file may hold its settings.
pub(crate) fn choose<S: Source>(name: &str, source: S) -> Result<Arc<dyn Backend>, S::Error> {
    Ok(match name {
        "memory" => adapter(source.read(|url| MemoryConfig::from_url(&Url::parse(url)?))?, memory),
        #[cfg(feature = "kafka")]
        "kafka" => adapter(source.read(mq_kafka::Config::from_url)?, |config| async {
            mq_kafka::Kafka::new(config).map(|driver| Broker::from_driver(Arc::new(driver)))
        }),
        #[cfg(feature = "rabbit")]
        "rabbit" => adapter(source.read(|url| mq_rabbit::RabbitConfig::from_url(&Url::parse(url)?))?, |config| async {
            mq_rabbit::RabbitBroker::connect(config).await.map(|driver| Broker::from_driver(Arc::new(driver)))
        }),
        #[cfg(feature = "redis-stream")]
        "redis-stream" => {
            adapter(source.read(|url| mq_redis_stream::RedisConfig::from_url(&Url::parse(url)?))?, |config| async {
                mq_redis_stream::RedisBroker::connect(config).await.map(|driver| Broker::from_driver(Arc::new(driver)))
            })
        }
        #[cfg(not(feature = "kafka"))]
        "kafka" => missing(source, "kafka")?,
        #[cfg(feature = "rocket")]
        "rocket" => adapter(source.read(|url| mq_rocket::RocketConfig::from_url(&Url::parse(url)?))?, |config| async {
            mq_rocket::RocketBroker::connect(config).await.map(|driver| Broker::from_driver(Arc::new(driver)))
        }),
        #[cfg(not(feature = "rabbit"))]
        "rabbit" => missing(source, "rabbit")?,
        #[cfg(not(feature = "redis-stream"))]
        "redis-stream" => missing(source, "redis-stream")?,
        #[cfg(not(feature = "rocket"))]
        "rocket" => missing(source, "rocket")?,
        "postgres" => later(source, "postgres")?,
        "sqlite" => later(source, "sqlite")?,
        _ => return Err(source.unknown(name)),
    })
}

async fn memory(config: MemoryConfig) -> Result<Broker> {
    Ok(MemoryBroker::with_config(config)?.broker())
}

struct Adapter<C, F> {
    config: C,
    connect: F,
}

fn adapter<C, F, R>(config: C, connect: F) -> Arc<dyn Backend>
where
    C: Clone + fmt::Debug + Send + Sync + 'static,
    F: Fn(C) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Broker>> + Send + 'static,
{
    Arc::new(Adapter { config, connect })
}

impl<C, F, R> Backend for Adapter<C, F>
where
    C: Clone + fmt::Debug + Send + Sync,
    F: Fn(C) -> R + Send + Sync,
    R: Future<Output = Result<Broker>> + Send + 'static,
{
    fn connect(&self) -> Connecting {
        Box::pin((self.connect)(self.config.clone()))
    }
}

impl<C: fmt::Debug, F> fmt::Debug for Adapter<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// A broker this build or this version cannot serve.
#[derive(Debug)]
struct Unavailable {
    name: &'static str,
    hint: String,
}

impl Backend for Unavailable {
    fn connect(&self) -> Connecting {
        let error = Error::new(ErrorKind::FeatureDisabled, format!("the adapter `{}` is not compiled in", self.name));
        let error = error.with_operation("connect").with_hint(self.hint.clone());
        Box::pin(std::future::ready(Err(error)))
    }
}

#[cfg_attr(
    all(feature = "kafka", feature = "rabbit", feature = "redis-stream", feature = "rocket"),
    expect(dead_code, reason = "for builds without an adapter")
)]
fn missing<S: Source>(source: S, feature: &'static str) -> Result<Arc<dyn Backend>, S::Error> {
    let hint = format!("enable the cargo feature `{feature}` of the crate `mq` (of `mq-cli` for the command)");
    unavailable(source, feature, hint)
}

fn later<S: Source>(source: S, name: &'static str) -> Result<Arc<dyn Backend>, S::Error> {
    unavailable(source, name, format!("`{name}` is not part of this version; there are {}", NAMES.join(", ")))
}

fn unavailable<S: Source>(source: S, name: &'static str, hint: String) -> Result<Arc<dyn Backend>, S::Error> {
    source.read::<IgnoredAny>(|_| Ok(IgnoredAny))?;
    Ok(Arc::new(Unavailable { name, hint }))
}
