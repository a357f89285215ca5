//! What becomes of a message by its handler's answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::bench::Running;
use super::{Bench, Log, S};
use crate::dead_letter::DeadLetterReason;
use crate::memory::SettledHow;
use crate::*;

#[tokio::test(start_paused = true)]
async fn success_acks_each_message_once_and_in_order() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["a", "b", "c"]).await;
    let handled = log.clone();
    let service = bench.worker().handle(move |Text(body): Text, context: Context| {
        handled.note(format!("{body}{}", context.attempt()));
        async {}
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["a1", "b1", "c1"]);
    assert_eq!(bench.settled(SettledHow::Ack), 3);
    assert_eq!((summary.received, summary.handled, summary.ended), (3, 3, Ended::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn retries_come_late_never_early_then_the_dead_letter_is_whole() {
    let (bench, log) = (Bench::new().await, Log::new());
    let message = Message::new("t").unwrap().key("k").body("poison").header("h", "1").header("h", "2").id("order-7");
    bench.producer.send(message).await.unwrap();
    let handled = log.clone();
    let service = bench.worker().handle(move |context: Context| {
        handled.note(format!("{}", context.attempt()));
        async { Err::<(), _>(HandlerError::retry("the bank is closed")) }
    });
    let running = Running::start(service);
    bench.memory.until(S(600), |_| !bench.dead().is_empty()).await.unwrap();
    let summary = running.stop().await;
    let times = log.times();
    assert_eq!(log.all(), ["1", "2", "3", "4"]);
    for (pair, delay) in times.windows(2).zip([1, 5, 30].map(S)) {
        let waited = pair[1].0 - pair[0].0;
        assert!(waited >= delay && waited < delay + Duration::from_millis(200), "{waited:?} for {delay:?}");
    }
    let dead = bench.dead().remove(0);
    let record = dead.record.unwrap();
    assert_eq!((record.reason, record.attempts), (DeadLetterReason::MaxAttempts, 4));
    assert_eq!(record.error, "the bank is closed");
    assert!(record.failed.duration_since(record.first_failed.unwrap()).unwrap() >= S(36));
    assert_eq!(dead.message.body_bytes().unwrap(), "poison");
    assert_eq!(dead.message.key_bytes().unwrap(), "k");
    assert_eq!(dead.message.headers().get_all("h").count(), 2);
    assert_eq!(dead.message.message_id().unwrap().as_str(), "order-7");
    assert_eq!((summary.retried, summary.dead_lettered, summary.handled), (3, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn others_flow_while_one_waits_for_its_retry() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["bad", "good"]).await;
    let handled = log.clone();
    let service = bench.worker().handle(move |Text(body): Text, context: Context| {
        handled.note(body.clone());
        async move { if body == "bad" && context.attempt() == 1 { Err(HandlerError::retry("x")) } else { Ok(()) } }
    });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["bad", "good", "bad"]);
    assert!(log.times()[1].0 < Duration::from_millis(100), "it did not wait for the retry");
}

#[tokio::test(start_paused = true)]
async fn each_answer_has_its_place_and_a_panic_ends_nothing() {
    let bench = Bench::new().await;
    bench.send(["reject", "refuse", "unknown", "panic", "panic-later", "not json", "1"]).await;
    let service = bench.worker().handle(|Text(body): Text| async move {
        match body.as_str() {
            "reject" => Err(HandlerError::dead_letter("hopeless")),
            "refuse" => Err(HandlerError::discard("no")),
            "unknown" => Err(std::io::Error::other("odd").into()),
            "panic" => panic!("boom"),
            "panic-later" => {
                tokio::task::yield_now().await;
                panic!("boom {}", 2)
            }
            "not json" => Err(HandlerError::Decode(Error::new(ErrorKind::Codec, "not JSON"))),
            _ => Ok(()),
        }
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.discarded, summary.dead_lettered), (1, 1, 5));
    let dead: Vec<_> =
        bench.dead().into_iter().map(|dead| dead.record.map(|record| (record.reason, record.error)).unwrap()).collect();
    let reasons: Vec<_> = dead.iter().map(|(reason, _)| *reason).collect();
    use DeadLetterReason::{Decode, Rejected, Unknown};
    assert_eq!(reasons, [Rejected, Unknown, Unknown, Unknown, Decode]);
    assert!(dead[2].1.contains("boom") && dead[3].1.contains("boom 2"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_goes_aside_byte_for_byte() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["{", "7"]).await;
    let handled = log.clone();
    let service = bench.worker().handle(move |Json(number): Json<u32>| {
        handled.note(format!("{number}"));
        async {}
    });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["7"]);
    let dead = bench.dead().remove(0);
    assert_eq!(dead.message.body_bytes().unwrap(), "{");
    let record = dead.record.unwrap();
    assert_eq!((record.reason, record.attempts), (DeadLetterReason::Decode, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_over_its_time_is_dropped_and_tried_again() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["slow"]).await;
    let handled = log.clone();
    let service = bench.worker().timeout(S(2)).handle(move |context: Context| {
        let log = handled.clone();
        async move {
            let left = context.deadline().unwrap() - tokio::time::Instant::now();
            log.note(format!("{} {}", context.attempt(), left.as_secs()));
            if context.attempt() == 1 {
                tokio::time::sleep(S(3600)).await;
                log.note("never");
            }
        }
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["1 2", "2 2"]);
    let waited = log.times()[1].0;
    assert!(waited >= S(3) && waited < S(4), "2 s of time and 1 s of delay: {waited:?}");
    assert_eq!((summary.retried, summary.handled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn errors_are_classified_by_the_hook_then_by_on_unknown() {
    for (on_unknown, hook, handled, dead) in [
        (OnUnknown::Retry, Class::Unknown, 1, 0),
        (OnUnknown::DeadLetter, Class::Unknown, 0, 1),
        (OnUnknown::DeadLetter, Class::Retry, 1, 0),
        (OnUnknown::Retry, Class::DeadLetter, 0, 1),
    ] {
        let bench = Bench::new().await;
        bench.send(["x"]).await;
        let service = bench
            .worker()
            .on_unknown(on_unknown)
            .classify(move |_: &(dyn std::error::Error + Send + Sync + 'static)| hook)
            .handle(|context: Context| async move {
                if context.attempt() == 1 { Err(std::io::Error::other("odd")) } else { Ok(()) }
            });
        let running = Running::start(service);
        bench.idle().await;
        let summary = running.stop().await;
        assert_eq!((summary.handled, summary.dead_lettered), (handled, dead), "{on_unknown:?} {hook:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn follow_ups_are_stored_before_the_ack_and_only_then() {
    let bench = Bench::new().await;
    bench.memory.declare_topic("next").unwrap();
    let traced = Message::new("t").unwrap().body("ok").header("traceparent", "00-1-2-01");
    bench.producer.send(traced).await.unwrap();
    bench.send(["fails"]).await;
    let memory = bench.memory.clone();
    let sent_at_ack = Arc::new(AtomicU32::new(u32::MAX));
    let seen = Arc::clone(&sent_at_ack);
    let broker = bench.faulty(move |settlement| {
        if matches!(settlement.action, driver::Settle::Ack) {
            seen.store(memory.sent("next").unwrap().len() as u32, Ordering::SeqCst);
        }
        None
    });
    let service = Worker::new(&broker, Subscription::new("t", "g")).retry(RetryPolicy::never()).handle(
        |Text(body): Text, context: Context| async move {
            context.send(Message::new("next")?.body(body.clone()))?;
            if body == "ok" { Ok(()) } else { Err(HandlerError::dead_letter("no")) }
        },
    );
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    let next = bench.memory.sent("next").unwrap();
    assert_eq!(next.len(), 1, "a failed handler's follow-ups are dropped");
    assert_eq!(next[0].body_bytes().unwrap(), "ok");
    assert_eq!(next[0].headers().get_str("traceparent"), Some("00-1-2-01"));
    assert_eq!(sent_at_ack.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_that_cannot_be_sent_is_a_retry() {
    let bench = Bench::new().await;
    bench.memory.declare_topic("next").unwrap();
    bench.send(["x"]).await;
    let memory = bench.memory.clone();
    let service = bench.worker().handle(move |context: Context| {
        if context.attempt() == 1 {
            memory.faults().fail_sends([crate::memory::SendFault::Refused]);
        }
        async move { context.send(Message::new("next").unwrap()) }
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.retried, summary.handled), (1, 1));
    assert_eq!(bench.memory.sent("next").unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_hook_sees_each_dead_letter_after_it_is_stored() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["x", "y"]).await;
    let (hooked, memory) = (log.clone(), bench.memory.clone());
    let service = bench
        .worker()
        .on_dead_letter(move |letter| {
            let stored = memory.dead_letters("t", "g").unwrap().len();
            hooked.note(format!("{} {}", stored > 0, letter.record.unwrap().reason));
            async { panic!("a hook's panic ends nothing") }
        })
        .handle(|| async { Err::<(), _>(HandlerError::dead_letter("no")) });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["true rejected", "true rejected"]);
    assert_eq!(summary.dead_lettered, 2);
}
