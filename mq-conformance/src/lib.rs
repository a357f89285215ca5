//! The conformance suite: what every adapter of `mq` must prove on its real broker, also a third party's.
//!
//! # For authors of adapters
//!
//! Implement [`Harness`] and call [`main`] from a test target with `harness = false`; the example at [`Harness`] is
//! complete. `cargo test --test conformance` then runs everything, `-- retry` only the scenarios with `retry` in their
//! name, `-- --exact settle::an_ack_consumes` one. A broker that cannot be reached fails the run.
//!
//! - [`Harness::connect`] is called several times by a scenario: each call must give a connection of its own, as a new
//!   process would have.
//! - [`Harness::foreign`] is a stock client of the broker: with it the suite forges headers, writes what no SDK would
//!   write, and reads what the SDK wrote.
//! - [`Harness::topic_spec`] declares topics small enough for a test server.
//!
//! # How scenarios judge
//!
//! Each has its own topics and groups, cleans up, and ends within [`Scenario::DEADLINE`]. What happens is recorded in a
//! [`History`] (sent, confirmed, delivered, handled, settled, dead, with times) and judged by a [`Checker`]: loss,
//! duplicates beyond the declared bound, order per key, two handlers at once, earliness, attempts, receipts. Nothing is
//! deduplicated first. A failure prints the shortest story of an offending message. Lower bounds in time are hard;
//! upper ones are what the adapter declares plus [`Harness::slack`].
//!
//! A scenario names the guarantees it observes (G1 to G18 of the design) and the features it needs. Where a feature is
//! declared as unsupported, its negative form runs instead: the call must answer the typed `Unsupported`, naming the
//! feature and a way out. So a declared *yes* that fails is found, and a declared *no* that works, too.
//!
//! # Results
//!
//! With `MQ_CONFORMANCE_OUT=<dir>` each run writes `<dir>/<profile>.json` ([`ProfileResult`]); [`matrix::render`] makes
//! the published matrix of several.
//!
//! # The suite itself
//!
//! is tested by drivers that each spoil one thing ([`spoil`]): every one is caught by the scenario meant for it, which
//! the sound driver passes.

mod checker;
mod compare;
mod failure;
pub mod faults;
mod harness;
mod history;
#[cfg(feature = "hostile")]
pub mod hostile;
mod lab;
pub mod matrix;
mod reader;
mod result;
mod run;
mod scenario;
mod scenarios;
#[cfg(feature = "secrets")]
pub mod secrets;
#[cfg(feature = "secrets")]
pub mod smoke;
pub mod spoil;
mod work;

pub use checker::{Checker, Finding, Wrong};
pub use failure::{Failure, Verdict};
pub use faults::Faults;
pub use harness::{Carries, Foreign, Harness, RawMessage};
pub use history::{Action, Entry, History, What, story};
pub use result::{CapabilityResult, Measured, Observed, Outcome, ProfileResult, ScenarioResult};
pub use run::{OUT, Options, check, main, run};
pub use scenario::Scenario;

/// Every scenario of the suite, in the order of the themes.
pub fn scenarios() -> Vec<Scenario> {
    scenarios::all()
}
