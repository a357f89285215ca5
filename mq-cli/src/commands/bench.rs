//! `mq bench`: the raw client beside mq, turn by turn.

#[cfg(any(feature = "kafka", feature = "rabbit", feature = "redis-stream", feature = "rocket"))]
pub(crate) use mq_bench::cli::Args as Arguments;

use crate::failure::Failure;

/// Runs the benchmarks; a budget that is missed is a failure.
#[cfg(any(feature = "kafka", feature = "rabbit", feature = "redis-stream", feature = "rocket"))]
pub(crate) async fn run(url: Option<&str>, arguments: &Arguments) -> Result<(), Failure> {
    let no_url = || Failure::Usage("the raw client needs a URL: give --url URL or set MQ_URL".to_owned());
    let url = url.filter(|url| !url.trim().is_empty()).ok_or_else(no_url)?;
    Ok(mq_bench::cli::run(arguments, url).await?)
}

/// There is no raw client to compare with.
#[cfg(not(any(feature = "kafka", feature = "rabbit", feature = "redis-stream", feature = "rocket")))]
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

#[cfg(not(any(feature = "kafka", feature = "rabbit", feature = "redis-stream", feature = "rocket")))]
pub(crate) async fn run(_: Option<&str>, _: &Arguments) -> Result<(), Failure> {
    let error = mq::Error::new(mq::ErrorKind::FeatureDisabled, "no broker is compiled in: nothing to compare with");
    Err(error.with_hint("build mq-cli with the cargo feature `kafka`, `rabbit`, `redis-stream` or `rocket`").into())
}
