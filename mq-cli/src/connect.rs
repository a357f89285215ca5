//! Which broker: `--url`, `MQ_URL`, or the file that `MQ_CONFIG` names.

use mq::{Broker, Config};

use crate::failure::Failure;

/// The broker asked for, not yet connected.
pub(crate) fn config(url: Option<&str>) -> Result<Config, Failure> {
    Ok(match url.filter(|url| !url.trim().is_empty()) {
        Some(url) => Config::from_url(url),
        None => Config::from_env("MQ_URL").map_err(|error| match error.hint() {
            Some(_) => error,
            None => error.with_hint("give --url URL or set MQ_URL"),
        }),
    }?)
}

/// Connects to the broker asked for.
pub(crate) async fn connect(url: Option<&str>) -> Result<Broker, Failure> {
    Ok(mq::connect(config(url)?).await?)
}
