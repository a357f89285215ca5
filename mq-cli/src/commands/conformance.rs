//! `mq conformance`: the suite against any broker by its URL.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use mq::driver::{BrokerDriver, TopicSpec};
use mq::{Broker, Config, Error, ErrorKind};
use mq_conformance::{Harness, Options};

use crate::connect::config;
use crate::failure::Failure;
use crate::output;

/// Scenarios that need a client of the broker which knows nothing of the SDK: the tests of the adapters have one.
const FOREIGN: &str = "foreign::";
/// The profile that needs no URL.
const MEMORY: &str = "memory";
/// How long the broker may take to say that it is there.
const DEADLINE: Duration = Duration::from_secs(10);
/// Enough to be told apart, few enough for a small broker.
const PARTITIONS: u32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print the names of the scenarios instead of running them
    #[arg(long)]
    list: bool,
    /// The name of the broker and its set-up, for the record; `memory` needs no URL. Default: the adapter's name
    #[arg(long)]
    profile: Option<String>,
}

/// Runs the suite; its exit code is the command's.
pub(crate) fn run(url: Option<&str>, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut options = Options::default();
    options.list = arguments.list;
    options.skip = vec![FOREIGN.to_owned()];
    let profile = arguments.profile.clone();
    let config = match (url, profile.as_deref()) {
        // Nothing is connected: the names are the same for every broker.
        _ if arguments.list => Config::from_url("memory:")?,
        // A broker in memory lives as long as a handle on it, and is found by its name.
        (None, Some(MEMORY)) => Config::from_url("memory:conformance")?,
        (url, _) => config(url)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(Failure::from)?;
    let kept = runtime.block_on(mq::connect(&config))?;
    let profile = profile.unwrap_or_else(|| kept.name().to_owned());
    if !arguments.list {
        let skipped = mq_conformance::scenarios().iter().filter(|scenario| scenario.name.starts_with(FOREIGN)).count();
        output::note(format_args!(
            "mq: without the {skipped} scenarios of messages from other programs: they need another client, which the \
             tests of the adapters have"
        ));
    }
    let code = mq_conformance::run(Arc::new(Target { profile, config, kept: kept.clone() }), options);
    runtime.block_on(kept.close())?;
    Ok(code)
}

/// A broker known by its configuration only.
#[derive(Debug)]
struct Target {
    profile: String,
    config: Config,
    kept: Broker,
}

#[async_trait]
impl Harness for Target {
    fn profile(&self) -> String {
        self.profile.clone()
    }

    async fn version(&self) -> mq::Result<String> {
        let health = self.kept.health(DEADLINE).await;
        match health.ready {
            true => Ok(health.detail),
            false => Err(Error::new(ErrorKind::Unavailable, "the broker does not answer").with_hint(health.detail)),
        }
    }

    async fn connect(&self) -> mq::Result<Arc<dyn BrokerDriver>> {
        Ok(Arc::clone(mq::connect(&self.config).await?.driver()))
    }

    fn topic_spec(&self, spec: TopicSpec) -> TopicSpec {
        if self.kept.name() == "rabbit" { spec } else { spec.partitions(PARTITIONS) }
    }
}
