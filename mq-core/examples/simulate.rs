//! Runs the core under many simulated schedules of faults.
//!
//! `cargo run --release -p mq-core --example simulate -- --schedules 100000 --seed 1`
//!
//! Prints what was run; on the first failures their stories, and ends with exit code 1.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_core::testing::{Failure, Passed, scripted, simulate};

/// Seeds one thread takes at once.
const CHUNK: u64 = 50;
/// So many failures tell enough.
const MOST_FAILURES: usize = 5;
/// No chunk takes this long, unless a run has no end.
const STUCK: Duration = Duration::from_secs(120);

struct Options {
    schedules: u64,
    seed: u64,
    threads: usize,
}

fn options() -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { schedules: 2_000, seed: 1, threads };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let Some(value) = value else { return Err(format!("{name} needs a number")) };
        match name.as_str() {
            "--schedules" => options.schedules = value,
            "--seed" => options.seed = value,
            "--threads" => options.threads = usize::try_from(value).unwrap_or(1).max(1),
            _ => return Err(format!("unknown option {name}: --schedules N, --seed S, --threads T")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    let begin = Instant::now();
    let next = AtomicU64::new(options.seed);
    let end = options.seed.saturating_add(options.schedules);
    let passed = Mutex::new(Passed::default());
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| work(&next, end, &passed, &failures));
        }
    });
    let passed = passed.into_inner().unwrap_or_default();
    let failures = failures.into_inner().unwrap_or_default();
    for failure in &failures {
        println!("{failure}");
    }
    let took = begin.elapsed();
    println!("{passed}; {} failures; {:.1} s on {} threads", failures.len(), took.as_secs_f64(), options.threads);
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(next: &AtomicU64, end: u64, passed: &Mutex<Passed>, failures: &Mutex<Vec<Failure>>) {
    loop {
        let first = next.fetch_add(CHUNK, Ordering::Relaxed);
        if first >= end || failures.lock().is_ok_and(|failures| failures.len() >= MOST_FAILURES) {
            return;
        }
        let last = first.saturating_add(CHUNK).min(end);
        let mut from = first;
        while from < last {
            let begin = Instant::now();
            match simulate(from..last, scripted) {
                Ok(more) => {
                    if let Ok(mut passed) = passed.lock() {
                        *passed = std::mem::take(&mut *passed).plus(&more);
                    }
                    from = last;
                }
                Err(failure) => {
                    from = failure.seed() + 1;
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(*failure);
                    }
                }
            }
            if begin.elapsed() > STUCK {
                eprintln!("seeds {first} to {last} took {:?}", begin.elapsed());
            }
        }
    }
}
