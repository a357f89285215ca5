//! A running worker is bounded, and can be steered (G13, G14).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq_core::capability::Feature;
use mq_core::event::Event;
use mq_core::{Concurrency, Context, HandlerError, Subscription, Worker, per_second};

use crate::checker::Checker;
use crate::failure::{Verdict, ensure, ensure_eq};
use crate::history::{Action, What, ended};
use crate::lab::{Lab, QUIET};
use crate::scenario::scenarios;
use crate::work::{Log, Running, worker};

scenarios!("steer":
    a_paused_worker_starts_nothing [14] [Groups];
    the_rate_is_kept_and_can_be_changed [14] [Groups];
    an_outage_opens_the_breaker [14] [DeadLetters];
    a_worker_tells_its_health_and_lag [13] [Lag];
    in_flight_is_bounded_by_prefetch [14] [Groups];
);

async fn a_paused_worker_starts_nothing(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 5).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 5).await?;
    running.handle.pause();
    // A handler may be between the gate and its first line.
    tokio::time::sleep(Duration::from_millis(200)).await;
    lab.send_all(&producer, (5..10).map(|n| lab.message(&topic, n))).await?;
    tokio::time::sleep(QUIET).await;
    let while_paused = ended(&lab.history().entries(), Action::Ack);
    ensure_eq!(while_paused, 5, "messages handled while paused, those of before included");
    running.handle.resume();
    lab.until_ended(&group, Action::Ack, 10).await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn the_rate_is_kept_and_can_be_changed(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 230).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let limited = worker(&broker, &topic, &group).concurrency(Concurrency::Parallel(4)).rate_limit(per_second(20));
    let running = Running::start(limited.handle(handler));
    lab.until_ended(&group, Action::Ack, 30).await?;
    let entries = lab.history().entries();
    let mut starts = entries.iter().filter(|entry| entry.what == What::Started).map(|entry| entry.at);
    let (first, thirtieth) = (starts.next().unwrap_or_default(), starts.nth(28).unwrap_or_default());
    let took = thirtieth.saturating_sub(first);
    // Thirty at twenty a second are 1.45 s; one may be in the burst.
    ensure!(took >= Duration::from_millis(1350), "thirty messages at 20/s took only {took:?}");
    running.handle.set_rate(None);
    let began = Instant::now();
    lab.until_ended(&group, Action::Ack, 230).await?;
    ensure!(
        began.elapsed() < Duration::from_secs(8),
        "200 messages took {:?} after the limit was lifted",
        began.elapsed()
    );
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_outage_opens_the_breaker(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 60).await?;
    let down = Arc::new(AtomicBool::new(true));
    let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (log, outage) = (Log::new(lab, &group), Arc::clone(&down));
    let handler = move |context: Context| {
        let answer = if outage.load(Ordering::SeqCst) {
            Err(std::io::Error::other("the database is down"))
        } else {
            log.begin(&context);
            log.done(&context);
            Ok(())
        };
        async move { answer.map_err(HandlerError::from) }
    };
    let (count_open, count_closed) = (Arc::clone(&opened), Arc::clone(&closed));
    let observer = move |event: &Event<'_>| match event {
        Event::BreakerOpened { .. } => drop(count_open.fetch_add(1, Ordering::SeqCst)),
        Event::BreakerClosed => drop(count_closed.fetch_add(1, Ordering::SeqCst)),
        _ => {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).observe(observer).handle(handler));
    let began = Instant::now();
    while opened.load(Ordering::SeqCst) == 0 {
        ensure!(began.elapsed() < lab.patience(), "sixty unknown errors in a row did not open the breaker");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(QUIET).await;
    let set_aside = running.handle.summary().dead_lettered;
    ensure!(set_aside <= 20, "{set_aside} messages were set aside for an outage");
    down.store(false, Ordering::SeqCst);
    let right = |lines: &[crate::Entry]| ended(lines, Action::Ack) as u64 >= 60 - set_aside;
    ensure!(
        lab.history().until(group.as_str(), Duration::from_secs(30), right).await,
        "the worker did not go on in time"
    );
    ensure!(closed.load(Ordering::SeqCst) >= 1, "the worker went on without saying so");
    let summary = running.stop().await?;
    ensure_eq!(summary.handled + summary.dead_lettered, 60, "handled and set aside together");
    Ok(())
}

async fn a_worker_tells_its_health_and_lag(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(handler));
    lab.until_ended(&group, Action::Ack, 3).await?;
    ensure!(running.handle.health(Duration::from_secs(10)).await.ready, "a working worker calls its broker down");
    let began = Instant::now();
    loop {
        let lags = running.handle.lag().await?;
        let behind: u64 = lags.iter().map(|(_, lag)| lag.ready + lag.unsettled.unwrap_or(0)).sum();
        ensure_eq!(lags.len(), 1, "topics with a lag");
        if behind == 0 {
            break;
        }
        ensure!(began.elapsed() < lab.patience(), "everything is handled, and the lag is {behind}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn in_flight_is_bounded_by_prefetch(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 60).await?;
    let log = Log::new(lab, &group);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let turnstile = Arc::clone(&gate);
    let handler = move |context: Context| {
        let (log, turnstile) = (log.clone(), Arc::clone(&turnstile));
        async move {
            log.begin(&context);
            if let Ok(permit) = turnstile.acquire().await {
                permit.forget();
            }
            log.done(&context);
        }
    };
    let broker = lab.broker().await?;
    let bounded = Worker::new(&broker, Subscription::new(&topic, &group).prefetch(6)).drain(Duration::from_secs(10));
    let running = Running::start(bounded.concurrency(Concurrency::Parallel(3)).handle(handler));
    let began = |lines: &[crate::Entry]| lines.iter().filter(|entry| entry.what == What::Started).count() >= 3;
    ensure!(lab.history().until(group.as_str(), lab.patience(), began).await, "three handlers did not start in time");
    tokio::time::sleep(QUIET).await;
    let received = running.handle.summary().received;
    ensure!(received <= 6, "{received} messages were taken in with prefetch 6 and nothing settled");
    if lab.supports(Feature::Lag) {
        let unsettled = lab.admin().await?.lag(&topic, &group).await?.unsettled;
        ensure!(unsettled.is_none_or(|unsettled| unsettled <= 6), "{unsettled:?} are unsettled at the broker");
    }
    gate.add_permits(60);
    lab.until_ended(&group, Action::Ack, 60).await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}
