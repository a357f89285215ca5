//! `cargo xtask brokers up|down|kill|start|block|unblock|status`

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand};

use super::cluster;
use super::{Instance, Kind, Report};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create and start brokers, installing them on first use; prints what to export
    Up(Target),
    /// Stop brokers and delete their data
    Down(Target),
    /// End brokers by SIGKILL and keep their data
    Kill(Target),
    /// Start brokers again on their data and wait until they answer
    Start(Target),
    /// Let brokers take nothing more: RabbitMQ as one without memory, others by stopping their process (SIGSTOP)
    Block(Target),
    /// Let blocked brokers go on
    Unblock(Target),
    /// Run `rabbitmqctl` against a RabbitMQ
    Control {
        #[arg(value_enum)]
        broker: Kind,
        #[arg(long, default_value = "default")]
        instance: String,
        /// After `--`
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// What runs (of all instances unless one is named)
    Status {
        #[arg(long)]
        instance: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Target {
    /// All when none is named
    #[arg(value_enum)]
    brokers: Vec<Kind>,
    /// Instances of different names run side by side
    #[arg(long, default_value = "default")]
    instance: String,
    /// A cluster of so many nodes: the instances INSTANCE-1 to INSTANCE-N, which can be killed and started one by one
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Of an instance that is several processes only this one: names-1, names-2, broker-a or broker-b of rocket-cluster, 1
    /// to 6 of redis-cluster
    #[arg(long)]
    node: Option<String>,
    /// One JSON array on stdout
    #[arg(long)]
    json: bool,
}

impl Target {
    /// One process of an instance has neither data nor ports of its own.
    fn whole(&self) -> Result<Vec<Instance>> {
        ensure!(self.node.is_none(), "`--node` is for kill, start, block and unblock");
        self.instances()
    }

    fn instances(&self) -> Result<Vec<Instance>> {
        let kinds = if self.brokers.is_empty() { &Kind::ALL[..] } else { &self.brokers };
        let clusters = kinds.iter().map(|kind| cluster::nodes(*kind, &self.instance, self.nodes));
        let instances = clusters.collect::<Result<Vec<_>>>()?.into_iter().flatten();
        match &self.node {
            Some(node) => instances.map(|instance| instance.only(node)).collect(),
            None => Ok(instances.collect()),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.verb {
        Verb::Up(target) => {
            let instances = target.whole()?;
            // One after the other: they share apt and its locks.
            for instance in &instances {
                instance.install()?;
            }
            for nodes in instances.chunks(target.nodes) {
                cluster::form(nodes)?;
            }
            show(&each(&instances, "up", Instance::up)?, target.json)?;
        }
        Verb::Start(target) => show(&each(&target.instances()?, "started", Instance::start)?, target.json)?,
        Verb::Kill(target) => {
            let reports = each(&target.instances()?, "killed", Instance::kill)?;
            if target.json {
                show(&reports, true)?;
            }
        }
        Verb::Block(target) => drop(each(&target.instances()?, "blocked", |instance| instance.block(true))?),
        Verb::Unblock(target) => drop(each(&target.instances()?, "unblocked", |instance| instance.block(false))?),
        Verb::Down(target) => {
            each(&target.whole()?, "down", Instance::down)?;
            if target.json {
                show(&[], true)?;
            }
        }
        Verb::Control { broker, instance, arguments } => {
            let status = Instance::new(*broker, instance)?.control()?.args(arguments).status();
            let code = status.context("rabbitmqctl cannot be started")?.code();
            return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Verb::Status { instance, json } => status(instance.as_deref(), *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Does the same to several brokers at once; all are tried, the first error is the answer.
pub(crate) fn each<T: Send>(instances: &[Instance], done: &str, action: fn(&Instance) -> Result<T>) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = instances
            .iter()
            .map(|instance| {
                scope.spawn(move || {
                    let begin = Instant::now();
                    let result = action(instance);
                    if result.is_ok() {
                        eprintln!("{instance}: {done} in {:.1} s", begin.elapsed().as_secs_f64());
                    }
                    result
                })
            })
            .collect();
        let mut values = Vec::new();
        let mut failure: Option<anyhow::Error> = None;
        for thread in threads {
            match thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))) {
                Ok(value) => values.push(value),
                Err(error) => match &failure {
                    None => failure = Some(error),
                    Some(_) => eprintln!("error: {error:#}"),
                },
            }
        }
        failure.map_or(Ok(values), Err)
    })
}

fn show(reports: &[Report], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(reports)?);
        return Ok(());
    }
    for (index, report) in reports.iter().enumerate() {
        for (variable, value) in &report.environment {
            // One value a variable: `eval` of the output must not depend on luck. The newest version wins.
            let later = reports.iter().skip(index + 1).any(|other| other.environment.contains_key(variable));
            println!("{}export {variable}='{value}'", if later { "# or: " } else { "" });
        }
    }
    Ok(())
}

fn status(instance: Option<&str>, json: bool) -> Result<()> {
    let mut reports = Vec::new();
    for known in Instance::known()? {
        if instance.is_none_or(|name| name == known.name) {
            reports.extend(known.status()?);
        }
    }
    if json {
        return show(&reports, true);
    }
    for report in &reports {
        let state = if report.running { "running" } else { "dead" };
        let pid = report.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{:12} {:12} {state:8} pid {pid:8} {}", report.instance, report.broker.name(), report.url);
    }
    Ok(())
}
