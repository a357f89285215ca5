//! What a handler sends goes out when it succeeds, before the ack, and carries the trace (G1, G2).

use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::{Concurrency, Context, HandlerError, Message, RetryPolicy};

use crate::checker::Checker;
use crate::failure::{Verdict, ensure_eq};
use crate::history::Action;
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::work::{Log, Running, number, worker};

scenarios!("follow_ups":
    follow_ups_are_stored_before_the_ack [1, 2] [Groups];
    follow_ups_of_a_failure_are_not_sent [2] [NonBlockingRetry];
    a_follow_up_that_cannot_be_sent_is_a_retry [1, 2] [NonBlockingRetry];
    the_trace_travels [5] [Headers, NonBlockingRetry];
);

async fn follow_ups_are_stored_before_the_ack(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    lab.send_many(&lab.producer().await?, &topic, 20).await?;
    let (log, to) = (Log::new(lab, &group), next.clone());
    let handler = move |message: Message, context: Context| {
        let (log, to) = (log.clone(), to.clone());
        async move {
            log.begin(&context);
            let follow_up = Message::to(to).id(format!("after-{}", number(&message))).body("next");
            context.send(follow_up)?;
            log.done(&context);
            Ok::<_, HandlerError>(())
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(4)).handle(handler));
    lab.until_ended(&group, Action::Ack, 20).await?;
    let summary = running.stop().await?;
    ensure_eq!(summary.handled, 20, "handled");
    let mut reader = lab.reader(&next, &next_group).await?;
    let mut ids = std::collections::HashSet::new();
    for delivery in reader.take(10).await? {
        ids.insert(delivery.id());
        drop(delivery.ack());
    }
    for delivery in reader.take(10).await? {
        ids.insert(delivery.id());
        drop(delivery.ack());
    }
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    ensure_eq!(ids.len(), 20, "different follow-ups");
    Checker::new(&group).judge(lab.history())
}

async fn follow_ups_of_a_failure_are_not_sent(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let delay = lab.delay(Feature::NonBlockingRetry);
    let (log, to) = (Log::new(lab, &group), next.clone());
    let handler = move |context: Context| {
        let (log, to) = (log.clone(), to.clone());
        async move {
            log.begin(&context);
            context.send(Message::to(to).body(format!("attempt {}", context.attempt())))?;
            if context.attempt() < 3 {
                return Err(log.retry(&context, delay));
            }
            log.done(&context);
            Ok(())
        }
    };
    let broker = lab.broker().await?;
    let running =
        Running::start(worker(&broker, &topic, &group).retry(RetryPolicy::delays([delay; 2])).handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    running.stop().await?;
    let mut reader = lab.reader(&next, &next_group).await?;
    let got = reader.next().await?;
    ensure_eq!(got.message().body_bytes().map(|body| body.to_vec()), Some(b"attempt 3".to_vec()), "the follow-up");
    got.ack().await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_follow_up_that_cannot_be_sent_is_a_retry(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let later = lab.name("later");
    let nowhere = mq_core::Topic::parse(later)?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let delay = lab.delay(Feature::NonBlockingRetry);
    let (log, to) = (Log::new(lab, &group), nowhere.clone());
    let handler = move |context: Context| {
        let (log, to) = (log.clone(), to.clone());
        async move {
            log.begin(&context);
            let last = context.attempt() == 3;
            if !last {
                context.send(Message::to(to).body("to nobody"))?;
            }
            let (action, due) = if last { (Action::Ack, None) } else { (Action::Retry, Some(delay)) };
            log.end(&context, action, due);
            Ok::<_, HandlerError>(())
        }
    };
    let broker = lab.broker().await?;
    let running =
        Running::start(worker(&broker, &topic, &group).retry(RetryPolicy::delays([delay; 3])).handle(handler));
    lab.until_ended(&group, Action::Ack, 1).await?;
    let summary = running.stop().await?;
    ensure_eq!((summary.handled, summary.retried), (1, 2), "handled and retried");
    Checker::new(&group).judge(lab.history())
}

async fn the_trace_travels(lab: &Lab) -> Verdict {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    lab.send(&lab.producer().await?, lab.message(&topic, 0).header("traceparent", TRACE)).await?;
    let delay = lab.delay(Feature::NonBlockingRetry);
    let (log, to) = (Log::new(lab, &group), next.clone());
    let handler = move |context: Context| {
        let (log, to) = (log.clone(), to.clone());
        async move {
            log.begin(&context);
            if context.attempt() == 1 {
                return Err(log.retry(&context, delay));
            }
            if context.traceparent() != Some(TRACE) {
                log.end(&context, Action::DeadLetter, None);
                return Err(HandlerError::dead_letter("the trace is lost"));
            }
            context.send(Message::to(to).body("next"))?;
            log.done(&context);
            Ok(())
        }
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).retry(RetryPolicy::delays([delay])).handle(handler));
    let mut reader = lab.reader(&next, &next_group).await?;
    let got = reader.next().await?;
    ensure_eq!(got.message().headers().get_str("traceparent"), Some(TRACE), "the trace on a follow-up");
    got.ack().await?;
    reader.close().await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}
