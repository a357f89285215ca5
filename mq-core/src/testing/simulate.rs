//! Many runs, one for each seed.

use std::fmt;
use std::panic::resume_unwind;

use crate::testing::failure::Failure;
use crate::testing::history::{Event, What};
use crate::testing::run::{Outcome, Without, run};
use crate::testing::scenario::Scenario;
use crate::testing::shrink::shrink;

/// What passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Passed {
    /// Runs, each with a schedule of its own.
    pub runs: u64,
    /// Faults that were made to happen.
    pub faults: u64,
    /// Crashes of processes.
    pub crashes: u64,
    /// Messages sent.
    pub sends: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Runs of a handler that handled their message.
    pub handled: u64,
    /// Of these, runs of a message that had been handled before: each was explained by a fault.
    pub repeats: u64,
    /// Messages set aside.
    pub dead_lettered: u64,
}

impl Passed {
    fn count(&mut self, outcome: &Outcome) {
        self.runs += 1;
        let mut handled = std::collections::BTreeSet::new();
        for event in &outcome.events {
            match &event.what {
                What::Fault(_) => self.faults += 1,
                What::Crashed { .. } => self.crashes += 1,
                What::Sending { again: false, .. } => self.sends += 1,
                What::Delivered(_) => self.deliveries += 1,
                What::RanTo { id, end, .. } if end.is_success() => {
                    self.handled += 1;
                    let service = event.life.map(|life| life.service);
                    self.repeats += u64::from(!handled.insert((service, id)));
                }
                What::Settled { how: crate::memory::SettledHow::DeadLetter, result: Ok(settled), .. } => {
                    self.dead_lettered += u64::from(*settled == crate::driver::Settled::Durable);
                }
                _ => {}
            }
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.runs += other.runs;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.sends += other.sends;
        self.deliveries += other.deliveries;
        self.handled += other.handled;
        self.repeats += other.repeats;
        self.dead_lettered += other.dead_lettered;
        self
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, faults, crashes, sends, deliveries, handled, repeats, dead_lettered } = self;
        write!(
            f,
            "{runs} schedules with {faults} faults and {crashes} crashes: {sends} messages sent, {deliveries} delivered, \
             {handled} handled ({repeats} repeated), {dead_lettered} set aside"
        )
    }
}

/// Runs a scenario once for each seed, each time with other faults at other times, in virtual time: minutes take
/// milliseconds. The same seed leads to the same history.
///
/// `fill` says what a run is made of. The worker, the producer and the broker in memory are the real ones; around them
/// connections are cut, sends and settlements fail, processes crash at any step and come back. What the SDK promises is
/// checked after each run, and what [`Scenario::invariant`] says. Runs on a thread of its own, also from within a
/// runtime.
///
/// # Errors
/// The first failure, made as small as it gets, with its story. `simulate([failure.seed()], …)` runs it again.
pub fn simulate(
    seeds: impl IntoIterator<Item = u64> + Send,
    fill: impl Fn(&mut Scenario) + Send + Sync,
) -> Result<Passed, Box<Failure>> {
    on_a_thread(|| {
        let mut passed = Passed::default();
        for seed in seeds {
            let outcome = run(seed, &fill, &Without::default());
            if !outcome.findings.is_empty() {
                return Err(Box::new(shrink(seed, &fill, outcome)));
            }
            passed.count(&outcome);
        }
        Ok(passed)
    })
}

/// Everything that happens in the run of one seed, whether its promises are kept or not.
pub fn history(seed: u64, fill: impl Fn(&mut Scenario) + Send + Sync) -> Vec<Event> {
    on_a_thread(|| run(seed, &fill, &Without::default()).events)
}

/// A run needs a runtime of its own, and there may be one on this thread.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    })
}
