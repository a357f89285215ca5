//! Settling one delivery settles that one, and nothing else (G2, G3).

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mq_core::Delivery;
use mq_core::capability::Feature;
use mq_core::driver::{ConsumerSpec, Settled};
use mq_core::subscription::Subscription;

use crate::checker::Checker;
use crate::failure::{Verdict, ensure, ensure_eq};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("settle":
    an_ack_consumes [2, 3] [Groups];
    an_ack_is_durable_after_a_flush [2, 3] [Groups];
    a_requeue_comes_again [2, 4] [Requeue];
    requeues_spend_no_attempt [4] [Requeue];
    requeues_side_by_side_stay_settleable [2, 4] [Requeue];
    a_release_comes_again [2, 4] [Groups];
    a_dropped_delivery_comes_again [2] [Groups];
    an_ack_out_of_order_consumes_no_neighbour [2, 3] [OutOfOrderAck];
    what_is_unsettled_at_close_comes_again_without_blame [2, 4, 12] [Groups];
    a_settlement_after_close_is_stale [3, 11] [Groups];
    nothing_is_unacked_at_the_broker_after_close [3, 12] [Lag];
);

async fn an_ack_consumes(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 20).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(10).await? {
        reader.ack(delivery).await?;
    }
    for delivery in reader.take(10).await? {
        reader.ack(delivery).await?;
    }
    reader.close().await?;
    let broker = lab.fresh().await?;
    let mut later = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
    later.silent(QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_ack_is_durable_after_a_flush(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let broker = lab.fresh().await?;
    let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
    reader.consume(10).await?;
    reader.flush().await?;
    // No clean close of the consumer: only what the flush made durable counts.
    drop(reader);
    broker.close().await?;
    let mut later = lab.reader(&topic, &group).await?;
    later.silent(QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_requeue_comes_again(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 6).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(6).await? {
        let odd = ident(delivery.message()).ends_with(['1', '3', '5']);
        if odd {
            reader.requeue(delivery).await?
        } else {
            reader.ack(delivery).await?
        };
    }
    let again = reader.consume(3).await?;
    reader.silent(QUIET).await?;
    reader.close().await?;
    crate::scenarios::publish::all_same(lab, &again)?;
    Checker::new(&group).judge(lab.history())
}

async fn requeues_spend_no_attempt(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for _ in 0..4 {
        let delivery = reader.next().await?;
        reader.requeue(delivery).await?;
    }
    let delivery = reader.next().await?;
    ensure_eq!(delivery.attempt(), 1, "the attempt after four requeues");
    if lab.supports(Feature::RedeliveryCount) {
        ensure!(delivery.redeliveries() >= 1, "the broker counts redeliveries, but says {}", delivery.redeliveries());
    }
    reader.ack(delivery).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

/// A message given back may be here again before the answer that it was: the answer must not be taken for one about
/// the new delivery.
async fn requeues_side_by_side_stay_settleable(lab: &Lab) -> Verdict {
    const MESSAGES: usize = 24;
    const REQUEUES: usize = 8;
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, MESSAGES).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut settling = FuturesUnordered::new();
    let mut requeued: HashMap<String, usize> = HashMap::new();
    let mut acked = 0;
    while acked < MESSAGES || !settling.is_empty() {
        tokio::select! {
            Some(settled) = settling.next() => { settled?; }
            delivery = reader.next(), if acked < MESSAGES => {
                let delivery = delivery?;
                let times = requeued.entry(ident(delivery.message())).or_default();
                *times += 1;
                let again = *times <= REQUEUES;
                acked += usize::from(!again);
                settling.push(if again { reader.requeueing(delivery) } else { reader.acking(delivery) });
            }
        }
    }
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_release_comes_again(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(3).await? {
        reader.release(delivery).await?;
    }
    for delivery in reader.take(3).await? {
        ensure_eq!(delivery.attempt(), 1, "the attempt after a release");
        reader.ack(delivery).await?;
    }
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_dropped_delivery_comes_again(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(3).await? {
        reader.forget(delivery);
    }
    reader.consume(3).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_ack_out_of_order_consumes_no_neighbour(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 12).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(20))).await?;
    let held = reader.take(12).await?;
    let (acked, kept): (Vec<Delivery>, Vec<Delivery>) = held.into_iter().partition(is_odd);
    // The newest first: an adapter that acknowledges "up to here" swallows everything before.
    for delivery in acked.into_iter().rev() {
        reader.ack(delivery).await?;
    }
    reader.flush().await?;
    reader.giving_back(&kept);
    let left = kept.len();
    reader.close().await?;
    drop(kept);
    let broker = lab.fresh().await?;
    let mut later = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
    later.consume(left).await?;
    later.silent(QUIET).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

fn is_odd(delivery: &Delivery) -> bool {
    ident(delivery.message()).ends_with(['1', '3', '5', '7', '9'])
}

async fn what_is_unsettled_at_close_comes_again_without_blame(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    for _ in 0..4 {
        let broker = lab.fresh().await?;
        let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
        let held = reader.take(5).await?;
        reader.giving_back(&held);
        // The connection stays: closing the consumer alone must give everything back.
        reader.close().await?;
        drop(held);
    }
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(5).await? {
        ensure_eq!(delivery.attempt(), 1, "the attempt after four clean closes");
        reader.ack(delivery).await?;
    }
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_settlement_after_close_is_stale(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let delivery = reader.next().await?;
    reader.giving_back([&delivery]);
    reader.close().await?;
    let settled = delivery.ack().await?;
    ensure_eq!(settled, Settled::Stale, "an ack after the consumer was closed");
    let mut later = lab.reader(&topic, &group).await?;
    later.consume(1).await?;
    later.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn nothing_is_unacked_at_the_broker_after_close(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 500).await?;
    let broker = lab.fresh().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(200));
    let mut reader = lab.reader_on(&broker, spec).await?;
    reader.consume(500).await?;
    // Right after the last ack, as a program that ends does.
    reader.close().await?;
    broker.close().await?;
    let lag = crate::scenarios::admin::lag_when(lab, &topic, &group, |lag| lag.ready == 0).await?;
    ensure_eq!(lag.ready, 0, "messages waiting after everything was acknowledged");
    ensure_eq!(lag.unsettled.unwrap_or(0), 0, "messages unsettled after the close");
    Ok(())
}
