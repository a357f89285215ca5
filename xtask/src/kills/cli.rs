//! `cargo xtask kills`

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::plan::{self, Blow, Plan};
use super::programs::{Scene, folder};
use super::run;
use crate::brokers::{Instance, Kind, Report, cluster, each};
use crate::{command, paths};

/// Messages a worker may have in hand when it dies, or when its broker does.
const IN_HAND: u64 = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The brokers, one after the other; all when none is named
    #[arg(value_enum)]
    brokers: Vec<Kind>,
    /// Messages of each run
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// Runs on each broker, with the seeds from --seed on
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 200)]
    keys: u32,
    #[arg(long, default_value_t = 8)]
    concurrency: u32,
    /// A run with more handlings beyond the first than this for each kill is no success; without it what the adapter
    /// declares, and 100 for what the worker had in hand
    #[arg(long)]
    most_duplicates: Option<u64>,
    /// Messages sent in a second; without it as many as can be, at most 2,000 ahead of the worker
    #[arg(long)]
    rate: Option<u32>,
    /// Just these kills instead of the seed's: `broker@PLACE:MILLISECONDS` and `worker@PLACE`, by messages handled
    #[arg(long, value_delimiter = ',', value_parser = plan::blow)]
    blows: Vec<(u64, Blow)>,
    /// Kill one node of a cluster of so many: the leader of the queue, where there is one
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// The command under test; built in release when not given
    #[arg(long)]
    mq: Option<PathBuf>,
}

/// Kills the broker twice and the worker once while messages flow, for each seed, on brokers of its own.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.keys > 0 && arguments.rate != Some(0) && arguments.messages >= 100,
        "at least one key, 100 messages and a message a second are needed"
    );
    let mq = match &arguments.mq {
        Some(mq) => mq.clone(),
        None => build()?,
    };
    let kinds = if arguments.brokers.is_empty() { &Kind::ALL[..] } else { &arguments.brokers };
    let mut bad = 0_u32;
    for kind in kinds {
        let nodes = cluster::nodes(*kind, &format!("kills-{}", std::process::id()), arguments.nodes)?;
        let down = Down(&nodes);
        cluster::form(&nodes)?;
        let url = url(&each(&nodes, "up", Instance::up)?);
        for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
            let plan = if arguments.blows.is_empty() {
                Plan::new(seed, arguments.messages)
            } else {
                Plan::of(arguments.blows.clone())
            };
            let folder = folder(&paths::target()?.join("kills"), &format!("{}-{seed}", kind.name()))?;
            let scene = Scene {
                mq: mq.clone(),
                url: url.clone(),
                topic: format!("kills-{}-{seed}", std::process::id()),
                messages: arguments.messages,
                keys: arguments.keys,
                rate: arguments.rate,
                folder: folder.clone(),
            };
            println!("{}: {plan}", kind.name());
            match run::run(&nodes, &scene, arguments.concurrency, &plan) {
                Ok(shown) => {
                    let seconds = |time: &Option<Duration>| {
                        time.map_or_else(|| "(nothing left)".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
                    };
                    let resumed: Vec<String> = shown.resumed.iter().map(seconds).collect();
                    let (verdict, took) = (&shown.verdict, shown.took.as_secs_f64());
                    println!("  {verdict}; resumed after {}; {took:.0} s", resumed.join(", "));
                    let kills = u64::try_from(plan.blows.len())?;
                    let most = match arguments.most_duplicates {
                        Some(most) => most,
                        None => scene.duplicate_window()?.saturating_add(IN_HAND),
                    };
                    if verdict.is_clean(most.saturating_mul(kills)) {
                        std::fs::remove_dir_all(&folder).context("the folder of the run cannot be removed")?;
                        continue;
                    }
                }
                Err(error) => println!("  {error:#}"),
            }
            println!("  FAILED: logs in {}", folder.display());
            bad += 1;
        }
        drop(down);
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()?).args(["build", "--release", "--locked", "-p", "mq-cli", "--bin", "mq"]);
    let status = command::spawn(&mut cargo)?.wait().context("cargo cannot be waited for")?;
    ensure!(status.success(), "the command cannot be built");
    Ok(paths::target()?.join("release/mq"))
}

/// All nodes in one URL.
fn url(reports: &[Report]) -> String {
    let mut url = reports.first().map(|report| report.url.clone()).unwrap_or_default();
    for other in reports.iter().skip(1).filter_map(|report| report.ports.first()) {
        url.push_str(&format!(",127.0.0.1:{other}"));
    }
    // One node has room for one copy only.
    let alone = reports.len() == 1 && reports.iter().any(|report| report.broker == Kind::Kafka);
    url + if alone { "?profile=development" } else { "" }
}

/// Takes the broker down, whatever happened.
struct Down<'a>(&'a [Instance]);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Err(error) = each(self.0, "down", Instance::down) {
            eprintln!("error: {error:#}");
        }
    }
}
