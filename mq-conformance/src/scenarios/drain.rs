//! Stopping, pausing, slowing down, and the breaker (G12, G14).

use std::time::{Duration, Instant};

use mq_core::{Concurrency, Context, Subscription, Worker};

use crate::checker::Checker;
use crate::failure::{Verdict, ensure, ensure_eq};
use crate::history::{Action, What, ended};
use crate::lab::{Lab, QUIET};
use crate::scenario::scenarios;
use crate::scenarios::admin::lag_when;
use crate::work::{Log, Running, worker};

scenarios!("drain":
    stop_finishes_what_runs_and_gives_back_the_rest [3, 12] [Groups];
    what_is_too_slow_for_the_deadline_is_given_back [12] [Groups];
    nothing_is_unacked_after_a_stop_under_load [3, 12] [Lag];
    stopping_an_idle_worker_is_quick [12] [Groups];
);

async fn stop_finishes_what_runs_and_gives_back_the_rest(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 30).await?;
    let log = Log::new(lab, &group);
    let slow = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            tokio::time::sleep(Duration::from_millis(800)).await;
            log.done(&context);
        }
    };
    let broker = lab.fresh().await?;
    let prefetched =
        Worker::new(&broker, Subscription::new(&topic, &group).prefetch(20)).drain(Duration::from_secs(10));
    let running = Running::start(prefetched.concurrency(Concurrency::Parallel(4)).handle(slow));
    let began = |lines: &[crate::Entry]| lines.iter().filter(|entry| entry.what == What::Started).count() >= 4;
    ensure!(lab.history().until(group.as_str(), lab.patience(), began).await, "four handlers did not start in time");
    let stopping = Instant::now();
    let summary = running.stop().await?;
    ensure!(
        stopping.elapsed() < Duration::from_secs(9),
        "a stop with 0.8 s of work left took {:?}",
        stopping.elapsed()
    );
    ensure_eq!(summary.cancelled, 0, "handlers cancelled within the deadline");
    let entries = lab.history().entries();
    let begun = entries.iter().filter(|entry| entry.what == What::Started).count();
    ensure_eq!(ended(&entries, Action::Ack), begun, "handlers that ended of those that began");
    ensure!(begun < 30, "the stop came too late to show anything");
    broker.close().await?;
    // The rest at once, without blame, and each once.
    let log = Log::new(lab, &group);
    let quick = move |context: Context| {
        log.begin(&context);
        log.done(&context);
        async {}
    };
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(quick));
    lab.until_ended(&group, Action::Ack, 30).await?;
    running.stop().await?;
    Checker::new(&group).judge(lab.history())
}

async fn what_is_too_slow_for_the_deadline_is_given_back(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let log = Log::new(lab, &group);
    let stuck = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            // What must become of it: it is cancelled, and given back.
            log.end(&context, Action::Release, None);
            std::future::pending::<()>().await;
        }
    };
    let broker = lab.fresh().await?;
    let worker_ = Worker::new(&broker, Subscription::new(&topic, &group)).drain(Duration::from_millis(500));
    let running = Running::start(worker_.handle(stuck));
    lab.until_ended(&group, Action::Release, 1).await?;
    let stopping = Instant::now();
    let summary = running.stop().await?;
    let limit = Duration::from_millis(500) + lab.slack();
    ensure!(stopping.elapsed() < limit, "a drain of 0.5 s took {:?}", stopping.elapsed());
    ensure_eq!((summary.handled, summary.cancelled), (0, 1), "handled and cancelled");
    broker.close().await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.attempt(), 1, "the attempt of a message given back by a drain");
    reader.ack(delivery).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

/// `MQ_DRAIN_MESSAGES` in the environment asks for more of them.
fn load() -> usize {
    std::env::var("MQ_DRAIN_MESSAGES").ok().and_then(|messages| messages.parse().ok()).unwrap_or(2000)
}

async fn nothing_is_unacked_after_a_stop_under_load(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let messages = load();
    lab.send_many(&lab.producer().await?, &topic, messages).await?;
    let log = Log::new(lab, &group);
    let handler = move |context: Context| {
        let log = log.clone();
        async move {
            log.begin(&context);
            tokio::task::yield_now().await;
            log.done(&context);
        }
    };
    let broker = lab.fresh().await?;
    let prefetched = Worker::new(&broker, Subscription::new(&topic, &group).prefetch(200));
    let running = Running::start(prefetched.concurrency(Concurrency::Parallel(16)).handle(handler));
    lab.until_ended(&group, Action::Ack, messages / 4).await?;
    // In the middle of the load.
    running.stop().await?;
    broker.close().await?;
    let handled = ended(&lab.history().entries(), Action::Ack);
    let left = u64::try_from(messages - handled).unwrap_or(u64::MAX);
    let lag = lag_when(lab, &topic, &group, |lag| lag.ready == left).await?;
    ensure_eq!(
        (lag.ready, lag.unsettled.unwrap_or(0)),
        (left, 0),
        "waiting and unsettled at the broker after {handled} of {messages} were handled"
    );
    Checker::new(&group).partial().judge(lab.history())
}

async fn stopping_an_idle_worker_is_quick(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let running = Running::start(worker(&broker, &topic, &group).handle(|| async {}));
    tokio::time::sleep(QUIET).await;
    let stopping = Instant::now();
    let summary = running.stop().await?;
    ensure!(stopping.elapsed() < lab.slack(), "stopping an idle worker took {:?}", stopping.elapsed());
    ensure_eq!((summary.received, summary.handled), (0, 0), "received and handled");
    Ok(())
}
