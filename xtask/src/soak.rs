//! `cargo xtask soak`: random faults on a broker of its own, schedule after schedule.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::brokers::{Instance, Kind};
use crate::test::binaries;
use crate::{command, paths};

/// What a soak may take beyond what it was asked for: the last schedules, and the start.
const GRACE: Duration = Duration::from_secs(15 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// So long
    #[arg(long, required_unless_present = "schedules")]
    minutes: Option<u64>,
    /// So many schedules
    #[arg(long)]
    schedules: Option<u64>,
    /// The first seed; each schedule takes the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value = "memory")]
    broker: Target,
    /// Kill the broker in each schedule, one schedule at a time
    #[arg(long)]
    with_broker_kill: bool,
    /// So many schedules at a time
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Use this broker, which runs, instead of starting one
    #[arg(long)]
    instance: Option<String>,
    /// Run this test binary instead of building it
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    Memory,
    Kafka,
    #[value(name = "rabbit-3.10")]
    Rabbit310,
    #[value(name = "rabbit-4.0")]
    Rabbit40,
    #[value(name = "redis-7.0")]
    Redis70,
    #[value(name = "redis-8.0")]
    Redis80,
    #[value(name = "rocket-5.4")]
    Rocket54,
}

impl Target {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Memory => None,
            Self::Kafka => Some(Kind::Kafka),
            Self::Rabbit310 => Some(Kind::Rabbit310),
            Self::Rabbit40 => Some(Kind::Rabbit40),
            Self::Redis70 => Some(Kind::Redis70),
            Self::Redis80 => Some(Kind::Redis80),
            Self::Rocket54 => Some(Kind::Rocket54),
        }
    }

    /// The package whose suite speaks to it.
    fn package(self) -> &'static str {
        match self {
            Self::Memory => "mq-core",
            Self::Kafka => "mq-kafka",
            Self::Rabbit310 | Self::Rabbit40 => "mq-rabbit",
            Self::Redis70 | Self::Redis80 => "mq-redis-stream",
            Self::Rocket54 => "mq-rocket",
        }
    }
}

/// Taken down when dropped.
struct Own(Instance);

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("error: {error:#}");
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let suite = match &arguments.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => build(arguments.broker.package())?,
    };
    let mut soak = Command::new(suite);
    soak.current_dir(paths::root()?.join(arguments.broker.package())).env("MQ_CONFORMANCE_SOAK", orders(arguments));
    // Alive until the end: dropping it takes the broker down.
    let _own = match arguments.broker.kind() {
        None => None,
        Some(kind) => {
            let name = arguments.instance.clone().unwrap_or_else(|| format!("soak-{}", std::process::id()));
            let instance = Instance::new(kind, &name)?;
            let own = arguments.instance.is_none().then(|| Own(instance.clone()));
            let report = instance.up()?;
            soak.envs(&report.environment).env("MQ_TEST_PROFILE", kind.name());
            own
        }
    };
    let patience = arguments.minutes.map_or(LONGEST, |minutes| Duration::from_secs(minutes * 60) + GRACE);
    let status = command::wait(command::spawn(soak.stdin(Stdio::null()))?, "the soak", patience)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn orders(arguments: &Arguments) -> String {
    serde_json::json!({
        "seed": arguments.seed,
        "schedules": arguments.schedules,
        "seconds": arguments.minutes.map(|minutes| minutes * 60),
        "parallel": arguments.parallel,
        "broker_kill": arguments.with_broker_kill,
    })
    .to_string()
}

fn build(package: &str) -> Result<PathBuf> {
    let logs = paths::target()?.join("soak-logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("{} cannot be created", logs.display()))?;
    let (binaries, built) =
        binaries::build_only(&paths::root()?, &logs, &["--package", package, "--test", "conformance"]);
    built?;
    let suite = binaries.into_iter().find(|binary| binary.name == "conformance" && binary.crate_name() == package);
    let suite = suite.with_context(|| format!("{package} has no suite"))?.path;
    ensure!(suite.exists(), "{} is not there", suite.display());
    Ok(suite)
}
