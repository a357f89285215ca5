//! From a URL or a configuration to a broker.

use mq_core::{Broker, Error, Result};

use crate::settings::Config;

/// Connects to the broker that a URL or a [`Config`] names.
///
/// Parameters behind `?` are the adapter's settings, such as `kafka://host:9092?topology=verify`.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for a URL that cannot be understood,
/// [`ErrorKind::FeatureDisabled`](crate::ErrorKind::FeatureDisabled) for a broker whose adapter is not compiled in, and
/// what the adapter reports: [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) or
/// [`ErrorKind::Auth`](crate::ErrorKind::Auth) within its connect deadline (10 s unless configured). No error contains
/// the URL: it may hold a password.
pub async fn connect<T>(target: T) -> Result<Broker>
where
    T: TryInto<Config>,
    Error: From<T::Error>,
{
    let config: Config = target.try_into()?;
    config.connect().await
}

/// As [`connect`], but waits for a broker that is not there yet, for as long as it takes: for a service that may start
/// before its broker.
///
/// # Errors
/// Those of [`connect`] that waiting does not mend.
///
/// # Cancel safety
/// May be dropped at any time; put a deadline around it, or `select!` with what stops the service.
pub async fn connect_when_ready<T>(target: T) -> Result<Broker>
where
    T: TryInto<Config>,
    Error: From<T::Error>,
{
    let config: Config = target.try_into()?;
    mq_core::when_ready(async || config.connect().await).await
}
