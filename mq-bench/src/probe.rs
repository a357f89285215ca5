//! A raw client that does nothing but receive, and connects again whenever that ends: what recovery is compared with.

use std::time::Duration;

use mq::config::Url;
use mq::{Error, Group, Result, Topic};

use crate::cases::Place;
use crate::raw;

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(50);

/// Calls `received` whenever messages came, for ever.
///
/// # Errors
/// When there is no such client for the URL.
pub async fn probe(url: &str, topic: &Topic, group: &Group, received: impl Fn() + Send + Sync) -> Result<()> {
    let parsed = Url::parse(url)?;
    let place = Place { topic: topic.clone(), group: group.clone() };
    loop {
        // An end of any kind: try again, soon.
        let _ended = match parsed.scheme.as_str() {
            #[cfg(feature = "redis-stream")]
            "redis" => match raw::redis::Client::connect(&parsed).await {
                Ok(client) => client.receive(&place, &received).await,
                Err(error) => Err(error),
            },
            #[cfg(feature = "rocket")]
            "rocketmq" => raw::rocket::Client::connect(&parsed)?.receive(&place, &received).await,
            scheme => return Err(Error::config(format!("no raw client that only receives for `{scheme}:`"))),
        };
        tokio::time::sleep(AGAIN).await;
    }
}
