//! Schedule after schedule, several at a time, until enough.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mq_core::capability::Capabilities;
use serde::{Deserialize, Serialize};

use super::judge::Seen;
use super::schedule::Schedule;
use crate::failure::{Failure, Verdict};
use crate::harness::Harness;
use crate::lab::Lab;

/// Set for a run that soaks: [`Soak`] as JSON.
pub const SOAK: &str = "MQ_CONFORMANCE_SOAK";

/// One schedule may not take longer.
const PATIENCE: Duration = Duration::from_secs(240);
/// The stories of the first failures; the others are counted.
const TOLD: usize = 20;

/// How long to soak, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Soak {
    /// The first seed; each schedule takes the next one.
    pub seed: u64,
    /// So many schedules.
    #[serde(default)]
    pub schedules: Option<u64>,
    /// So long; what has begun then comes to its end.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// So many at a time. One, when the broker is killed.
    #[serde(default)]
    pub parallel: Option<usize>,
    /// The broker is killed in each.
    #[serde(default)]
    pub broker_kill: bool,
}

/// What a soak has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soaked {
    /// `memory`, `kafka`, `rabbit-4.0` …
    pub profile: String,
    /// Schedules lived through.
    pub schedules: u64,
    /// Those of them which broke a promise.
    pub failed: u64,
    /// The seeds of those.
    pub failed_seeds: Vec<u64>,
    /// Messages sent and confirmed.
    pub messages: usize,
    /// Sends that were made again, as their outcome was not known.
    pub resent: usize,
    /// Dead letters found.
    pub dead_letters: usize,
    /// Handlers that ran without a reason of their own.
    pub duplicates: usize,
    /// How many of those the faults may have caused.
    pub bound: usize,
    /// Confirmed, and neither handled nor set aside.
    pub lost: usize,
    /// Overtaken by a later message of their key.
    pub out_of_order: usize,
    /// Tried again before they were due.
    pub early: usize,
    /// Run by two handlers at once.
    pub overlapping: usize,
    /// Given an attempt number that no failure explains.
    pub miscounted: usize,
    /// How often each kind of fault occurred.
    pub faults: BTreeMap<String, usize>,
    /// How long it took.
    pub seconds: u64,
}

/// Soaks, prints what it has seen, and fails when a promise was broken.
pub(crate) async fn soak(harness: Arc<dyn Harness>, capabilities: Capabilities, orders: &Soak) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Soaked { profile: harness.profile(), ..Soaked::default() }, Vec::new()));
    let parallel = if orders.broker_kill { 1 } else { orders.parallel.unwrap_or(4).max(1) };
    let worker = || async {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let long = Duration::from_secs(orders.seconds.unwrap_or(u64::MAX));
            if number >= orders.schedules.unwrap_or(u64::MAX) || began.elapsed() >= long {
                return;
            }
            let schedule = schedule(&harness, orders.seed.wrapping_add(number), orders.broker_kill);
            let own = harness.alone().unwrap_or_else(|| Arc::clone(&harness));
            let lab = Lab::new(own, capabilities.clone(), &format!("soak::s{}", schedule.seed));
            let lived = live(&lab, &schedule).await;
            let bound = lab.measured().map(|measured| measured.bound).unwrap_or_default();
            lab.clean_up().await;
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut sum.0, &schedule, &lived, bound);
            if let Err(failure) = lived.1 {
                say(&format!("FAILED {failure}"));
                if sum.1.len() < TOLD {
                    sum.1.push(failure.to_string());
                }
            }
            if sum.0.schedules.is_multiple_of(25) {
                let Soaked { schedules, failed, messages, duplicates, .. } = &sum.0;
                say(&format!("{schedules} schedules, {failed} failed, {messages} messages, {duplicates} duplicates"));
            }
        }
    };
    futures_util::future::join_all((0..parallel).map(|_| worker())).await;
    let (mut soaked, failures) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    soaked.seconds = began.elapsed().as_secs();
    for failure in &failures {
        say(&format!("----\n{failure}"));
    }
    say(&serde_json::to_string(&soaked).unwrap_or_default());
    if soaked.failed == 0 && soaked.schedules > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn schedule(harness: &Arc<dyn Harness>, seed: u64, broker_kill: bool) -> Schedule {
    let lacks = harness.faults().map(|faults| faults.lacks()).unwrap_or_default();
    Schedule::new(seed, lacks, broker_kill)
}

/// What was seen, and whether it was right.
async fn live(lab: &Lab, schedule: &Schedule) -> (Option<Seen>, Verdict) {
    match tokio::time::timeout(PATIENCE, schedule.run(lab)).await {
        Ok(Ok(seen)) => (Some(seen), Ok(())),
        Ok(Err(failure)) => (lab.seen(), Err(failure)),
        Err(_) => (None, Err(Failure::new(format!("not over within {PATIENCE:?}")).at(schedule))),
    }
}

fn add(sum: &mut Soaked, schedule: &Schedule, lived: &(Option<Seen>, Verdict), bound: usize) {
    sum.schedules += 1;
    sum.bound += bound;
    let mut kinds = BTreeMap::new();
    schedule.count(&mut kinds);
    for (kind, count) in kinds {
        *sum.faults.entry(kind.to_owned()).or_default() += count;
    }
    if let Some(seen) = &lived.0 {
        sum.messages += seen.confirmed;
        sum.resent += seen.resent;
        sum.dead_letters += seen.dead;
        sum.duplicates += seen.duplicates;
        sum.lost += seen.lost;
        sum.out_of_order += seen.disordered;
        sum.early += seen.early;
        sum.overlapping += seen.overlapping;
        sum.miscounted += seen.miscounted;
    }
    if lived.1.is_err() {
        sum.failed += 1;
        sum.failed_seeds.push(schedule.seed);
    }
}

#[expect(clippy::print_stdout, reason = "the report of a program")]
fn say(text: &str) {
    println!("{text}");
}
