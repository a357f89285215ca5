//! The worker keeps the order of each key: at concurrency, and across retries (G5, G9).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::{Concurrency, Context, RetryPolicy};

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::{Action, What};
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::work::{Log, Running, number, worker};

scenarios!("keys":
    one_at_a_time_and_in_order_for_each_key [9] [KeyedOrder];
    keys_do_not_wait_for_each_other [5, 9] [KeyedOrder];
    order_is_kept_across_retries [5, 9] [KeyOrderedRetry];
    other_keys_flow_while_one_retries [5, 9] [KeyIndependentRetry];
    attempts_are_counted_in_key_order_too [4, 9] [KeyOrderedRetry];
    a_dead_letter_lets_its_followers_go_on [7, 9] [KeyOrderedRetry, DeadLetters];
    without_a_key_order_there_is_no_promise_to_break [9] [KeyedOrder];
    sequential_means_one_at_a_time [9] [Groups];
);

/// Retries in memory are due by the worker's own clock: no tier of the broker is needed.
const HELD: Duration = Duration::from_millis(400);

async fn one_at_a_time_and_in_order_for_each_key(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..400).map(|n| lab.message(&topic, n).key(format!("k{}", n % 6)))).await?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (log, counters) = (Log::new(lab, &group), (Arc::clone(&now), Arc::clone(&most)));
    let handler = move |context: Context| {
        let (log, (now, most)) = (log.clone(), counters.clone());
        async move {
            log.begin(&context);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Uneven, so that a worker without lanes would mix them up.
            tokio::time::sleep(Duration::from_millis((number(context.message()) * 7 % 13) as u64)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let worker = mq_core::Worker::new(&broker, mq_core::Subscription::new(&topic, &group).prefetch(48));
    let running = Running::start(worker.concurrency(Concurrency::ByKey(8)).handle(handler));
    lab.until_ended(&group, Action::Ack, 400).await?;
    running.stop().await?;
    ensure!(most.load(Ordering::SeqCst) > 1, "six keys were handled one at a time");
    ensure!(most.load(Ordering::SeqCst) <= 8, "{} handlers ran at once", most.load(Ordering::SeqCst));
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn keys_do_not_wait_for_each_other(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    // m0 is slow; its key has followers, and so have others.
    let key = |n: usize| if n.is_multiple_of(5) { "slow".to_owned() } else { format!("k{}", n % 5) };
    lab.send_all(&producer, (0..40).map(|n| lab.message(&topic, n).key(key(n)))).await?;
    let log = Log::new(lab, &group);
    let slow = Duration::from_secs(2);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            if number(context.message()) == 0 {
                tokio::time::sleep(slow).await;
            }
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let worker = mq_core::Worker::new(&broker, mq_core::Subscription::new(&topic, &group).prefetch(64));
    let running = Running::start(worker.concurrency(Concurrency::ByKey(4)).handle(handler));
    lab.until_ended(&group, Action::Ack, 40).await?;
    running.stop().await?;
    let entries = lab.history().entries();
    let ended = entries.iter().find(|entry| &*entry.id == "m0" && entry.what == What::Finished).map(|entry| entry.at);
    let ended = ended.unwrap_or_default();
    let meanwhile = entries.iter().filter(|entry| entry.what == What::Finished && entry.at < ended).count();
    ensure_eq!(meanwhile, 32, "messages of other keys handled before the slow one had ended");
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn order_is_kept_across_retries(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..60).map(|n| lab.message(&topic, n).key(format!("k{}", n % 6)))).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let fails = number(context.message()).is_multiple_of(11) && context.attempt() < 3;
        let answer = if fails {
            Err(log.retry(&context, HELD))
        } else {
            log.done(&context);
            Ok(())
        };
        async move { answer }
    };
    let broker = lab.broker().await?;
    let policy = RetryPolicy::delays([HELD; 2]).keep_key_order();
    let worker = worker(&broker, &topic, &group).concurrency(Concurrency::ByKey(4)).retry(policy);
    let running = Running::start(worker.handle(handler));
    lab.until_ended(&group, Action::Ack, 60).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried, summary.dead_lettered), (60, 12, 0), "handled, retried, dead");
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn other_keys_flow_while_one_retries(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    let wait = Duration::from_secs(4);
    // More of the failing key than prefetch allows: what waits for it must not fill the window.
    let key = |n: usize| if n < 30 { "stuck".to_owned() } else { format!("k{}", n % 7) };
    lab.send_all(&producer, (0..130).map(|n| lab.message(&topic, n).key(key(n)))).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = if number(context.message()) == 0 && context.attempt() == 1 {
            Err(log.retry(&context, wait))
        } else {
            log.done(&context);
            Ok(())
        };
        async move { answer }
    };
    let broker = lab.broker().await?;
    let worker = mq_core::Worker::new(&broker, mq_core::Subscription::new(&topic, &group).prefetch(10));
    let policy = RetryPolicy::delays([wait]).keep_key_order();
    let running = Running::start(worker.concurrency(Concurrency::ByKey(4)).retry(policy).handle(handler));
    lab.until_ended(&group, Action::Ack, 130).await?;
    running.stop().await?;
    let entries = lab.history().entries();
    let begun = |id: &str| -> Vec<Duration> {
        entries.iter().filter(|entry| &*entry.id == id && entry.what == What::Started).map(|entry| entry.at).collect()
    };
    let stuck = begun("m0");
    let (Some(first), Some(again)) = (stuck.first(), stuck.get(1)) else {
        return Err(Failure::new("the failing message was not run twice"));
    };
    let others: Vec<Duration> = (30..130).filter_map(|n| begun(&format!("m{n}")).first().copied()).collect();
    let meanwhile = others.iter().filter(|at| *at > first && *at < again).count();
    // Some may have run before it: they are of other keys.
    let before = others.iter().filter(|at| *at <= first).count();
    ensure_eq!(meanwhile + before, 100, "messages of other keys begun before the retry was due");
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn attempts_are_counted_in_key_order_too(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    lab.send_all(&lab.producer().await?, (0..3).map(|n| lab.message(&topic, n).key("k"))).await?;
    let policy = || RetryPolicy::delays([HELD; 4]).keep_key_order();
    // The first worker fails twice and leaves while the message is held; the second must go on counting.
    let first = lab.fresh().await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = log.retry(&context, HELD);
        async move { Err::<(), _>(answer) }
    };
    let running = Running::start(worker(&first, &topic, &group).retry(policy()).handle(handler));
    lab.until_ended(&group, Action::Retry, 2).await?;
    running.stop().await?;
    first.close().await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).retry(policy()).handle(handler));
    lab.until_ended(&group, Action::Ack, 3).await?;
    running.stop().await?;
    let checker = Checker::new(&group).strictly_ordered();
    if lab.supports(Feature::DurableAttempts) {
        checker.judge(lab.history())
    } else {
        checker.any_attempt().judge(lab.history())
    }
}

async fn a_dead_letter_lets_its_followers_go_on(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    lab.send_all(&lab.producer().await?, (0..6).map(|n| lab.message(&topic, n).key("k"))).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        let answer = match (number(context.message()), context.attempt()) {
            (2, 1) => Err(log.retry(&context, HELD)),
            (2, _) => Err(log.last(&context)),
            _ => {
                log.done(&context);
                Ok(())
            }
        };
        async move { answer }
    };
    let broker = lab.broker().await?;
    let policy = RetryPolicy::delays([HELD]).keep_key_order();
    let running = Running::start(worker(&broker, &topic, &group).retry(policy).handle(handler));
    lab.until_ended(&group, Action::Ack, 5).await?;
    running.stop().await?;
    let letters = super::dead_letters::listed(lab, &topic, &group, 1).await?;
    super::dead_letters::whole(lab, &letters)?;
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn without_a_key_order_there_is_no_promise_to_break(lab: &Lab) -> Verdict {
    // Messages without a key in a group of keys: all handled, in any order, none lost for want of a lane.
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    let messages = (0..60).map(|n| {
        let message = lab.message(&topic, n);
        if n % 3 == 0 { message } else { message.key(format!("k{}", n % 4)) }
    });
    lab.send_all(&producer, messages).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).concurrency(Concurrency::ByKey(4)).handle(handler));
    lab.until_ended(&group, Action::Ack, 60).await?;
    running.stop().await?;
    Checker::new(&group).strictly_ordered().judge(lab.history())
}

async fn sequential_means_one_at_a_time(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 30).await?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (log, counters) = (Log::new(lab, &group), (Arc::clone(&now), Arc::clone(&most)));
    let handler = move |context: Context| {
        let (log, (now, most)) = (log.clone(), counters.clone());
        async move {
            log.begin(&context);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 30).await?;
    running.stop().await?;
    ensure_eq!(most.load(Ordering::SeqCst), 1, "handlers running at once");
    Checker::new(&group).judge(lab.history())
}
