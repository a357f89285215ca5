//! The guard keeps duplicates from the handler, and never a message that was not handled (G10).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq_core::capability::Feature;
use mq_core::error::ErrorKind;
use mq_core::guard::Guard;
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::{Broker, Concurrency, Context, HandlerError, MemoryGuard, MessageId, RetryPolicy, Worker};

use crate::checker::Checker;
use crate::failure::{Verdict, ensure, ensure_eq};
use crate::history::Action;
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::scenarios::dead_letters::{listed, redrive};
use crate::scenarios::doubles::{BusyElsewhere, Down, LosesAnAck};
use crate::spoil::Spoilt;
use crate::work::{Log, Running, worker};

scenarios!("guard":
    a_duplicate_is_not_run_again [10] [Groups];
    a_failure_releases_the_claim [4, 10] [NonBlockingRetry];
    in_progress_elsewhere_defers_without_an_attempt [4, 10] [NonBlockingRetry];
    two_copies_at_once_run_once [10] [NonBlockingRetry];
    a_store_that_is_down_pauses [10, 14] [DeadLetters];
    a_redriven_message_runs_exactly_once [7, 10] [DeadLetters];
    each_group_has_its_own_memory [10] [Groups];
    handled_but_the_ack_was_lost [3, 10] [RedeliveryCount, Requeue];
    without_ids_a_guard_is_refused_at_start [10, 15] [];
);

fn id(message: &Message) -> Option<MessageId> {
    message.message_id().cloned()
}

/// A worker with a guard that every broker accepts: where positions do not last, the id must be taken from the message.
fn guarded(broker: &Broker, topic: &Topic, group: &Group, guard: &Arc<dyn Guard>) -> Worker {
    worker(broker, topic, group).id_extractor(id).idempotency_shared(Arc::clone(guard))
}

fn memory() -> Arc<dyn Guard> {
    Arc::new(MemoryGuard::new())
}

/// Waits until the worker has done with `count` messages, run or not.
async fn until_settled(lab: &Lab, running: &Running, count: u64) -> Verdict {
    let began = Instant::now();
    loop {
        let summary = running.handle.summary();
        if summary.handled + summary.duplicates + summary.dead_lettered >= count {
            return Ok(());
        }
        ensure!(began.elapsed() < lab.patience() * 2, "{count} messages were not done with in time: {summary:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_duplicate_is_not_run_again(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    // The same id again and again, as a sender does that never got its confirmation.
    for _ in 0..3 {
        for number in 0..5 {
            producer.send(lab.message(&topic, number)).await?;
        }
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let handler = move |_: Context| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    };
    let (broker, guard) = (lab.broker().await?, memory());
    let running = Running::start(guarded(&broker, &topic, &group, &guard).handle(handler));
    until_settled(lab, &running, 15).await?;
    let summary = running.stop().await?;
    ensure_eq!(
        (runs.load(Ordering::SeqCst), summary.handled, summary.duplicates),
        (5, 5, 10),
        "runs, handled, duplicates"
    );
    // Acknowledged, not merely kept from the handler.
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(crate::lab::QUIET).await?;
    later.close().await
}

async fn a_failure_releases_the_claim(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let (log, wait) = (Log::new(lab, &group), lab.delay(Feature::NonBlockingRetry));
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = if context.attempt() < 3 {
            Err(log.retry(&context, wait))
        } else {
            log.done(&context);
            Ok(())
        };
        async move { answer }
    };
    let (broker, guard) = (lab.broker().await?, memory());
    let worker = guarded(&broker, &topic, &group, &guard).retry(RetryPolicy::delays([wait; 2]));
    let running = Running::start(worker.handle(handler));
    lab.until_ended(&group, Action::Ack, 3).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.duplicates, summary.deferred), (3, 0, 0), "handled, duplicates, deferred");
    Checker::new(&group).judge(lab.history())
}

async fn in_progress_elsewhere_defers_without_an_attempt(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let guard: Arc<dyn Guard> =
        Arc::new(BusyElsewhere { inner: MemoryGuard::new(), claims: AtomicUsize::new(0), busy: 3 });
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let wait = lab.delay(Feature::NonBlockingRetry);
    // One retry in all: three deferrals would exhaust it if they counted.
    let worker = guarded(&broker, &topic, &group, &guard).retry(RetryPolicy::delays([wait]));
    let running = Running::start(worker.handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    let summary = running.stop().await?;
    ensure!(summary.deferred >= 1, "the worker does not say that it deferred: {summary:?}");
    ensure_eq!((summary.handled, summary.retried, summary.dead_lettered), (1, 0, 0), "handled, retried, dead");
    // The checker sees that the attempt is still 1.
    Checker::new(&group).judge(lab.history())
}

async fn two_copies_at_once_run_once(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    for _ in 0..2 {
        producer.send(lab.message(&topic, 0)).await?;
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let handler = move |_: Context| {
        counter.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(700))
    };
    let (broker, guard) = (lab.broker().await?, memory());
    let wait = lab.delay(Feature::NonBlockingRetry);
    let worker = guarded(&broker, &topic, &group, &guard).retry(RetryPolicy::delays([wait]));
    let running = Running::start(worker.concurrency(Concurrency::Parallel(2)).handle(handler));
    until_settled(lab, &running, 2).await?;
    let summary = running.stop().await?;
    ensure_eq!(
        (runs.load(Ordering::SeqCst), summary.handled, summary.duplicates),
        (1, 1, 1),
        "runs, handled, duplicates"
    );
    Ok(())
}

async fn a_store_that_is_down_pauses(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let back = Instant::now() + Duration::from_secs(2);
    let guard: Arc<dyn Guard> = Arc::new(Down { inner: MemoryGuard::new(), until: back });
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let early = Instant::now() < back;
        if early {
            log.end(&context, Action::DeadLetter, None);
            return futures_util::future::ready(Err(HandlerError::dead_letter("run while the guard was down")));
        }
        log.done(&context);
        futures_util::future::ready(Ok(()))
    };
    let broker = lab.broker().await?;
    let running = Running::start(guarded(&broker, &topic, &group, &guard).handle(handler));
    lab.until_ended(&group, Action::Ack, 5).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried, summary.dead_lettered), (5, 0, 0), "handled, retried, dead");
    listed(lab, &topic, &group, 0).await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_redriven_message_runs_exactly_once(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let (broker, guard) = (lab.broker().await?, memory());
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = if context.control().redrives == 0 {
            log.end(&context, Action::DeadLetter, None);
            Err(HandlerError::dead_letter("not this time"))
        } else {
            log.done(&context);
            Ok(())
        };
        async move { answer }
    };
    let running = Running::start(guarded(&broker, &topic, &group, &guard).handle(handler));
    lab.until_ended(&group, Action::DeadLetter, 3).await?;
    let began = Instant::now();
    while running.handle.summary().dead_lettered < 3 {
        ensure!(began.elapsed() < lab.patience(), "three dead letters were not confirmed in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    listed(lab, &topic, &group, 3).await?;
    redrive(lab, &topic, &group, 3).await?;
    lab.until_ended(&group, Action::Ack, 3).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.duplicates), (3, 0), "handled and duplicates");
    Checker::new(&group).judge(lab.history())
}

async fn each_group_has_its_own_memory(lab: &Lab) -> Verdict {
    let (topic, one) = lab.place().await?;
    let two = lab.group(&topic, "two").await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let (broker, guard) = (lab.broker().await?, memory());
    for group in [&one, &two] {
        let log = Log::new(lab, group);
        let handler = move |context: Context| {
            log.begin(&context);
            log.done(&context);
            async {}
        };
        let running = Running::start(guarded(&broker, &topic, group, &guard).handle(handler));
        lab.until_ended(group, Action::Ack, 5).await?;
        running.stop().await?;
        Checker::new(group).judge(lab.history())?;
    }
    Ok(())
}

async fn handled_but_the_ack_was_lost(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let handler = move |_: Context| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    };
    let sound = lab.fresh().await?;
    let broker = Broker::from_driver(Spoilt::around(Arc::clone(sound.driver()), Arc::new(LosesAnAck::default())));
    // Without any guard: the worker itself remembers what it handled.
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    until_settled(lab, &running, 6).await?;
    let summary = running.stop().await?;
    ensure_eq!((runs.load(Ordering::SeqCst), summary.duplicates), (3, 3), "runs, and redeliveries acknowledged unrun");
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(crate::lab::QUIET).await?;
    later.close().await
}

async fn without_ids_a_guard_is_refused_at_start(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let service = worker(&broker, &topic, &group).idempotency(MemoryGuard::new()).handle(|| async {});
    let outcome = service.run_until(async {}).await;
    if lab.supports(Feature::StablePosition) {
        outcome?;
        return Ok(());
    }
    let error = outcome.err().ok_or_else(|| crate::failure::Failure::new("a guard without ids was accepted"))?;
    ensure_eq!(error.kind(), ErrorKind::Unsupported, "the refusal: {error}");
    ensure!(error.hint().is_some_and(|hint| hint.contains("id_extractor")), "no way out is named: {error}");
    Ok(())
}
