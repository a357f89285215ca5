//! Several messages, or messages and settlements, as one step: all of it or nothing (G1, G2).

use std::sync::Arc;
use std::time::Duration;

use mq_core::driver::{ConsumerSpec, Event, Incoming, Settle, Settlement};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure_eq};
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("atomic":
    a_batch_is_stored_as_a_whole_or_not_at_all [1] [AtomicBatch];
    messages_and_settlements_are_one_step [2, 3] [AtomicHandoff];
);

async fn a_batch_is_stored_as_a_whole_or_not_at_all(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let producer = lab.broker().await?.driver().open_producer().await?;
    let torn = vec![lab.message(&topic, 7), lab.message(&nowhere, 8), lab.message(&topic, 9)];
    let outcome = producer.atomic(torn, Vec::new()).await;
    let error = outcome.err().ok_or_else(|| Failure::new("a batch with a message for nobody was stored"))?;
    ensure_eq!(error.is_ambiguous(), false, "whether nothing was stored is known: {error}");
    let whole: Vec<_> = (0..5).map(|n| lab.message(&topic, n)).collect();
    for message in &whole {
        lab.sending(message, None);
    }
    producer.atomic(whole, Vec::new()).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(5).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn messages_and_settlements_are_one_step(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let next = lab.topic("next").await?;
    let next_group = lab.group(&next, "n").await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let driver = Arc::clone(lab.fresh().await?.driver());
    let producer = driver.open_producer().await?;
    let (mut consumer, _settler) = driver.open_consumer(ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
    let mut events = Vec::new();
    let began = std::time::Instant::now();
    let taken: Incoming = loop {
        consumer.poll(&mut events, 1, Duration::from_millis(500)).await?;
        let message = events.drain(..).find_map(|event| match event {
            Event::Message(incoming) => Some(incoming),
            _ => None,
        });
        match message {
            Some(incoming) => break incoming,
            None if began.elapsed() > lab.patience() => return Err(Failure::new("no message came in time")),
            None => {}
        }
    };
    let ack = || vec![Settlement { token: taken.token, action: Settle::Ack }];
    // The step that fails leaves the delivery ours and the first message unsent.
    let torn = vec![lab.message(&next, 7), lab.message(&nowhere, 8)];
    let outcome = producer.atomic(torn, ack()).await;
    outcome.err().ok_or_else(|| Failure::new("a step with a message for nobody was taken"))?;
    producer.atomic(vec![lab.message(&next, 1)], ack()).await?;
    consumer.close(Duration::from_secs(10)).await?;
    silent_for(lab, &topic, &group).await?;
    let mut reader = lab.reader(&next, &next_group).await?;
    let delivery = reader.next().await?;
    ensure_eq!(ident(delivery.message()), "m1", "the message of the step that was taken");
    delivery.ack().await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn silent_for(lab: &Lab, topic: &Topic, group: &Group) -> Verdict {
    let mut reader = lab.reader(topic, group).await?;
    reader.silent(crate::lab::QUIET).await?;
    reader.close().await
}
