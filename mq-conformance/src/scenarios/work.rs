//! The worker: every message is handled, once, by as many handlers as asked for (G2, G3, G5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq_core::capability::Feature;
use mq_core::handler::Batch;
use mq_core::{AckStrategy, Concurrency, Context, Ended, HandlerError, Json, Message, Subscription, Worker};

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::Action;
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::scenarios::admin::lag_when;
use crate::work::{Log, Running, number, worker};

scenarios!("work":
    everything_is_handled_once [2, 3] [Groups];
    concurrency_is_used_and_bounded [14] [Groups];
    acks_in_batches [2, 3] [Groups];
    acks_before_handling [2] [AutoAck];
    blocking_handlers_starve_nobody [11] [Groups];
    batches_are_settled_message_by_message [2] [Groups];
    several_topics_in_one_worker [2] [ManyTopics];
    a_broadcast_worker_handles_what_comes [2] [Broadcast];
    it_ends_at_the_number_asked_for [12] [Groups];
);

async fn everything_is_handled_once(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            tokio::task::yield_now().await;
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(8)).handle(handler));
    lab.send_many(&lab.producer().await?, &topic, 300).await?;
    lab.until_ended(&group, Action::Ack, 300).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.ended), (300, Ended::Shutdown), "what the worker says it did");
    ensure_eq!((summary.duplicates, summary.dead_lettered, summary.stale), (0, 0, 0), "and did not do");
    if lab.supports(Feature::Lag) {
        let lag = lag_when(lab, &topic, &group, |lag| lag.ready == 0).await?;
        ensure_eq!((lag.ready, lag.unsettled.unwrap_or(0)), (0, 0), "left at the broker after a clean stop");
    }
    Checker::new(&group).judge(lab.history())
}

async fn concurrency_is_used_and_bounded(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 40).await?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (log, counters) = (Log::new(lab, &group), (Arc::clone(&now), Arc::clone(&most)));
    let handler = move |context: Context| {
        let (log, (now, most)) = (log.clone(), counters.clone());
        async move {
            log.begin(&context);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(4)).handle(handler));
    lab.until_ended(&group, Action::Ack, 40).await?;
    running.stop().await?;
    ensure_eq!(most.load(Ordering::SeqCst), 4, "handlers running at once where 4 were asked for");
    Checker::new(&group).judge(lab.history())
}

async fn acks_in_batches(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 105).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let strategy = AckStrategy::Batched { max: 50, every: Duration::from_secs(5) };
    let running = Running::start(
        Worker::new(&broker, Subscription::new(&topic, &group).prefetch(120)).ack(strategy).handle(handler),
    );
    lab.until_ended(&group, Action::Ack, 105).await?;
    // The last five fill no batch: stopping must send them all the same.
    running.stop().await?;
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(crate::lab::QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn acks_before_handling(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            // Acknowledged at receipt: the failure loses it, as this strategy says.
            log.done(&context);
            if number(context.message()).is_multiple_of(2) { Err(HandlerError::retry("too late")) } else { Ok(()) }
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).ack(AckStrategy::Auto).handle(handler));
    lab.until_ended(&group, Action::Ack, 10).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.failed, summary.dead_lettered), (5, 5, 0), "handled, failed, dead");
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(crate::lab::QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn blocking_handlers_starve_nobody(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 8).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        std::thread::sleep(Duration::from_millis(400));
        log.done(&context);
    };
    let broker = lab.broker().await?;
    let began = Instant::now();
    let service = worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(8)).handle_blocking(handler);
    let running = Running::start(service);
    // The runtime must stay free for others while eight handlers block.
    let health = broker.health(Duration::from_secs(5)).await;
    ensure!(health.ready, "the broker does not answer while handlers block: {health:?}");
    lab.until_ended(&group, Action::Ack, 8).await?;
    let limit = Duration::from_millis(8 * 400) + lab.slack();
    ensure!(began.elapsed() < limit, "eight blocking handlers took {:?}, as if one at a time", began.elapsed());
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn batches_are_settled_message_by_message(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 30).await?;
    let log = Log::new(lab, &group);
    let handler = move |batch: Batch<Message>| {
        let log = log.clone();
        async move {
            let answer = |(message, context): (Message, Context)| {
                log.begin(&context);
                if number(&message) % 10 == 3 {
                    log.end(&context, Action::DeadLetter, None);
                    return Err(HandlerError::dead_letter("three"));
                }
                log.done(&context);
                Ok(())
            };
            batch.into_iter().map(answer).collect::<Vec<_>>()
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle_batch(8, handler));
    lab.until_ended(&group, Action::Ack, 27).await?;
    lab.until_ended(&group, Action::DeadLetter, 3).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.dead_lettered), (27, 3), "handled and dead");
    super::dead_letters::whole(lab, &super::dead_letters::listed(lab, &topic, &group, 3).await?)?;
    Checker::new(&group).judge(lab.history())
}

async fn several_topics_in_one_worker(lab: &Lab) -> Verdict {
    let (one, group) = lab.place().await?;
    let two = lab.topic("two").await?;
    lab.group(&two, "g").await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..20).map(|n| lab.message(if n % 2 == 0 { &one } else { &two }, n))).await?;
    let log = Log::new(lab, &group);
    let (first, second) = (one.clone(), two.clone());
    let handler = move |message: Message, context: Context| {
        let (log, right) =
            (log.clone(), if number(&message).is_multiple_of(2) { first.clone() } else { second.clone() });
        async move {
            log.begin(&context);
            if *message.topic() != right {
                log.end(&context, Action::DeadLetter, None);
                return Err(HandlerError::dead_letter("from another topic"));
            }
            log.done(&context);
            Ok(())
        }
    };
    let broker = lab.broker().await?;
    let subscription = Subscription::new(&one, &group).topic(&two);
    let running =
        Running::start(Worker::new(&broker, subscription).concurrency(Concurrency::Parallel(4)).handle(handler));
    lab.until_ended(&group, Action::Ack, 20).await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_broadcast_worker_handles_what_comes(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let handler = move |body: Json<u32>| {
        counter.fetch_add(body.0 as usize, Ordering::SeqCst);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(Worker::new(&broker, Subscription::broadcast(&topic)).handle(handler));
    let began = Instant::now();
    while seen.load(Ordering::SeqCst) == 0 {
        producer.send(Message::json(&topic, &1)?).await?;
        ensure!(began.elapsed() < lab.patience(), "a broadcast worker handled nothing in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let summary = running.stop().await?;
    ensure!(summary.handled >= 1, "it handled {summary:?}");
    Ok(())
}

async fn it_ends_at_the_number_asked_for(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let broker = lab.broker().await?;
    for (max, ended) in [(Some(4), Ended::Max), (None, Ended::Idle)] {
        let log = Log::new(lab, &group);
        let handler = move |context: Context| {
            log.begin(&context);
            log.done(&context);
            async {}
        };
        let worker = worker(&broker, &topic, &group);
        let worker = match max {
            Some(max) => worker.max_messages(max),
            None => worker.max_idle(Duration::from_secs(4)),
        };
        let summary = Running::start(worker.handle(handler)).end(lab.patience() * 2).await?;
        ensure_eq!(summary.ended, ended, "why it ended");
        let handled = max.unwrap_or(6);
        ensure_eq!(summary.handled, handled, "how many it handled");
    }
    Checker::new(&group).judge(lab.history()).map_err(|failure: Failure| failure.at("two workers, one after the other"))
}
