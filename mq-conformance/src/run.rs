//! Runs scenarios: from a test target, from the command line, or from another program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use mq_core::capability::Capabilities;
use mq_core::error::{Error, ErrorKind, Result};
use tokio::runtime::Runtime;

use crate::failure::{Failure, Verdict};
use crate::faults::{SOAK, Soak, child, soak};
use crate::harness::Harness;
use crate::lab::Lab;
use crate::result::{Outcome, ProfileResult, ScenarioResult};
use crate::scenario::Scenario;
use crate::scenarios;

/// Where results are written when it is set.
pub const OUT: &str = "MQ_CONFORMANCE_OUT";

/// What to run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Only scenarios whose name contains this.
    pub filter: Option<String>,
    /// Only the scenario of exactly this name.
    pub exact: bool,
    /// Without the scenarios whose name contains one of these.
    pub skip: Vec<String>,
    /// How many at once; default: what the harness says.
    pub threads: Option<usize>,
    /// Print the names instead of running anything.
    pub list: bool,
    /// Where the results are written.
    pub out: Option<PathBuf>,
}

/// The `main` of an adapter's `tests/conformance.rs`: takes the arguments of the standard test harness (a filter,
/// `--exact`, `--skip`, `--list`, `--test-threads`), runs the suite, and writes the results where
/// `MQ_CONFORMANCE_OUT` says. A broker that cannot be reached fails the run.
pub fn main(harness: impl Harness) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    // Scenarios with faults start this program again, as a process that may be killed.
    if let Some(ended) = child::serve(&harness) {
        return ended;
    }
    if let Ok(orders) = std::env::var(SOAK) {
        return soak(harness, &orders);
    }
    run_arguments(harness, Arguments::from_args(), std::env::var_os(OUT).map(PathBuf::from))
}

/// As [`main`], for programs with a command line of their own.
pub fn run(harness: Arc<dyn Harness>, options: Options) -> ExitCode {
    let arguments = Arguments {
        filter: options.filter,
        exact: options.exact,
        skip: options.skip,
        test_threads: options.threads,
        list: options.list,
        ..Arguments::default()
    };
    run_arguments(harness, arguments, options.out)
}

fn soak(harness: Arc<dyn Harness>, orders: &str) -> ExitCode {
    let orders: Soak = match serde_json::from_str(orders) {
        Ok(orders) => orders,
        Err(error) => return fail(&format!("{SOAK} is not understood: {error}")),
    };
    match Bench::new(Arc::clone(&harness)) {
        Ok(bench) => bench.runtime.block_on(soak::soak(harness, bench.capabilities.clone(), &orders)),
        Err(error) => fail(&format!("{}: no broker to soak: {error}", harness.profile())),
    }
}

/// Runs one scenario on a harness, and says how it ended. For tests of the suite itself.
///
/// # Errors
/// When there is no such scenario or the broker cannot be reached.
pub fn check(harness: Arc<dyn Harness>, name: &str) -> Result<ScenarioResult> {
    let scenario = scenarios::all().into_iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no scenario `{name}`")))?;
    let bench = Bench::new(harness)?;
    Ok(bench.trial(scenario))
}

fn run_arguments(harness: Arc<dyn Harness>, mut arguments: Arguments, out: Option<PathBuf>) -> ExitCode {
    let scenarios = scenarios::all();
    if arguments.list {
        let trials = scenarios.iter().map(|scenario| Trial::test(scenario.name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    arguments.test_threads.get_or_insert(harness.parallel());
    let profile = harness.profile();
    let bench = match Bench::new(harness) {
        Ok(bench) => Arc::new(bench),
        Err(error) => return fail(&format!("{profile}: no broker, so nothing holds: {error}")),
    };
    let trials = scenarios.iter().map(|scenario| {
        let (bench, scenario) = (Arc::clone(&bench), *scenario);
        Trial::test(scenario.name, move || match bench.trial(scenario).failure {
            None => Ok(()),
            Some(text) => Err(Failed::from(text)),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let Some(dir) = out else { return conclusion.exit_code() };
    match bench.report(&scenarios).write(&dir) {
        Ok(_) => conclusion.exit_code(),
        Err(error) => fail(&format!("cannot write the results to {}: {error}", dir.display())),
    }
}

#[expect(clippy::print_stderr, reason = "the end of a test program")]
fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// A run under way: the broker reached, the results so far.
struct Bench {
    harness: Arc<dyn Harness>,
    runtime: Runtime,
    version: String,
    capabilities: Capabilities,
    results: Mutex<Vec<ScenarioResult>>,
    /// Held alone by a scenario that breaks what all others need.
    broker: RwLock<()>,
}

impl Bench {
    fn new(harness: Arc<dyn Harness>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
        let runtime = runtime.map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot start the runtime of the suite").with_source(error)
        })?;
        let limit = Duration::from_secs(30);
        let (version, capabilities) = runtime.block_on(async {
            let reach = async {
                let driver = harness.connect().await?;
                let capabilities = driver.capabilities().clone();
                driver.close(Duration::from_secs(5)).await?;
                Ok((harness.version().await?, capabilities))
            };
            tokio::time::timeout(limit, reach).await.unwrap_or_else(|_| Err(Error::timeout(limit)))
        })?;
        Ok(Self { harness, runtime, version, capabilities, results: Mutex::default(), broker: RwLock::default() })
    }

    fn trial(&self, scenario: Scenario) -> ScenarioResult {
        let own = if scenario.breaks.is_empty() { None } else { self.harness.alone() };
        let (_alone, _among) = if scenario.is_alone() && own.is_none() {
            (Some(self.broker.write().unwrap_or_else(PoisonError::into_inner)), None)
        } else {
            (None, Some(self.broker.read().unwrap_or_else(PoisonError::into_inner)))
        };
        let began = Instant::now();
        let lacks = self.harness.faults().map(|faults| faults.lacks()).unwrap_or_default();
        let absent = scenario.breaks.iter().any(|breakage| lacks.contains(breakage));
        let harness = own.unwrap_or_else(|| Arc::clone(&self.harness));
        let lab = Lab::new(harness, self.capabilities.clone(), scenario.name);
        let missing = scenario.features.iter().copied().find(|feature| !self.capabilities.supports(*feature));
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            self.runtime.block_on(async {
                let run = async {
                    match missing {
                        None if absent => Ok(()),
                        None => (scenario.run)(&lab).await,
                        Some(feature) => scenarios::refusal(&lab, feature).await,
                    }
                };
                let limit = scenario.deadline();
                tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err(overdue(&lab, limit)))
            })
        }));
        let verdict: Verdict = verdict.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure::new(format!("the scenario panicked: {}", text.unwrap_or_default())))
        });
        self.runtime.block_on(lab.clean_up());
        let result = ScenarioResult {
            name: scenario.name.to_owned(),
            guarantees: scenario.guarantees.iter().map(|number| format!("G{number}")).collect(),
            outcome: match (&verdict, missing) {
                (Err(_), _) => Outcome::Failed,
                (Ok(()), None) if absent => Outcome::Absent,
                (Ok(()), None) => Outcome::Passed,
                (Ok(()), Some(_)) => Outcome::Refused,
            },
            millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            failure: verdict.err().map(|failure| failure.to_string()),
            measured: lab.measured(),
        };
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result.clone());
        result
    }

    fn report(&self, scenarios: &[Scenario]) -> ProfileResult {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ProfileResult::new(self.harness.profile(), self.version.clone(), &self.capabilities, scenarios, results)
    }
}

fn overdue(lab: &Lab, limit: Duration) -> Failure {
    let entries = lab.history().entries();
    let last: Vec<String> = entries.iter().rev().take(8).map(|entry| format!("{entry:?}")).collect();
    Failure::new(format!("not done within {limit:?}; the last of {} lines: {last:#?}", entries.len()))
}
