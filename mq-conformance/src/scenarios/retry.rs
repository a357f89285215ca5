//! A retry waits in the broker, comes when it is due, counts on, and holds up nobody (G4, G5, G6).

use std::time::{Duration, Instant};

use mq_core::Broker;
use mq_core::capability::Feature;
use mq_core::driver::{ConsumerSpec, Origin};
use mq_core::error::ErrorKind;
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, Subscription};

use crate::checker::Checker;
use crate::compare::same;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::{Lab, QUIET};
use crate::reader::{Reader, ident};
use crate::scenario::scenarios;

scenarios!("retry":
    attempts_count_on_and_survive_a_new_consumer [4, 6] [NonBlockingRetry, DurableAttempts];
    never_early_and_not_too_late [6] [NonBlockingRetry];
    others_flow_while_one_waits [5] [NonBlockingRetry];
    the_message_is_whole_after_a_retry [4, 7] [NonBlockingRetry];
    only_the_failing_group_sees_a_retry [2, 4] [NonBlockingRetry];
    two_delays_keep_out_of_each_others_way [5, 6] [NonBlockingRetry];
    a_delay_nobody_declared_is_refused [15] [NonBlockingRetry];
    a_retry_survives_its_consumer [2, 4] [NonBlockingRetry, DurableAttempts];
    a_requeued_retry_keeps_its_attempt [4] [NonBlockingRetry, Requeue];
);

/// A consumer that may retry after `delays`.
pub(super) fn retrying(topic: &Topic, group: &Group, delays: &[Duration]) -> ConsumerSpec {
    let mut spec = ConsumerSpec::new(Subscription::new(topic, group));
    spec.retry_delays = delays.to_vec();
    spec
}

async fn place(lab: &Lab, delays: &[Duration]) -> Verdict<(Topic, Group)> {
    let topic = lab.topic("t").await?;
    let group = lab.group_with(&topic, "g", GroupMode::Shared, delays).await?;
    Ok((topic, group))
}

async fn reader<'a>(lab: &'a Lab, on: &Broker, at: &(Topic, Group), delays: &[Duration]) -> Verdict<Reader<'a>> {
    lab.reader_on(on, retrying(&at.0, &at.1, delays)).await
}

fn delay(lab: &Lab) -> Duration {
    lab.delay(Feature::NonBlockingRetry)
}

async fn attempts_count_on_and_survive_a_new_consumer(lab: &Lab) -> Verdict {
    let delays = [delay(lab)];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 2).await?;
    for attempt in 1..=4 {
        // A connection of its own each time: as a service that crashes or is deployed in between.
        let broker = lab.fresh().await?;
        let mut reader = reader(lab, &broker, &at, &delays).await?;
        for delivery in reader.take(2).await? {
            ensure_eq!(delivery.attempt(), attempt, "the attempt of {}", ident(delivery.message()));
            let origin = if attempt == 1 { Origin::Topic } else { Origin::Retry };
            ensure_eq!(delivery.origin(), origin, "the origin of attempt {attempt}");
            if attempt < 4 {
                reader.retry(delivery, delays[0]).await?;
            } else {
                reader.ack(delivery).await?;
            }
        }
        reader.close().await?;
        broker.close().await?;
    }
    Checker::new(&at.1).judge(lab.history())
}

async fn never_early_and_not_too_late(lab: &Lab) -> Verdict {
    let delays = [delay(lab) * 2];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 10).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    for delivery in reader.take(10).await? {
        reader.retry(delivery, delays[0]).await?;
    }
    let asked = Instant::now();
    reader.consume(10).await?;
    let limit = delays[0] + lab.lateness(Feature::NonBlockingRetry);
    ensure!(
        asked.elapsed() <= limit,
        "the last came {:?} after it was asked for; allowed are {limit:?}",
        asked.elapsed()
    );
    reader.close().await?;
    Checker::new(&at.1).judge(lab.history())
}

async fn others_flow_while_one_waits(lab: &Lab) -> Verdict {
    // Long enough that a consumer which waits for it would be seen.
    let delays = [delay(lab).max(Duration::from_secs(4))];
    let at = place(lab, &delays).await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &at.0, 1).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    let failing = reader.next().await?;
    reader.retry(failing, delays[0]).await?;
    let began = Instant::now();
    lab.send_all(&producer, (1..101).map(|n| lab.message(&at.0, n))).await?;
    let got = reader.consume(100).await?;
    ensure!(began.elapsed() < delays[0], "100 other messages took {:?}, as long as the retry", began.elapsed());
    ensure!(got.iter().all(|message| ident(message) != "m0"), "the retry came before the others");
    reader.consume(1).await?;
    reader.close().await?;
    Checker::new(&at.1).judge(lab.history())
}

async fn the_message_is_whole_after_a_retry(lab: &Lab) -> Verdict {
    let delays = [delay(lab)];
    let at = place(lab, &delays).await?;
    let tombstones = lab.supports(Feature::Tombstones);
    let mut messages = vec![
        lab.message(&at.0, 0).key([0, 0xff]).header("bytes", vec![0xfe, 0]).header("twice", "1").header("twice", "2"),
        lab.message(&at.0, 1).body(""),
        lab.message(&at.0, 2).key("k").body((0..=255).collect::<Vec<u8>>()).header("empty", ""),
    ];
    if tombstones {
        messages.push(lab.message(&at.0, 3).key("k").with_body(None));
    }
    let count = messages.len();
    lab.send_all(&lab.producer().await?, messages).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    for _ in 0..2 {
        for delivery in reader.take(count).await? {
            reader.retry(delivery, delays[0]).await?;
        }
    }
    let got = reader.consume(count).await?;
    reader.close().await?;
    for message in &got {
        let sent = lab.original(&ident(message)).ok_or_else(|| Failure::new("a message nobody sent"))?;
        same(&sent, message).map_err(|failure| failure.at("after two retries"))?;
    }
    Checker::new(&at.1).judge(lab.history())
}

async fn only_the_failing_group_sees_a_retry(lab: &Lab) -> Verdict {
    let delays = [delay(lab)];
    let at = place(lab, &delays).await?;
    let other = lab.group(&at.0, "other").await?;
    lab.send_many(&lab.producer().await?, &at.0, 3).await?;
    let broker = lab.broker().await?;
    let mut failing = reader(lab, &broker, &at, &delays).await?;
    let mut fine = lab.reader(&at.0, &other).await?;
    fine.consume(3).await?;
    for delivery in failing.take(3).await? {
        failing.retry(delivery, delays[0]).await?;
    }
    failing.consume(3).await?;
    fine.silent(QUIET).await?;
    failing.close().await?;
    fine.close().await?;
    Checker::new(&at.1).judge(lab.history())?;
    Checker::new(&other).judge(lab.history())
}

async fn two_delays_keep_out_of_each_others_way(lab: &Lab) -> Verdict {
    let (short, long) = (delay(lab), delay(lab) * 4 + Duration::from_secs(2));
    let delays = [short, long];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 2).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    // The long one first: a single queue of retries would hold the short one back behind it.
    let mut order = Vec::new();
    for (delivery, delay) in reader.take(2).await?.into_iter().zip([long, short]) {
        order.push(ident(delivery.message()));
        reader.retry(delivery, delay).await?;
    }
    order.reverse();
    let got: Vec<String> = reader.consume(2).await?.iter().map(ident).collect();
    ensure_eq!(got, order, "the order of a short retry behind a long one");
    reader.close().await?;
    Checker::new(&at.1).judge(lab.history())
}

async fn a_delay_nobody_declared_is_refused(lab: &Lab) -> Verdict {
    let delays = [delay(lab)];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 1).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    let delivery = reader.next().await?;
    match delivery.retry_after(delays[0] + Duration::from_millis(1)) {
        Ok(_) => return Err(Failure::new("a delay nobody declared was accepted")),
        Err(refused) => {
            let (error, delivery) = *refused;
            ensure_eq!(error.kind(), ErrorKind::Unsupported, "the refusal: {error}");
            ensure!(error.hint().is_some(), "no way out is named: {error}");
            reader.ack(delivery).await?;
        }
    }
    reader.close().await?;
    Checker::new(&at.1).judge(lab.history())
}

async fn a_retry_survives_its_consumer(lab: &Lab) -> Verdict {
    let delays = [delay(lab).max(Duration::from_secs(1))];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 5).await?;
    let broker = lab.fresh().await?;
    let mut first = reader(lab, &broker, &at, &delays).await?;
    for delivery in first.take(5).await? {
        first.retry(delivery, delays[0]).await?;
    }
    first.close().await?;
    broker.close().await?;
    // Nobody is there when they become due.
    tokio::time::sleep(delays[0] + Duration::from_millis(500)).await;
    let broker = lab.fresh().await?;
    let mut later = reader(lab, &broker, &at, &delays).await?;
    let began = Instant::now();
    for delivery in later.take(5).await? {
        ensure_eq!(delivery.attempt(), 2, "the attempt of a retry its consumer did not live to see");
        later.ack(delivery).await?;
    }
    ensure!(began.elapsed() < lab.patience(), "overdue retries took {:?}", began.elapsed());
    later.close().await?;
    Checker::new(&at.1).judge(lab.history())
}

async fn a_requeued_retry_keeps_its_attempt(lab: &Lab) -> Verdict {
    let delays = [delay(lab)];
    let at = place(lab, &delays).await?;
    lab.send_many(&lab.producer().await?, &at.0, 1).await?;
    let broker = lab.broker().await?;
    let mut reader = reader(lab, &broker, &at, &delays).await?;
    let delivery = reader.next().await?;
    reader.retry(delivery, delays[0]).await?;
    for _ in 0..3 {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.attempt(), 2, "the attempt of a retry that was given back");
        reader.requeue(delivery).await?;
    }
    reader.consume(1).await?;
    reader.close().await?;
    Checker::new(&at.1).judge(lab.history())
}
