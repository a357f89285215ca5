//! Messages of one key keep their order (G9).

use std::time::Duration;

use mq_core::capability::Feature;

use crate::checker::Checker;
use crate::failure::{Verdict, ensure_eq};
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("order":
    first_deliveries_keep_the_order_of_a_key [9] [KeyedOrder];
    a_key_never_moves_to_another_partition [9] [KeyedOrder, StablePosition];
    order_holds_over_a_new_consumer [9] [KeyedOrder];
    a_requeue_in_an_ordered_group_comes_before_its_followers [9] [KeyedOrder, Requeue];
);

async fn first_deliveries_keep_the_order_of_a_key(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..240).map(|n| lab.message(&topic, n).key(format!("customer-{}", n % 12)))).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, lab.ordered(&topic, &group, 16)).await?;
    reader.consume(240).await?;
    reader.close().await?;
    Checker::new(&group).ordered().judge(lab.history())
}

async fn a_key_never_moves_to_another_partition(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    lab.group(&topic, "g").await?;
    let mut places = std::collections::HashMap::new();
    // From several connections: the choice must not depend on who sends.
    for round in 0..3 {
        let broker = lab.fresh().await?;
        let producer = broker.producer().await?;
        for key in 0..20 {
            let receipt = producer.send(lab.message(&topic, round * 20 + key).key(format!("key-{key}"))).await?;
            let partition = receipt.position.partition();
            let first = *places.entry(key).or_insert(partition);
            ensure_eq!(partition, first, "the partition of key-{key} in round {round}");
        }
    }
    Ok(())
}

async fn order_holds_over_a_new_consumer(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..60).map(|n| lab.message(&topic, n).key(format!("k{}", n % 3)))).await?;
    for _ in 0..6 {
        let broker = lab.fresh().await?;
        let mut reader = lab.reader_on(&broker, lab.ordered(&topic, &group, 1)).await?;
        reader.consume(10).await?;
        reader.close().await?;
        broker.close().await?;
    }
    Checker::new(&group).ordered().judge(lab.history())
}

async fn a_requeue_in_an_ordered_group_comes_before_its_followers(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    lab.send_all(&lab.producer().await?, (0..4).map(|n| lab.message(&topic, n).key("k"))).await?;
    let broker = lab.broker().await?;
    // One at a time: what was given back is the oldest, so it comes first.
    let mut reader = lab.reader_on(&broker, lab.ordered(&topic, &group, 1)).await?;
    for _ in 0..2 {
        let delivery = reader.next().await?;
        ensure_eq!(ident(delivery.message()), "m0", "the first of the key");
        reader.requeue(delivery).await?;
    }
    reader.consume(4).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    if lab.supports(Feature::KeyOrderedRetry) {
        return Checker::new(&group).strictly_ordered().judge(lab.history());
    }
    Checker::new(&group).ordered().judge(lab.history())
}
