//! The whole run.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;

use super::allowed::Allowed;
use super::binaries;
use super::checks::Checks;
use super::example;
use super::lanes::Lanes;
use super::outcome::{self, Outcome};
use super::servers::Servers;
use super::step::Step;
use crate::install::apt;
use crate::{interrupt, paths};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these steps and what they need
    #[arg(long, value_enum)]
    only: Vec<Step>,
    /// Without these steps
    #[arg(long, value_enum)]
    except: Vec<Step>,
    /// Take the tools of the machine as they are
    #[arg(long)]
    skip_install: bool,
}

impl Arguments {
    fn steps(&self) -> Vec<Step> {
        use clap::ValueEnum;
        let asked = |step: &Step| self.only.is_empty() || self.only.contains(step);
        let needed = |step: &Step| self.only.iter().any(|only| only.needs().contains(step));
        let steps = Step::value_variants().iter().copied().filter(|step| asked(step) || needed(step));
        let steps = steps.filter(|step| !self.except.contains(step));
        steps.filter(|step| *step != Step::Tools || !self.skip_install).collect()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let begin = Instant::now();
    let steps = arguments.steps();
    let root = paths::root()?;
    let logs = paths::target()?.join("test-logs");
    if logs.exists() {
        fs::remove_dir_all(&logs).with_context(|| format!("{} cannot be removed", logs.display()))?;
    }
    fs::create_dir_all(&logs).with_context(|| format!("{} cannot be created", logs.display()))?;
    let results = paths::results()?;
    if Step::LANES.iter().all(|lane| steps.contains(lane)) && results.exists() {
        // The matrix is to show this run, nothing older.
        fs::remove_dir_all(&results).with_context(|| format!("{} cannot be removed", results.display()))?;
    }
    fs::create_dir_all(&results).with_context(|| format!("{} cannot be created", results.display()))?;
    let allowed = Allowed::load(&root)?;
    let run = Run { steps, results, checks: Checks { root: &root, logs: &logs, allowed: &allowed } };
    let outcomes = run.all();
    println!("\nlogs: {}", logs.display());
    let well = outcome::conclude(&outcomes, begin.elapsed());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Run<'a> {
    steps: Vec<Step>,
    results: PathBuf,
    checks: Checks<'a>,
}

impl Run<'_> {
    fn all(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.step(&mut outcomes, Step::Tools, || check(Step::Tools, || apt::ensure(&apt::TOOLS)));
        // Downloads and starts while the compiler is busy.
        let servers = thread::scope(|scope| {
            let begin = Instant::now();
            let wanted = self.steps.contains(&Step::Brokers);
            let servers = wanted.then(|| scope.spawn(move || (Servers::up(), begin.elapsed())));
            self.step(&mut outcomes, Step::Fmt, || self.checks.fmt());
            let binaries = self.build(&mut outcomes);
            self.step(&mut outcomes, Step::Clippy, || self.checks.clippy());
            self.step(&mut outcomes, Step::Doc, || self.checks.doc());
            self.step(&mut outcomes, Step::Doctest, || self.checks.doctest());
            self.step(&mut outcomes, Step::Features, || self.checks.features());
            self.step(&mut outcomes, Step::Purity, || self.checks.purity());
            self.step(&mut outcomes, Step::Deny, || self.checks.deny());
            let servers = servers.map(|thread| thread.join());
            (binaries, servers)
        });
        let (binaries, servers) = servers;
        let servers = servers.and_then(|joined| {
            let (servers, took) = joined.unwrap_or_else(|_| (Err(anyhow!("a thread panicked")), Duration::ZERO));
            let (servers, result) = servers.map_or_else(|error| (None, Err(error)), |servers| (Some(servers), Ok(())));
            outcomes.push(Outcome::of_check(&Step::Brokers.name(), took, result));
            servers
        });
        let lanes = Lanes {
            binaries: &binaries,
            servers: servers.as_ref(),
            allowed: self.checks.allowed,
            logs: self.checks.logs.to_path_buf(),
            results: self.results.clone(),
        };
        let wanted: Vec<Step> = self.steps.iter().copied().filter(|step| Step::LANES.contains(step)).collect();
        if !wanted.is_empty() && !interrupt::is_set() {
            outcomes.extend(lanes.run(&wanted));
        }
        self.step(&mut outcomes, Step::Example, || example::run(&binaries, servers.as_ref(), self.checks.logs));
        if let Some(servers) = &servers {
            servers.keep_logs(self.checks.logs);
        }
        drop(servers);
        self.step(&mut outcomes, Step::Matrix, || check(Step::Matrix, || crate::matrix::check(self.checks.root)));
        if interrupt::is_set() {
            let result = Err(anyhow!("the run was interrupted: what came after is not checked"));
            outcomes.push(Outcome::of_check("interrupted", Duration::ZERO, result));
        }
        outcomes
    }

    fn step(&self, outcomes: &mut Vec<Outcome>, step: Step, action: impl FnOnce() -> Outcome) {
        if self.steps.contains(&step) && !interrupt::is_set() {
            println!("\n== {} ==", step.name());
            outcomes.push(action());
        }
    }

    fn build(&self, outcomes: &mut Vec<Outcome>) -> Vec<binaries::Binary> {
        let mut built = Vec::new();
        self.step(outcomes, Step::Build, || {
            check(Step::Build, || {
                let (binaries, result) = binaries::build(self.checks.root, self.checks.logs);
                built = binaries;
                result
            })
        });
        built
    }
}

fn check(step: Step, action: impl FnOnce() -> Result<()>) -> Outcome {
    let begin = Instant::now();
    let result = action();
    Outcome::of_check(&step.name(), begin.elapsed(), result)
}
