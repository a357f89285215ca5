//! How many at once, in which order, how fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::Running;
use super::{Bench, Log, S};
use crate::memory::SettledHow;
use crate::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test(start_paused = true)]
async fn never_more_at_once_than_asked_for_and_that_many_when_there_is_work() {
    for (concurrency, most) in [(Concurrency::Sequential, 1), (Concurrency::Parallel(4), 4), (Concurrency::ByKey(4), 4)]
    {
        let bench = match concurrency {
            Concurrency::ByKey(_) => Bench::ordered().await,
            _ => Bench::new().await,
        };
        bench.send(["x"; 40]).await;
        let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (n, p) = (Arc::clone(&now), Arc::clone(&peak));
        let service = bench.worker().concurrency(concurrency).handle(move || {
            let (n, p) = (Arc::clone(&n), Arc::clone(&p));
            async move {
                p.fetch_max(n.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(MS(10)).await;
                n.fetch_sub(1, Ordering::SeqCst);
            }
        });
        let started = Instant::now();
        let running = Running::start(service);
        bench.idle().await;
        assert_eq!(peak.load(Ordering::SeqCst), most, "{concurrency:?}");
        let took = started.elapsed();
        let least = MS(10) * 40 / most as u32;
        assert!(took >= least && took < least + MS(60), "{concurrency:?}: {took:?}");
        assert_eq!(running.stop().await.handled, 40);
    }
}

#[tokio::test(start_paused = true)]
async fn by_key_keeps_each_keys_order_with_uneven_keys() {
    let (bench, log) = (Bench::ordered().await, Log::new());
    // One key has half of all messages.
    let messages = (0..200).map(|n| format!("{}:{n:03}", if n % 2 == 0 { 0 } else { n % 20 }));
    bench.send_keyed(messages).await;
    let handled = log.clone();
    let service = bench.worker().concurrency(Concurrency::ByKey(8)).handle(move |Text(body): Text| {
        let log = handled.clone();
        async move {
            sleep(MS(fastrand::u64(1..10))).await;
            log.note(body);
        }
    });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all().len(), 200);
    for key in 0..20 {
        let of_key: Vec<_> = log.all().into_iter().filter(|body| body.starts_with(&format!("{key}:"))).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sixteen_by_key_are_fifteen_times_as_fast() {
    let mut took = Vec::new();
    for concurrency in [Concurrency::Sequential, Concurrency::ByKey(16)] {
        let bench = Bench::ordered().await;
        bench.send_keyed((0..2000).map(|n| format!("{}:{n}", n % 1000))).await;
        let subscription = Subscription::new("t", "g").prefetch(256).mode(GroupMode::Ordered);
        let service =
            Worker::new(&bench.broker, subscription).concurrency(concurrency).handle(|| async { sleep(MS(5)).await });
        let started = Instant::now();
        let running = Running::start(service);
        bench.idle().await;
        took.push(started.elapsed());
        running.stop().await;
    }
    assert!(took[0] >= took[1] * 15, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn in_key_order_only_the_failing_key_waits() {
    for concurrency in [Concurrency::Sequential, Concurrency::ByKey(4)] {
        let (bench, log) = (Bench::ordered().await, Log::new());
        bench.send_keyed(["a:1", "a:2", "b:1", "a:3", "b:2"].map(String::from)).await;
        let handled = log.clone();
        let service =
            bench.worker().concurrency(concurrency).retry(RetryPolicy::delays([S(1), S(5)]).keep_key_order()).handle(
                move |Text(body): Text, context: Context| {
                    handled.note(format!("{body} {}", context.attempt()));
                    async move {
                        if body == "a:1" && context.attempt() < 3 { Err(HandlerError::retry("x")) } else { Ok(()) }
                    }
                },
            );
        let running = Running::start(service);
        bench.idle().await;
        let summary = running.stop().await;
        let of = |key: &str| -> Vec<String> { log.all().into_iter().filter(|entry| entry.starts_with(key)).collect() };
        assert_eq!(of("a"), ["a:1 1", "a:1 2", "a:1 3", "a:2 1", "a:3 1"], "{concurrency:?}");
        assert_eq!(of("b"), ["b:1 1", "b:2 1"]);
        let b_done = log.times().iter().find(|(_, entry)| entry == "b:2 1").unwrap().0;
        assert!(b_done < MS(100), "the other key did not wait: {b_done:?}");
        let last = log.times().last().unwrap().0;
        assert!(last >= S(6) && last < S(7), "{last:?}");
        assert_eq!(bench.settled(SettledHow::Hold), 2, "each failure is recorded");
        assert_eq!((summary.handled, summary.retried), (5, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn key_order_ends_in_a_dead_letter_and_the_key_goes_on() {
    let (bench, log) = (Bench::ordered().await, Log::new());
    bench.send_keyed(["a:1", "a:2"].map(String::from)).await;
    let handled = log.clone();
    let service = bench.worker().retry(RetryPolicy::delays([S(1)]).keep_key_order()).handle(
        move |Text(body): Text, context: Context| {
            handled.note(format!("{body} {}", context.attempt()));
            async move { if body == "a:1" { Err(HandlerError::retry("x")) } else { Ok(()) } }
        },
    );
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["a:1 1", "a:1 2", "a:2 1"]);
    assert_eq!(bench.dead()[0].record.as_ref().unwrap().attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn parked_keys_do_not_use_up_prefetch() {
    let (bench, log) = (Bench::ordered().await, Log::new());
    // Far more messages of failing keys than prefetch, then one of a good key.
    bench.send_keyed((0..100).map(|n| format!("bad{n}:x"))).await;
    bench.send_keyed(["good:x".to_owned()]).await;
    let handled = log.clone();
    let service = bench.worker().retry(RetryPolicy::delays([S(60)]).keep_key_order()).handle(
        move |Text(body): Text, context: Context| {
            if body.starts_with("good") {
                handled.note(body.clone());
            }
            async move {
                if body.starts_with("bad") && context.attempt() == 1 { Err(HandlerError::retry("x")) } else { Ok(()) }
            }
        },
    );
    let running = Running::start(service);
    bench.idle().await;
    assert_eq!(running.stop().await.handled, 101);
    assert!(log.times()[0].0 < S(1), "it did not wait for the parked ones: {:?}", log.times());
}

#[tokio::test(start_paused = true)]
async fn a_full_parking_window_stops_the_intake_and_nothing_is_lost() {
    let bench = Bench::ordered().await;
    bench.send_keyed((0..1500).map(|n| format!("bad{n}:x"))).await;
    let policy = RetryPolicy::delays([S(60)]).keep_key_order();
    let service = bench.worker().retry(policy).handle(|context: Context| async move {
        if context.attempt() == 1 { Err(HandlerError::retry("x")) } else { Ok(()) }
    });
    let running = Running::start(service);
    sleep(S(30)).await;
    let received = running.handle.summary().received;
    assert!((1000..=1010).contains(&received), "the window and the prefetch of ten: {received}");
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.retried), (1500, 1500));
}

#[tokio::test(start_paused = true)]
async fn a_key_may_come_from_elsewhere() {
    let (bench, log) = (Bench::ordered().await, Log::new());
    bench.send(["a1", "a2", "b1"]).await;
    let handled = log.clone();
    let service = bench
        .worker()
        .concurrency(Concurrency::ByKey(4))
        .key_extractor(|message| message.body_bytes().map(|body| body.slice(..1)))
        .handle(move |Text(body): Text| {
            let log = handled.clone();
            async move {
                sleep(MS(if body == "a1" { 50 } else { 10 })).await;
                log.note(body);
            }
        });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["b1", "a1", "a2"]);
}
