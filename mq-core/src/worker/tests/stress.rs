//! Everything at once, on real threads: nothing lost, no key overlaps or is reordered, nothing hangs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::bench::Running;
use super::{Bench, S};
use crate::memory::SettledHow;
use crate::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const KEYS: usize = 24;
const MESSAGES: usize = 1200;

/// What was handled by key, in order, and which keys are being handled.
#[derive(Default)]
struct Seen {
    handled: Mutex<HashMap<String, Vec<usize>>>,
    overlaps: AtomicU32,
    running: Mutex<HashMap<String, u32>>,
}

impl Seen {
    fn enter(&self, key: &str) {
        let mut running = self.running.lock().unwrap();
        let now = running.entry(key.to_owned()).or_default();
        *now += 1;
        if *now > 1 {
            self.overlaps.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn leave(&self, key: &str) {
        *self.running.lock().unwrap().get_mut(key).unwrap() -= 1;
    }
}

/// Leaves also when the handler is cancelled.
struct Inside(Arc<Seen>, String);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.leave(&self.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn failures_cuts_and_restarts_lose_nothing_and_keep_order() {
    let bench = Bench::ordered().await;
    let seen = Arc::new(Seen::default());
    let start = || {
        let seen = Arc::clone(&seen);
        let service = bench
            .worker()
            .concurrency(Concurrency::ByKey(8))
            .retry(RetryPolicy::delays([MS(5), MS(10)]).attempts(50).keep_key_order())
            .timeout(S(5))
            .drain(MS(300))
            .handle(move |Text(body): Text| {
                let seen = Arc::clone(&seen);
                async move {
                    let (key, n) = body.split_once(':').unwrap();
                    seen.enter(key);
                    let _inside = Inside(Arc::clone(&seen), key.to_owned());
                    if fastrand::u8(..) < 100 {
                        sleep(MS(fastrand::u64(0..3))).await;
                    }
                    if fastrand::u8(..) < 20 {
                        return Err(HandlerError::retry("at times"));
                    }
                    let mut handled = seen.handled.lock().unwrap();
                    handled.entry(key.to_owned()).or_default().push(n.parse().unwrap());
                    Ok(())
                }
            });
        Running::start(service)
    };
    let mut running = start();
    for n in 0..MESSAGES {
        let key = n % KEYS;
        bench.send_keyed([format!("{key}:{n}")]).await;
        match n % 300 {
            100 => {
                bench.memory.faults().disconnect();
                bench.memory.faults().reconnect();
            }
            200 => {
                let summary = timeout(S(20), running.stop()).await.expect("a stop does not hang");
                assert_eq!(summary.ended, Ended::Shutdown);
                running = start();
            }
            _ => {}
        }
    }
    bench.memory.until_idle("t", "g", S(60)).await.unwrap();
    timeout(S(20), running.stop()).await.expect("a stop does not hang");
    assert_eq!(seen.overlaps.load(Ordering::SeqCst), 0);
    assert!(bench.dead().is_empty());
    let handled = seen.handled.lock().unwrap();
    assert_eq!(handled.len(), KEYS);
    for (key, numbers) in handled.iter() {
        let mut firsts: Vec<usize> = Vec::new();
        for n in numbers {
            if !firsts.contains(n) {
                firsts.push(*n);
            }
        }
        assert!(firsts.is_sorted(), "key {key}: {firsts:?}");
        assert_eq!(firsts.len(), MESSAGES / KEYS, "key {key}");
    }
}

/// A slot that ends while the worker looks whether it is done: its acknowledgements must be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_stop_at_any_moment_leaves_no_acknowledgement_behind() {
    for round in 0..300 {
        let bench = Bench::new().await;
        bench.send(std::iter::repeat_n("x", 100)).await;
        let handled = Arc::new(AtomicU32::new(0));
        let (count, enough) = (Arc::clone(&handled), Arc::new(tokio::sync::Notify::new()));
        let reached = Arc::clone(&enough);
        let service = bench.worker().concurrency(Concurrency::Parallel(8)).handle(move || {
            let (count, reached) = (Arc::clone(&count), Arc::clone(&reached));
            async move {
                tokio::task::yield_now().await;
                if count.fetch_add(1, Ordering::SeqCst) == round % 60 {
                    reached.notify_one();
                }
            }
        });
        let running = Running::start(service);
        timeout(S(10), enough.notified()).await.expect("handlers run");
        timeout(S(20), running.stop()).await.expect("a stop does not hang");
        let handled = handled.load(Ordering::SeqCst) as usize;
        assert_eq!(bench.settled(SettledHow::Ack), handled, "acknowledged of those handled, round {round}");
    }
}
