//! Messages that break their handlers end no worker and hold up nobody (G5, G8).

use std::time::{Duration, Instant};

use mq_core::capability::Feature;
use mq_core::dead_letter::DeadLetterReason;
use mq_core::{Concurrency, Context, Json, RetryPolicy, Text};

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::Action;
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::scenarios::dead_letters::{listed, record, whole};
use crate::work::{Log, Running, number, worker};

scenarios!("poison":
    what_cannot_be_decoded_is_kept_byte_for_byte [7, 8] [DeadLetters];
    poison_among_many_delays_nobody [5, 8] [NonBlockingRetry, DeadLetters];
    a_timeout_is_a_retry [4] [NonBlockingRetry];
    a_panic_is_an_unknown_error [8] [DeadLetters];
    a_message_that_kills_its_handlers_is_set_aside [4, 8] [RedeliveryCount, DeadLetters, Requeue];
);

async fn what_cannot_be_decoded_is_kept_byte_for_byte(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let messages = [
        lab.message(&topic, 0).body(vec![0xff, 0xfe, b'{', 0]).key("k").header("b", vec![0xc3, 0x28]),
        lab.message(&topic, 1).body("{\"unfinished\": "),
        lab.message(&topic, 2).body("7"),
    ];
    lab.send_all(&lab.producer().await?, messages).await?;
    let log = Log::new(lab, &group);
    let handler = move |_: Json<u64>, context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    let began = Instant::now();
    while running.handle.summary().dead_lettered < 2 {
        ensure!(began.elapsed() < lab.patience(), "two undecodable messages were not set aside in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried, summary.dead_lettered), (1, 0, 2), "handled, retried, dead");
    let letters = listed(lab, &topic, &group, 2).await?;
    whole(lab, &letters)?;
    for letter in &letters {
        let record = record(letter)?;
        ensure_eq!((record.reason, record.attempts), (DeadLetterReason::Decode, 1), "reason and attempts");
        ensure!(!record.error.is_empty() && !record.error.contains("unfinished"), "the error is `{}`", record.error);
    }
    Checker::new(&group).judge(lab.history())
}

async fn poison_among_many_delays_nobody(lab: &Lab) -> Verdict {
    const GOOD: usize = 300;
    let (topic, group) = lab.place().await?;
    // Long beside what the good ones take on a busy machine: who waits for the bad ones is seen by it.
    let wait = lab.delay(Feature::NonBlockingRetry).max(lab.slack());
    let messages = (0..GOOD + 2).map(|n| match n {
        100 => lab.message(&topic, n).body("always fails"),
        200 => lab.message(&topic, n).body(vec![0xff, 0xfe]),
        _ => lab.message(&topic, n).body("good"),
    });
    lab.send_all(&lab.producer().await?, messages).await?;
    let log = Log::new(lab, &group);
    let handler = move |body: Text, context: Context| {
        log.begin(&context);
        let answer = match (body.0.as_str(), context.attempt()) {
            ("good", _) => {
                log.done(&context);
                Ok(())
            }
            (_, 1..=2) => Err(log.retry(&context, wait)),
            _ => Err(log.last(&context)),
        };
        async move { answer }
    };
    let broker = lab.broker().await?;
    let worker = worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(4));
    let running = Running::start(worker.retry(RetryPolicy::delays([wait; 2])).handle(handler));
    lab.until_ended(&group, Action::Ack, GOOD).await?;
    let lines = lab.history().entries();
    let first = lines.iter().find(|entry| matches!(entry.what, crate::What::Started)).map(|entry| entry.at);
    let took = lab.history().now().saturating_sub(first.unwrap_or_default());
    ensure!(took < wait * 2 + lab.slack(), "{GOOD} good messages took {took:?} beside two bad ones");
    lab.until_ended(&group, Action::DeadLetter, 1).await?;
    running.stop().await?;
    let letters = listed(lab, &topic, &group, 2).await?;
    whole(lab, &letters)?;
    Checker::new(&group).judge(lab.history())
}

async fn a_timeout_is_a_retry(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let (log, wait) = (Log::new(lab, &group), lab.delay(Feature::NonBlockingRetry));
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            if context.attempt() == 1 {
                // What the worker will record; the handler itself never comes back.
                log.end(&context, Action::Retry, Some(wait));
                std::future::pending::<()>().await;
            }
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let worker = worker(&broker, &topic, &group).timeout(Duration::from_millis(300));
    let running = Running::start(worker.retry(RetryPolicy::delays([wait])).handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried), (1, 1), "handled and retried");
    Checker::new(&group).judge(lab.history())
}

async fn a_panic_is_an_unknown_error(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 4).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            if number(context.message()) == 1 {
                log.end(&context, Action::DeadLetter, None);
                // Without the hook: the message of a panic on purpose would only frighten whoever reads the output.
                std::panic::resume_unwind(Box::new("a panic on purpose"));
            }
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 3).await?;
    lab.until_ended(&group, Action::DeadLetter, 1).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.dead_lettered), (3, 1), "handled and dead: the worker goes on");
    for letter in listed(lab, &topic, &group, 1).await? {
        let record = record(&letter)?;
        ensure_eq!(record.reason, DeadLetterReason::Unknown, "the reason");
        ensure!(record.error.contains("panic"), "the error is `{}`", record.error);
    }
    Checker::new(&group).judge(lab.history())
}

async fn a_message_that_kills_its_handlers_is_set_aside(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    // Delivered and given back again and again, as by a consumer that dies over it.
    for _ in 0..5 {
        let delivery = reader.next().await?;
        reader.requeue(delivery).await?;
    }
    reader.close().await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).crash_limit(3).handle(handler));
    let began = Instant::now();
    while running.handle.summary().dead_lettered == 0 {
        ensure!(running.handle.summary().handled == 0, "a message beyond the crash limit was run");
        ensure!(began.elapsed() < lab.patience(), "a message beyond the crash limit was not set aside in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await?;
    let letters = listed(lab, &topic, &group, 1).await?;
    whole(lab, &letters)?;
    let letter = letters.first().ok_or_else(|| Failure::new("one dead letter"))?;
    ensure_eq!(record(letter)?.reason, DeadLetterReason::CrashLimit, "the reason");
    Ok(())
}
