//! Receiving: bounded, in batches, with pauses (G13, G14).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_core::driver::{ConsumerDriver, ConsumerSpec, Event, Settle, Settlement, SettlerDriver};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::{Action, What};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("receive":
    no_more_than_prefetch_are_out [14] [Groups];
    one_ack_frees_one_place [14] [Groups];
    auto_ack_consumes_at_receipt [2] [AutoAck];
    pull_in_batches [2] [Groups];
    pause_and_resume [14] [Pause];
    a_cancelled_recv_loses_nothing [2] [Groups];
    partitions_move_with_notice [3, 12] [RebalanceEvents];
    a_partition_given_up_while_paused_comes_back_awake [3, 12] [RebalanceEvents];
    an_idle_consumer_gets_what_comes_later [13] [Groups];
);

async fn no_more_than_prefetch_are_out(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 20).await?;
    // At the driver itself: the core's own bound must not hide the adapter's.
    let driver = lab.broker().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(5));
    let (mut consumer, settler) = driver.driver().open_consumer(spec).await?;
    let mut events = Vec::new();
    let began = Instant::now();
    let count = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Message(_))).count();
    while count(&events) < 5 && began.elapsed() < lab.patience() {
        consumer.poll(&mut events, 100, Duration::from_millis(500)).await?;
    }
    consumer.poll(&mut events, 100, QUIET).await?;
    ensure_eq!(count(&events), 5, "messages handed out with prefetch 5 and nothing settled");
    let tokens = events.iter().filter_map(|event| match event {
        Event::Message(incoming) => Some(incoming.token),
        _ => None,
    });
    let mut batch: Vec<_> = tokens.map(|token| Settlement { token, action: Settle::Release }).collect();
    for outcome in settler.settle(&mut batch).await {
        outcome?;
    }
    consumer.close(Duration::from_secs(10)).await?;
    Ok(())
}

async fn one_ack_frees_one_place(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 8).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(2))).await?;
    let mut held = reader.take(2).await?;
    reader.silent(Duration::from_millis(300)).await?;
    for _ in 0..6 {
        let first = held.remove(0);
        reader.ack(first).await?;
        held.push(reader.next().await?);
    }
    for delivery in held {
        reader.ack(delivery).await?;
    }
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn auto_ack_consumes_at_receipt(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let broker = lab.broker().await?;
    let mut spec = ConsumerSpec::new(Subscription::new(&topic, &group));
    spec.auto_ack = true;
    let mut reader = lab.reader_on(&broker, spec).await?;
    for delivery in reader.take(5).await? {
        // Dropped without a word: under auto-ack it is consumed all the same.
        reader.doing(&delivery, Action::Ack, None);
        drop(delivery);
    }
    reader.close().await?;
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn pull_in_batches(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 50).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut got = 0;
    while got < 50 {
        let batch = reader.consumer().recv_batch(8, lab.patience()).await?;
        ensure!(!batch.is_empty(), "no batch came after {got} of 50 messages");
        ensure!(batch.len() <= 8, "a batch of {} where 8 were asked for", batch.len());
        got += batch.len();
        for delivery in batch {
            lab.history().note(
                ident(delivery.message()),
                group.as_str(),
                What::Delivered { attempt: delivery.attempt() },
            );
            reader.doing(&delivery, Action::Ack, None);
            drop(delivery.ack());
        }
    }
    let empty = reader.consumer().recv_batch(8, Duration::from_millis(300)).await?;
    ensure!(empty.is_empty(), "a batch came after everything was acknowledged");
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn pause_and_resume(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 3).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let held = reader.take(3).await?;
    reader.consumer().pause().await?;
    lab.send_all(&producer, (3..6).map(|n| lab.message(&topic, n))).await?;
    reader.silent(QUIET).await?;
    // Deliveries already out stay valid.
    for delivery in held {
        reader.ack(delivery).await?;
    }
    reader.consumer().resume().await?;
    reader.consume(3).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_idle_consumer_gets_what_comes_later(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.silent(Duration::from_secs(2)).await?;
    let producer = lab.producer().await?;
    for number in 0..3 {
        lab.send(&producer, lab.message(&topic, number)).await?;
        let got = reader.consume(1).await?;
        let id = got.first().map(ident).ok_or_else(|| Failure::new("nothing came"))?;
        ensure_eq!(id, format!("m{number}"), "the message after an idle time");
    }
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_cancelled_recv_loses_nothing(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 50).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut got = 0;
    let began = Instant::now();
    while got < 50 {
        // Given up after a moment, again and again, as by a `select!` with something else to do.
        let moment = Duration::from_micros(fastrand::u64(0..3000));
        if let Ok(delivery) = tokio::time::timeout(moment, reader.consumer().recv()).await {
            let delivery = delivery?;
            lab.history().note(
                ident(delivery.message()),
                group.as_str(),
                What::Delivered { attempt: delivery.attempt() },
            );
            reader.ack(delivery).await?;
            got += 1;
        }
        ensure!(began.elapsed() < lab.patience(), "{got} of 50 messages came in time");
    }
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

type Driven = Box<dyn ConsumerDriver>;

/// A consumer and its settler, as a driver opens them.
pub(super) type Opened = (Driven, Arc<dyn SettlerDriver>);

/// A lone consumer of an ordered group, with all its partitions; none where there is only one, which cannot be shared.
async fn alone(lab: &Lab, topic: &Topic, group: &Group) -> Verdict<Option<Opened>> {
    let driver = Arc::clone(lab.broker().await?.driver());
    let (mut consumer, settler) = driver.open_consumer(lab.ordered(topic, group, 50)).await?;
    let began = Instant::now();
    let mut mine: Vec<u32> = Vec::new();
    let mut events = Vec::new();
    while mine.is_empty() {
        ensure!(began.elapsed() < lab.patience(), "a lone consumer was assigned nothing in time");
        consumer.poll(&mut events, 10, Duration::from_millis(200)).await?;
        for event in events.drain(..) {
            if let Event::Assigned(partitions) = event {
                mine.extend(partitions);
            }
        }
    }
    if mine.len() < 2 {
        consumer.close(Duration::from_secs(10)).await?;
        return Ok(None);
    }
    Ok(Some((consumer, settler)))
}

/// A second consumer, once it has a share of the first; the first was told.
async fn share(lab: &Lab, topic: &Topic, group: &Group, first: &mut Driven) -> Verdict<Driven> {
    let driver = Arc::clone(lab.fresh().await?.driver());
    let (mut second, _settler) = driver.open_consumer(lab.ordered(topic, group, 50)).await?;
    let began = Instant::now();
    let (mut events, mut theirs) = (Vec::new(), Vec::new());
    let (mut revoked, mut moved) = (false, false);
    while !moved {
        ensure!(began.elapsed() < lab.patience() * 2, "a second consumer was assigned nothing in time");
        first.poll(&mut events, 10, Duration::from_millis(100)).await?;
        second.poll(&mut theirs, 10, Duration::from_millis(100)).await?;
        for event in events.drain(..) {
            if let Event::Revoking(revocation, partitions) = event {
                revoked |= !partitions.is_empty();
                first.revoked(revocation).await?;
            }
        }
        let some = |event| matches!(event, Event::Assigned(partitions) if !partitions.is_empty());
        moved = theirs.drain(..).any(some);
    }
    ensure!(revoked, "partitions went to a second consumer without notice to the first");
    Ok(second)
}

async fn partitions_move_with_notice(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let Some((mut first, _settler)) = alone(lab, &topic, &group).await? else { return Ok(()) };
    let second = share(lab, &topic, &group, &mut first).await?;
    second.close(Duration::from_secs(10)).await?;
    Ok(first.close(Duration::from_secs(10)).await?)
}

/// Waits until the messages of these numbers have come and are acknowledged, however often; what is asked back meanwhile
/// is given.
pub(super) async fn all_come(lab: &Lab, (consumer, settler): &mut Opened, numbers: Range<usize>) -> Verdict {
    let began = Instant::now();
    let mut events = Vec::new();
    let mut missing: BTreeSet<String> = numbers.map(|number| format!("m{number}")).collect();
    while !missing.is_empty() {
        ensure!(began.elapsed() < lab.patience() * 2, "not in time: {missing:?}");
        consumer.poll(&mut events, 100, Duration::from_millis(100)).await?;
        for event in events.drain(..) {
            match event {
                Event::Message(incoming) => {
                    missing.remove(&ident(&incoming.message));
                    // Where an ordered group gets the next of a key only behind the last.
                    let ack = Settlement { token: incoming.token, action: Settle::Ack };
                    for settled in settler.settle(&mut vec![ack]).await {
                        settled?;
                    }
                }
                Event::Revoking(revocation, _) => consumer.revoked(revocation).await?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// A partition that was paused when it went away is read when it comes back to a consumer that is not.
async fn a_partition_given_up_while_paused_comes_back_awake(lab: &Lab) -> Verdict {
    const MESSAGES: usize = 24;
    let (topic, group) = lab.ordered_place().await?;
    let Some(mut first) = alone(lab, &topic, &group).await? else { return Ok(()) };
    first.0.pause(true).await?;
    let second = share(lab, &topic, &group, &mut first.0).await?;
    first.0.pause(false).await?;
    second.close(Duration::from_secs(10)).await?;
    let messages = (0..MESSAGES).map(|n| lab.message(&topic, n).key(format!("k{n}")));
    lab.send_all(&lab.producer().await?, messages).await?;
    all_come(lab, &mut first, 0..MESSAGES).await?;
    Ok(first.0.close(Duration::from_secs(10)).await?)
}
