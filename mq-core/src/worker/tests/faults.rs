//! The broker misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::time::{Instant, sleep};

use super::bench::Running;
use super::{Bench, Log, S};
use crate::dead_letter::DeadLetterReason;
use crate::driver::{Settle, Settled};
use crate::memory::SettledHow;
use crate::*;

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "no answer")
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_cancels_handlers_and_the_message_comes_again() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(3)] {
        let (bench, log, events) = (Bench::new().await, Log::new(), Log::new());
        bench.send(["x"]).await;
        let handled = log.clone();
        let service =
            bench.worker().concurrency(concurrency).observe(events.observer()).handle(move |context: Context| {
                let log = handled.clone();
                async move {
                    log.note(format!("{} {}", context.attempt(), context.redelivered()));
                    if !context.redelivered() {
                        let outer = context.clone();
                        let told = log.clone();
                        tokio::spawn(async move {
                            outer.cancelled().await;
                            told.note("told");
                        });
                        sleep(S(3600)).await;
                    }
                }
            });
        let running = Running::start(service);
        sleep(S(1)).await;
        bench.memory.faults().disconnect();
        sleep(S(1)).await;
        bench.memory.faults().reconnect();
        bench.idle().await;
        let summary = running.stop().await;
        assert_eq!(log.all(), ["1 false", "told", "1 true"], "a crash counts no attempt");
        assert_eq!((summary.cancelled, summary.handled), (1, 1));
        for event in ["Disconnected", "Reconnected", "Cancelled"] {
            assert_eq!(events.count(event), 1, "{event}: {:?}", events.all());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handled_but_the_ack_was_lost_is_not_run_again() {
    // Three ways to lose an acknowledgement: answered as stale, handed over and never done, failed for good.
    let answers: [fn() -> Result<Settled>; 3] = [|| Ok(Settled::Stale), || Ok(Settled::Sent), || Err(unavailable())];
    for (way, answer) in answers.into_iter().enumerate() {
        let (bench, log) = (Bench::new().await, Log::new());
        let lose = Arc::new(AtomicBool::new(true));
        let losing = Arc::clone(&lose);
        let broker = bench.faulty(move |settlement| {
            (matches!(settlement.action, Settle::Ack) && losing.load(Ordering::SeqCst)).then(answer)
        });
        bench.send(["x", "y"]).await;
        let handled = log.clone();
        let service = Worker::new(&broker, Subscription::new("t", "g")).handle(move |Text(body): Text| {
            handled.note(body);
            async {}
        });
        let running = Running::start(service);
        sleep(S(60)).await;
        assert_eq!(log.all(), ["x", "y"]);
        bench.memory.faults().disconnect();
        lose.store(false, Ordering::SeqCst);
        bench.memory.faults().reconnect();
        bench.idle().await;
        let summary = running.stop().await;
        assert_eq!(log.all(), ["x", "y"], "way {way}");
        assert_eq!((summary.handled, summary.duplicates), (2, 2));
        assert_eq!(bench.settled(SettledHow::Ack), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_stored_stays_ours_and_raises_the_alarm() {
    let (bench, events) = (Bench::new().await, Log::new());
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let broker = bench.faulty(move |settlement| {
        let dead = matches!(settlement.action, Settle::DeadLetter(_));
        (dead && counted.fetch_add(1, Ordering::SeqCst) < 12).then(|| Err(unavailable()))
    });
    bench.send(["bad", "good"]).await;
    let service = Worker::new(&broker, Subscription::new("t", "g")).observe(events.observer()).handle(
        |Text(body): Text| async move { if body == "bad" { Err(HandlerError::dead_letter("no")) } else { Ok(()) } },
    );
    let started = Instant::now();
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.dead_lettered), (1, 1));
    assert_eq!(events.count("SettleFailed"), 12);
    assert_eq!(events.count("DeadLettered"), 1);
    assert_eq!(bench.dead().len(), 1);
    assert!(started.elapsed() > S(60), "with waits that grow: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_can_never_be_stored_becomes_a_dead_letter() {
    let bench = Bench::new().await;
    let broker = bench.faulty(|settlement| {
        let retry = matches!(settlement.action, Settle::Retry(_));
        retry.then(|| Err(Error::new(ErrorKind::TooLarge, "no room for its headers")))
    });
    bench.send(["x"]).await;
    let service = Worker::new(&broker, Subscription::new("t", "g"))
        .handle(|| async { Err::<(), _>(HandlerError::retry("later")) });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    let record = bench.dead().remove(0).record.unwrap();
    assert_eq!((record.reason, record.attempts), (DeadLetterReason::Rejected, 1));
    assert!(record.error.contains("no room"));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_hang_on_a_broker_that_does_not_answer() {
    let bench = Bench::new().await;
    let broker =
        bench.faulty(|settlement| matches!(settlement.action, Settle::DeadLetter(_)).then(|| Err(unavailable())));
    bench.send(["x"]).await;
    let service = Worker::new(&broker, Subscription::new("t", "g"))
        .drain(S(10))
        .handle(|| async { Err::<(), _>(HandlerError::dead_letter("no")) });
    let running = Running::start(service);
    sleep(S(5)).await;
    let stopped = Instant::now();
    let summary = running.stop().await;
    assert!(stopped.elapsed() < S(25), "{:?}", stopped.elapsed());
    assert_eq!(summary.dead_lettered, 0);
    assert_eq!(bench.memory.backlog("t", "g").unwrap().ready, 1, "nothing is lost");
}

#[tokio::test(start_paused = true)]
async fn messages_that_kill_their_handlers_are_set_aside_unseen() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["killer"]).await;
    for _ in 0..3 {
        let mut consumer = bench.broker.consumer(Subscription::new("t", "g")).await.unwrap();
        let delivery = consumer.recv().await.unwrap();
        bench.memory.faults().crash_consumers();
        drop(delivery);
    }
    let handled = log.clone();
    let service = bench.worker().crash_limit(2).handle(move || {
        handled.note("ran");
        async {}
    });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert!(log.all().is_empty());
    let record = bench.dead().remove(0).record.unwrap();
    assert_eq!((record.reason, record.attempts), (DeadLetterReason::CrashLimit, 1));
}

#[tokio::test(start_paused = true)]
async fn twenty_unknown_errors_in_a_row_pause_instead_of_setting_all_aside() {
    for concurrency in [Concurrency::Sequential, Concurrency::Parallel(4)] {
        let (bench, events) = (Bench::new().await, Log::new());
        bench.send(["x"; 100]).await;
        let database_down = Arc::new(AtomicBool::new(true));
        let down = Arc::clone(&database_down);
        let service = bench.worker().concurrency(concurrency).observe(events.observer()).handle(move || {
            let down = down.load(Ordering::SeqCst);
            async move { if down { Err(std::io::Error::other("no database")) } else { Ok(()) } }
        });
        let running = Running::start(service);
        sleep(S(120)).await;
        let dead = bench.dead().len();
        assert!((19..25).contains(&dead), "{concurrency:?}: {dead}");
        assert!(events.count("BreakerOpened") >= 2, "opened, and again after a failed trial");
        database_down.store(false, Ordering::SeqCst);
        bench.idle().await;
        let summary = running.stop().await;
        assert_eq!(events.count("BreakerClosed"), 1);
        assert_eq!(summary.handled as usize + bench.dead().len(), 100);
        assert!(bench.dead().len() < 25, "{}", bench.dead().len());
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_extended_while_a_handler_runs() {
    let bench = Bench::new().await;
    let log = Log::new();
    let extended = log.clone();
    let broker = bench.faulty(move |settlement| {
        if matches!(settlement.action, Settle::Extend(_)) {
            extended.note("extend");
        }
        None
    });
    bench.send(["x"]).await;
    let service = Worker::new(&broker, Subscription::new("t", "g")).handle(|| async { sleep(S(61)).await });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    // The lease of the broker in these tests is 30 s: every 10 s.
    assert_eq!(log.count("extend"), 6);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_go_on_ends_the_worker_with_its_reason() {
    let bench = Bench::new().await;
    let running = Running::start(bench.worker().handle(|| async {}));
    sleep(S(1)).await;
    bench.broker.admin().delete_topic(&Topic::parse("t").unwrap()).await.unwrap();
    bench.memory.declare_topic("other").unwrap();
    let error = running.end().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_starts_before_its_broker_waits_for_it() {
    let (bench, events) = (Bench::new().await, Log::new());
    bench.send(["x"]).await;
    bench.memory.faults().disconnect();
    let running = Running::start(bench.worker().observe(events.observer()).handle(|| async {}));
    sleep(S(60)).await;
    assert!(events.count("Unreachable") > 5 && events.count("Started") == 0);
    bench.memory.faults().reconnect();
    bench.idle().await;
    assert_eq!(running.stop().await.handled, 1);
    // One that never gets through can be stopped.
    bench.memory.faults().disconnect();
    for by_handle in [false, true] {
        let running = Running::start(bench.worker().handle(|| async {}));
        sleep(S(60)).await;
        let summary = if by_handle {
            running.handle.stop();
            running.end().await.unwrap()
        } else {
            running.stop().await
        };
        assert_eq!((summary.received, summary.ended), (0, Ended::Shutdown));
    }
}
