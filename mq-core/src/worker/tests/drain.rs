//! Stopping, and giving partitions away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::Running;
use super::{Bench, Log, S};
use crate::driver::TopicSpec;
use crate::memory::SettledHow;
use crate::*;

#[tokio::test(start_paused = true)]
async fn running_handlers_finish_and_the_rest_goes_back_without_blame() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(2), Concurrency::ByKey(2)] {
        let bench = match concurrency {
            Concurrency::ByKey(_) => Bench::ordered().await,
            _ => Bench::new().await,
        };
        bench.send(["x"; 8]).await;
        let log = Log::new();
        let handled = log.clone();
        let service = bench.worker().concurrency(concurrency).handle(move || {
            let log = handled.clone();
            async move {
                log.note("started");
                sleep(S(10)).await;
                log.note("finished");
            }
        });
        let running = Running::start(service);
        sleep(S(1)).await;
        let stopped = Instant::now();
        let summary = running.stop().await;
        let took = stopped.elapsed();
        let n = concurrency.limit();
        assert!(took >= S(8) && took < S(10), "{concurrency:?}: {took:?}");
        assert_eq!((log.count("started"), log.count("finished")), (n, n));
        assert_eq!((summary.handled, summary.released, summary.cancelled), (n as u64, 8 - n as u64, 0));
        assert_eq!(bench.settled(SettledHow::Ack), n);
        // What went back is delivered at once, and nobody is blamed.
        let mode = if matches!(concurrency, Concurrency::ByKey(_)) { GroupMode::Ordered } else { GroupMode::Shared };
        let mut consumer = bench.broker.consumer(Subscription::new("t", "g").mode(mode)).await.unwrap();
        for _ in 0..8 - n {
            let delivery = consumer.recv_within(S(1)).await.unwrap().unwrap();
            assert_eq!((delivery.redeliveries(), delivery.attempt()), (0, 1));
            delivery.ack();
        }
        consumer.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_over_the_limit_are_cancelled_and_given_back() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(2)] {
        let bench = Bench::new().await;
        bench.send(["x", "y"]).await;
        let service = bench.worker().concurrency(concurrency).drain(S(5)).handle(|| async { sleep(S(3600)).await });
        let running = Running::start(service);
        sleep(S(1)).await;
        let stopped = Instant::now();
        let summary = running.stop().await;
        assert!(stopped.elapsed() >= S(5) && stopped.elapsed() < S(6), "{:?}", stopped.elapsed());
        assert_eq!((summary.cancelled, summary.released), (concurrency.limit() as u64, 2), "{concurrency:?}");
        assert_eq!(bench.memory.backlog("t", "g").unwrap().ready, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_stops_at_once_also_when_paused_or_held_by_the_rate() {
    for (pause, rate) in [(false, None), (true, None), (false, Some(Rate::of(0.0)))] {
        let bench = Bench::new().await;
        let mut worker = bench.worker().concurrency(Concurrency::Parallel(3));
        if let Some(rate) = rate {
            worker = worker.rate_limit(rate);
        }
        let running = Running::start(worker.handle(|| async {}));
        if pause {
            running.handle.pause();
        }
        bench.send(["x"; 5]).await;
        sleep(S(2)).await;
        let stopped = Instant::now();
        let summary = running.stop().await;
        assert!(stopped.elapsed() < S(1), "{:?}", stopped.elapsed());
        let backlog = bench.memory.backlog("t", "g").unwrap();
        assert_eq!(backlog.ready + summary.handled, 5);
        assert_eq!(summary.handled, if pause || rate.is_some() { 0 } else { 5 });
    }
}

#[tokio::test(start_paused = true)]
async fn parked_messages_go_back_with_their_attempts() {
    let bench = Bench::ordered().await;
    bench.send_keyed(["a:1", "a:2"].map(String::from)).await;
    let worker = || bench.worker().retry(RetryPolicy::delays([S(60)]).keep_key_order());
    let running = Running::start(worker().handle(|| async { Err::<(), _>(HandlerError::retry("x")) }));
    sleep(S(1)).await;
    let stopped = Instant::now();
    let summary = running.stop().await;
    assert!(stopped.elapsed() < S(1));
    assert_eq!((summary.retried, summary.released), (1, 2));
    let log = Log::new();
    let handled = log.clone();
    let running = Running::start(worker().handle(move |Text(body): Text, context: Context| {
        handled.note(format!("{body} {}", context.attempt()));
        async {}
    }));
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["a:1 2", "a:2 1"], "in order, the recorded failure counted");
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_drains_what_moves_and_repeats_nothing() {
    let bench = Bench::new().await;
    let topic = Topic::parse("many").unwrap();
    bench.broker.admin().declare_topic(&TopicSpec::new(topic).partitions(4)).await.unwrap();
    let log = Log::new();
    let start = |name: &'static str| {
        let handled = log.clone();
        let subscription = Subscription::new("many", "g").mode(GroupMode::Ordered).prefetch(20);
        let service = Worker::new(&bench.broker, subscription).concurrency(Concurrency::ByKey(4)).handle(
            move |Text(body): Text| {
                let log = handled.clone();
                async move {
                    sleep(Duration::from_millis(20)).await;
                    log.note(format!("{body} {name}"));
                }
            },
        );
        Running::start(service)
    };
    let first = start("first");
    sleep(S(1)).await;
    for n in 0..200 {
        let key = format!("k{}", n % 16);
        let message = Message::new("many").unwrap().key(&key).body(format!("{key}:{n:03}"));
        bench.producer.send(message).await.unwrap();
    }
    sleep(Duration::from_millis(100)).await;
    let second = start("second");
    bench.memory.until_idle("many", "g", S(600)).await.unwrap();
    let (first, second) = (first.stop().await, second.stop().await);
    assert_eq!(first.handled + second.handled, 200);
    assert!(first.handled > 0 && second.handled > 0, "{first:?} {second:?}");
    assert_eq!((first.cancelled, first.stale), (0, 0));
    let mut bodies: Vec<_> = log.all().into_iter().map(|entry| entry.split_once(' ').unwrap().0.to_owned()).collect();
    for key in 0..16 {
        let of_key: Vec<_> = bodies.iter().filter(|body| body.starts_with(&format!("k{key}:"))).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 200, "each once");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_loses_nothing() {
    let bench = Bench::new().await;
    bench.send(["x"; 4]).await;
    let service = bench.worker().concurrency(Concurrency::Parallel(2)).handle(|| async { sleep(S(3600)).await });
    let task = tokio::spawn(service.run());
    sleep(S(1)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let running = Running::start(bench.worker().handle(|| async {}));
    bench.idle().await;
    assert_eq!(running.stop().await.handled, 4);
}
