//! How the worker answers failures: retry, dead letter, discard, unknown; and poison that holds up nobody (G4, G5, G8).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::dead_letter::DeadLetterReason;
use mq_core::handler::{Class, OnUnknown};
use mq_core::{Concurrency, Context, HandlerError, RetryPolicy};

use crate::checker::Checker;
use crate::failure::{Verdict, ensure, ensure_eq};
use crate::history::Action;
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::dead_letters::{listed, record, whole};
use crate::work::{Log, Running, number, worker};

scenarios!("failures":
    an_always_failing_message_becomes_a_whole_dead_letter [4, 7] [NonBlockingRetry, DeadLetters];
    a_message_that_fails_twice_is_handled_at_the_third_attempt [4, 6] [NonBlockingRetry];
    attempts_go_on_in_another_worker [4] [NonBlockingRetry, DurableAttempts];
    hopeless_goes_to_the_dead_letters_at_once [7] [DeadLetters];
    a_discarded_message_is_done [2] [Groups];
    an_unknown_error_is_a_dead_letter_or_a_retry [8] [NonBlockingRetry, DeadLetters];
    a_hook_classifies_errors [8] [NonBlockingRetry, DeadLetters];
    the_dead_letter_hook_sees_the_letter [7] [DeadLetters];
    retry_after_is_rounded_up_to_a_tier [6] [NonBlockingRetry];
);

fn delay(lab: &Lab) -> Duration {
    lab.delay(Feature::NonBlockingRetry)
}

async fn an_always_failing_message_becomes_a_whole_dead_letter(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let message = lab.message(&topic, 0).key([7, 0xff]).body(vec![0, 0xff, 1]).header("b", vec![0xfe, 0]);
    lab.send(&lab.producer().await?, message).await?;
    let (log, wait) = (Log::new(lab, &group), delay(lab));
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = if context.attempt() < 3 { log.retry(&context, wait) } else { log.last(&context) };
        async move { Err::<(), _>(answer) }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).retry(RetryPolicy::delays([wait; 2])).handle(handler));
    lab.until_ended(&group, Action::DeadLetter, 1).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.retried, summary.dead_lettered, summary.handled), (2, 1, 0), "retried, dead, handled");
    let letters = listed(lab, &topic, &group, 1).await?;
    whole(lab, &letters)?;
    for letter in &letters {
        let record = record(letter)?;
        ensure_eq!(record.reason, DeadLetterReason::MaxAttempts, "the reason");
        ensure_eq!(record.attempts, 3, "the attempts");
        ensure_eq!(record.error, "never", "the last error");
        ensure_eq!((&record.topic, &record.group), (&topic, &group), "where it failed");
    }
    Checker::new(&group).judge(lab.history())
}

async fn a_message_that_fails_twice_is_handled_at_the_third_attempt(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 20).await?;
    let (log, wait) = (Log::new(lab, &group), delay(lab));
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
    let broker = lab.broker().await?;
    let worker = worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(8));
    let running = Running::start(worker.retry(RetryPolicy::delays([wait; 2])).handle(handler));
    lab.until_ended(&group, Action::Ack, 20).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried, summary.dead_lettered), (20, 40, 0), "handled, retried, dead");
    Checker::new(&group).judge(lab.history())
}

async fn attempts_go_on_in_another_worker(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let wait = delay(lab);
    for attempt in 1..=3_u32 {
        let broker = lab.fresh().await?;
        let log = Log::new(lab, &group);
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
        let worker = worker(&broker, &topic, &group).retry(RetryPolicy::delays([wait; 2])).max_messages(1);
        let summary = Running::start(worker.handle(handler)).end(lab.patience() * 2).await?;
        ensure_eq!(summary.received, 1, "messages the worker of attempt {attempt} received");
        broker.close().await?;
    }
    Checker::new(&group).judge(lab.history())
}

async fn hopeless_goes_to_the_dead_letters_at_once(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.end(&context, Action::DeadLetter, None);
        async { Err::<(), _>(HandlerError::dead_letter("no such customer")) }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::DeadLetter, 5).await?;
    running.stop().await?;
    let letters = listed(lab, &topic, &group, 5).await?;
    whole(lab, &letters)?;
    for letter in &letters {
        let record = record(letter)?;
        ensure_eq!((record.reason, record.attempts), (DeadLetterReason::Rejected, 1), "reason and attempts");
        ensure!(record.error.contains("no such customer"), "the error is `{}`", record.error);
    }
    Checker::new(&group).judge(lab.history())
}

async fn a_discarded_message_is_done(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async { Err::<(), _>(HandlerError::discard("out of stock")) }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 5).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.discarded, summary.retried, summary.dead_lettered), (5, 0, 0), "discarded, retried, dead");
    if lab.supports(Feature::DeadLetters) {
        listed(lab, &topic, &group, 0).await?;
    }
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(crate::lab::QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_unknown_error_is_a_dead_letter_or_a_retry(lab: &Lab) -> Verdict {
    let wait = delay(lab);
    for (suffix, on_unknown) in [("dead", OnUnknown::DeadLetter), ("retry", OnUnknown::Retry)] {
        let topic = lab.topic(suffix).await?;
        let group = lab.group(&topic, suffix).await?;
        lab.send(&lab.producer().await?, lab.message(&topic, 0).id(format!("m-{suffix}"))).await?;
        let log = Log::new(lab, &group);
        let dead = on_unknown == OnUnknown::DeadLetter;
        let handler = move |context: Context| {
            log.begin(&context);
            let answer = match (dead, context.attempt()) {
                (true, _) => {
                    log.end(&context, Action::DeadLetter, None);
                    Err(std::io::Error::other("the disk is gone"))
                }
                (false, 1) => {
                    log.end(&context, Action::Retry, Some(wait));
                    Err(std::io::Error::other("the disk is gone"))
                }
                (false, _) => {
                    log.done(&context);
                    Ok(())
                }
            };
            async move { answer }
        };
        let broker = lab.broker().await?;
        let worker = worker(&broker, &topic, &group).retry(RetryPolicy::delays([wait])).on_unknown(on_unknown);
        let running = Running::start(worker.handle(handler));
        lab.until_ended(&group, if dead { Action::DeadLetter } else { Action::Ack }, 1).await?;
        running.stop().await?;
        for letter in listed(lab, &topic, &group, usize::from(dead)).await? {
            ensure_eq!(record(&letter)?.reason, DeadLetterReason::Unknown, "the reason");
        }
    }
    Ok(())
}

async fn a_hook_classifies_errors(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let (log, wait) = (Log::new(lab, &group), delay(lab));
    let handler = move |context: Context| {
        log.begin(&context);
        let (kind, action, due) = match (number(context.message()), context.attempt()) {
            (0, 1) => (Some(std::io::ErrorKind::TimedOut), Action::Retry, Some(wait)),
            (1, _) => (Some(std::io::ErrorKind::InvalidData), Action::DeadLetter, None),
            (2, _) => (Some(std::io::ErrorKind::AlreadyExists), Action::Ack, None),
            _ => (None, Action::Ack, None),
        };
        log.end(&context, action, due);
        async move { kind.map_or(Ok(()), |kind| Err(std::io::Error::from(kind))) }
    };
    let classify = |error: &(dyn std::error::Error + Send + Sync + 'static)| match error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
    {
        Some(std::io::ErrorKind::TimedOut) => Class::Retry,
        Some(std::io::ErrorKind::AlreadyExists) => Class::Discard,
        _ => Class::DeadLetter,
    };
    let broker = lab.broker().await?;
    let worker = worker(&broker, &topic, &group).retry(RetryPolicy::delays([wait])).classify(classify);
    let running = Running::start(worker.handle(handler));
    lab.until_ended(&group, Action::Ack, 2).await?;
    lab.until_ended(&group, Action::DeadLetter, 1).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.discarded, summary.dead_lettered), (1, 1, 1), "handled, discarded, dead");
    listed(lab, &topic, &group, 1).await?;
    Checker::new(&group).judge(lab.history())
}

async fn the_dead_letter_hook_sees_the_letter(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, hooked) = (Log::new(lab, &group), Arc::clone(&seen));
    let handler = move |context: Context| {
        log.begin(&context);
        log.end(&context, Action::DeadLetter, None);
        async { Err::<(), _>(HandlerError::dead_letter("no")) }
    };
    let hook = move |letter: mq_core::dead_letter::DeadLetter| {
        let reason = letter.record.as_ref().map(|record| record.reason);
        hooked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((ident(&letter.message), reason));
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).on_dead_letter(hook).handle(handler));
    lab.until_ended(&group, Action::DeadLetter, 3).await?;
    running.stop().await?;
    listed(lab, &topic, &group, 3).await?;
    let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    seen.sort_by(|left, right| left.0.cmp(&right.0));
    let expected: Vec<_> = (0..3).map(|n| (format!("m{n}"), Some(DeadLetterReason::Rejected))).collect();
    ensure_eq!(seen, expected, "the letters the hook saw");
    Checker::new(&group).judge(lab.history())
}

async fn retry_after_is_rounded_up_to_a_tier(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let (short, long) = (delay(lab), delay(lab) * 4);
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = if context.attempt() == 1 {
            // Between the tiers: the longer one must be taken.
            log.end(&context, Action::Retry, Some(long));
            Err(HandlerError::retry_after(short + Duration::from_millis(1), "busy"))
        } else {
            log.done(&context);
            Ok(())
        };
        async move { answer }
    };
    let broker = lab.broker().await?;
    let running =
        Running::start(worker(&broker, &topic, &group).retry(RetryPolicy::delays([short, long])).handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}
