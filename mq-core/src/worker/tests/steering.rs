//! Steering a worker, its limits, and what it refuses at start.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::Running;
use super::{Bench, Log, S};
use crate::memory::SettledHow;
use crate::*;

#[tokio::test(start_paused = true)]
async fn pause_and_resume() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(2)] {
        let bench = Bench::new().await;
        let running = Running::start(bench.worker().concurrency(concurrency).handle(|| async {}));
        sleep(S(1)).await;
        running.handle.pause();
        sleep(S(1)).await;
        bench.send(["x"; 30]).await;
        sleep(S(60)).await;
        assert_eq!(running.handle.summary().handled, 0, "{concurrency:?}");
        running.handle.resume();
        bench.idle().await;
        assert_eq!(running.stop().await.handled, 30);
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_and_can_be_changed() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(8)] {
        let bench = Bench::new().await;
        bench.send(["x"; 400]).await;
        let service = bench.worker().concurrency(concurrency).rate_limit(per_second(10)).handle(|| async {});
        let running = Running::start(service);
        sleep(S(10)).await;
        let handled = running.handle.summary().handled;
        assert!((95..=103).contains(&handled), "{concurrency:?}: {handled}");
        running.handle.set_rate(per_second(100));
        let changed = Instant::now();
        bench.idle().await;
        let took = changed.elapsed();
        assert!(took > Duration::from_millis(2700) && took < Duration::from_millis(3500), "{took:?}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ends_after_so_many_messages_or_when_none_come() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(4)] {
        let bench = Bench::new().await;
        bench.send(["x"; 30]).await;
        let service = bench.worker().concurrency(concurrency).max_messages(12).handle(|| async {});
        let started = Instant::now();
        let summary = service.run().await.unwrap();
        assert_eq!((summary.handled, summary.ended), (12, Ended::Max));
        assert!(started.elapsed() < S(1), "{:?}", started.elapsed());
        let slow = || async { sleep(S(1)).await };
        let service = bench.worker().concurrency(concurrency).max_idle(S(5)).handle(slow);
        let summary = service.run().await.unwrap();
        assert_eq!((summary.handled, summary.ended), (18, Ended::Idle));
        assert!(started.elapsed() < S(18) / concurrency.limit() as u32 + S(7));
        assert!(started.elapsed() >= S(18) / concurrency.limit() as u32 && started.elapsed() >= S(7));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_stops_the_worker() {
    let bench = Bench::new().await;
    let running = Running::start(bench.worker().handle(|| async {}));
    sleep(S(1)).await;
    assert!(running.handle.health(S(1)).await.ready);
    assert_eq!(running.handle.lag().await.unwrap()[0].1.ready, 0);
    running.handle.stop();
    assert_eq!(running.end().await.unwrap().ended, Ended::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn batched_acks_wait_for_the_number_or_the_time() {
    let bench = Bench::new().await;
    let batches = Log::new();
    let settling = batches.clone();
    let broker = bench.faulty(move |settlement| {
        if matches!(settlement.action, driver::Settle::Ack) {
            settling.note("ack");
        }
        None
    });
    bench.send(["x"; 5]).await;
    let service = Worker::new(&broker, Subscription::new("t", "g").prefetch(100))
        .ack(AckStrategy::Batched { max: 10, every: S(3) })
        .handle(|| async {});
    let running = Running::start(service);
    sleep(S(2)).await;
    assert_eq!(batches.all().len(), 0, "fewer than ten, less than three seconds");
    sleep(S(2)).await;
    assert_eq!(batches.all().len(), 5);
    bench.send(["x"; 10]).await;
    sleep(S(1)).await;
    assert_eq!(batches.all().len(), 15, "ten at once");
    bench.send(["x"; 3]).await;
    let summary = running.stop().await;
    assert_eq!(batches.all().len() as u64, summary.handled, "stopping waits for nothing");
}

#[tokio::test(start_paused = true)]
async fn automatic_acks_come_first_and_failures_are_gone() {
    let bench = Bench::new().await;
    bench.send(["ok", "bad", "ok"]).await;
    let service = bench
        .worker()
        .ack(AckStrategy::Auto)
        .handle(|Text(body): Text| async move { if body == "bad" { Err(HandlerError::retry("x")) } else { Ok(()) } });
    let running = Running::start(service);
    bench.idle().await;
    sleep(S(120)).await;
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.failed, summary.retried), (2, 1, 0));
    assert!(bench.dead().is_empty());
    let refused = bench.worker().ack(AckStrategy::Auto).retry(RetryPolicy::default()).handle(|| async {}).run().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_at_receipt_is_handled_before_the_worker_ends() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(2)] {
        let n = concurrency.limit() as u64;
        for (limit, handled) in [(S(60), 8), (S(3), 3 * n)] {
            let bench = Bench::new().await;
            bench.send(["x"; 8]).await;
            let service = bench
                .worker()
                .ack(AckStrategy::Auto)
                .concurrency(concurrency)
                .drain(limit)
                .handle(|| async { sleep(S(1)).await });
            let running = Running::start(service);
            sleep(Duration::from_millis(500)).await;
            let summary = running.stop().await;
            assert_eq!(summary.handled, handled, "{concurrency:?} {limit:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_hook_ends_nothing() {
    let bench = Bench::ordered().await;
    bench.send(["x", "y"]).await;
    let service = bench
        .worker()
        .concurrency(Concurrency::ByKey(2))
        .observe(|_: &WorkerEvent<'_>| panic!("observer"))
        .key_extractor(|_| panic!("key"))
        .id_extractor(|_| panic!("id"))
        .classify(|_: &(dyn std::error::Error + Send + Sync + 'static)| -> Class { panic!("classify") })
        .handle(|| async { Err::<(), _>(std::io::Error::other("x")) });
    let running = Running::start(service);
    bench.idle().await;
    assert_eq!(running.stop().await.dead_lettered, 2);
}

#[tokio::test(start_paused = true)]
async fn several_topics_and_broadcast() {
    let bench = Bench::new().await;
    bench.memory.declare_topic("u").unwrap();
    let both = Subscription::new("t", "g").topic("u");
    let running = Running::start(Worker::new(&bench.broker, both).handle(|| async {}));
    let failures = AtomicU32::new(0);
    let all = Worker::new(&bench.broker, Subscription::broadcast("t")).retry(RetryPolicy::delays([S(1)])).handle(
        move |context: Context| {
            let fails = context.attempt() == 1 && failures.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if fails { Err(HandlerError::retry("x")) } else { Ok(()) } }
        },
    );
    let broadcast = Running::start(all);
    sleep(S(1)).await;
    bench.send(["x", "y"]).await;
    bench.producer.send(Message::new("u").unwrap()).await.unwrap();
    sleep(S(5)).await;
    assert_eq!(running.stop().await.handled, 3);
    let summary = broadcast.stop().await;
    assert_eq!((summary.handled, summary.retried), (2, 1), "a failure is tried again in memory");
}

#[tokio::test(start_paused = true)]
async fn what_contradicts_itself_is_refused_at_start() {
    let bench = Bench::new().await;
    let refused = |worker: Worker| async move {
        tokio::time::timeout(S(5), worker.handle(|| async {}).run()).await.unwrap().unwrap_err()
    };
    let parallel = bench.worker().concurrency(Concurrency::Parallel(2)).retry(RetryPolicy::default().keep_key_order());
    assert_eq!(refused(parallel).await.kind(), ErrorKind::Config);
    let guarded = bench.worker().ack(AckStrategy::Auto).idempotency(MemoryGuard::new());
    assert_eq!(refused(guarded).await.kind(), ErrorKind::Config);
    let many = bench.worker().retry(RetryPolicy::delays((1..100).map(S)));
    assert_eq!(refused(many).await.kind(), ErrorKind::Config);
    let nowhere = Worker::new(&bench.broker, Subscription::new("missing", "g"));
    assert_eq!(refused(nowhere).await.kind(), ErrorKind::NotFound);
    assert_eq!(bench.settled(SettledHow::Ack), 0);
}
