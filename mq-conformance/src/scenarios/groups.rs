//! Who gets what: groups, members of a group, broadcast, several topics.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq_core::driver::ConsumerSpec;
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure};
use crate::history::Action;
use crate::lab::{Lab, QUIET};
use crate::reader::{Reader, ident};
use crate::scenario::scenarios;

scenarios!("groups":
    every_group_gets_every_message [1, 2] [Groups];
    members_share_the_messages [2, 3] [Groups];
    a_member_that_leaves_gives_its_share_back [2, 3, 12] [Groups];
    one_group_settles_for_itself_only [2] [Groups];
    the_same_group_name_on_two_topics [2] [Groups];
    two_consumers_on_one_connection [2] [Groups];
    broadcast_reaches_each_consumer [2] [Broadcast];
    one_consumer_of_several_topics [2] [ManyTopics];
);

async fn every_group_gets_every_message(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let mut groups = Vec::new();
    for name in ["billing", "audit", "search"] {
        groups.push(lab.group(&topic, name).await?);
    }
    lab.send_many(&lab.producer().await?, &topic, 30).await?;
    for group in &groups {
        let mut reader = lab.reader(&topic, group).await?;
        let got = reader.consume(30).await?;
        reader.silent(Duration::from_millis(200)).await?;
        reader.close().await?;
        crate::scenarios::publish::all_same(lab, &got)?;
        Checker::new(group).judge(lab.history())?;
    }
    Ok(())
}

/// Consumes until `total` messages were acknowledged by all who share `done`.
async fn share(lab: &Lab, reader: &mut Reader<'_>, done: &AtomicUsize, total: usize) -> Verdict {
    let began = Instant::now();
    while done.load(Ordering::Relaxed) < total {
        if began.elapsed() > lab.patience() {
            let text = format!("{} of {total} messages came in time", done.load(Ordering::Relaxed));
            return Err(Failure::new(text));
        }
        if let Some(delivery) = reader.within(Duration::from_millis(200)).await? {
            reader.doing(&delivery, Action::Ack, None);
            drop(delivery.ack());
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn members_share_the_messages(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group));
    let (one, two) = (lab.fresh().await?, lab.fresh().await?);
    let mut first = lab.reader_on(&one, spec.clone()).await?;
    let mut second = lab.reader_on(&two, spec).await?;
    let done = AtomicUsize::new(0);
    let producer = lab.producer().await?;
    let (sent, left, right) = tokio::join!(
        lab.send_many(&producer, &topic, 200),
        share(lab, &mut first, &done, 200),
        share(lab, &mut second, &done, 200)
    );
    sent.and(left).and(right)?;
    first.silent(Duration::from_millis(300)).await?;
    second.silent(Duration::from_millis(300)).await?;
    first.close().await?;
    second.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_member_that_leaves_gives_its_share_back(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group));
    let (one, two) = (lab.fresh().await?, lab.fresh().await?);
    lab.send_many(&lab.producer().await?, &topic, 40).await?;
    let mut first = lab.reader_on(&one, spec.clone()).await?;
    first.consume(10).await?;
    let held = first.take(5).await?;
    first.giving_back(&held);
    let mut second = lab.reader_on(&two, spec).await?;
    first.close().await?;
    drop(held);
    second.consume(30).await?;
    second.silent(QUIET).await?;
    second.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn one_group_settles_for_itself_only(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let (one, two) = (lab.group(&topic, "one").await?, lab.group(&topic, "two").await?);
    lab.send_many(&lab.producer().await?, &topic, 4).await?;
    let mut first = lab.reader(&topic, &one).await?;
    let mut second = lab.reader(&topic, &two).await?;
    for delivery in first.take(4).await? {
        first.requeue(delivery).await?;
    }
    second.consume(4).await?;
    first.consume(4).await?;
    // What one group gave back must not come to the other.
    second.silent(QUIET).await?;
    first.close().await?;
    second.close().await?;
    Checker::new(&one).judge(lab.history())?;
    Checker::new(&two).judge(lab.history())
}

async fn the_same_group_name_on_two_topics(lab: &Lab) -> Verdict {
    let (one, two) = (lab.topic("one").await?, lab.topic("two").await?);
    let group = lab.group(&one, "g").await?;
    lab.group(&two, "g").await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..5).map(|n| lab.message(&one, n))).await?;
    lab.send_all(&producer, (5..10).map(|n| lab.message(&two, n))).await?;
    let mut first = lab.reader(&one, &group).await?;
    let mut second = lab.reader(&two, &group).await?;
    only(&first.consume(5).await?, &one)?;
    only(&second.consume(5).await?, &two)?;
    first.silent(Duration::from_millis(300)).await?;
    first.close().await?;
    second.close().await?;
    Checker::new(&group).judge(lab.history())
}

fn only(messages: &[mq_core::Message], topic: &Topic) -> Verdict {
    for message in messages {
        ensure!(message.topic() == topic, "{} came from {} instead of {topic}", ident(message), message.topic());
    }
    Ok(())
}

async fn two_consumers_on_one_connection(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let spec = ConsumerSpec::new(Subscription::new(&topic, &group).prefetch(5));
    let mut first = lab.reader_on(&broker, spec.clone()).await?;
    let mut second = lab.reader_on(&broker, spec).await?;
    let done = AtomicUsize::new(0);
    let producer = lab.producer().await?;
    let (sent, left, right) = tokio::join!(
        lab.send_many(&producer, &topic, 60),
        share(lab, &mut first, &done, 60),
        share(lab, &mut second, &done, 60)
    );
    sent.and(left).and(right)?;
    first.close().await?;
    second.silent(Duration::from_millis(300)).await?;
    second.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn broadcast_reaches_each_consumer(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let broker = lab.broker().await?;
    let mut consumers = Vec::new();
    for _ in 0..2 {
        consumers.push(broker.consumer(Subscription::broadcast(&topic)).await?);
    }
    // The first assignment may still be under way when a consumer opens: wait until each has seen a first message.
    for consumer in &mut consumers {
        let began = Instant::now();
        loop {
            producer.send(lab.message(&topic, 0).id("warm-up")).await?;
            if let Some(delivery) = consumer.recv_within(Duration::from_millis(500)).await? {
                delivery.ack().await?;
                break;
            }
            ensure!(began.elapsed() < lab.patience(), "a broadcast consumer received nothing in time");
        }
    }
    lab.send_many(&producer, &topic, 20).await?;
    for (number, consumer) in consumers.iter_mut().enumerate() {
        let mut seen = 0;
        while seen < 20 {
            let delivery = consumer.recv_within(lab.patience()).await?;
            let delivery = delivery.ok_or_else(|| Failure::new(format!("consumer {number} got {seen} of 20")))?;
            let id = ident(delivery.message());
            delivery.ack().await?;
            if id != "warm-up" {
                ensure!(id == format!("m{seen}") || lab.supports(mq_core::Feature::Replay), "{id} instead of m{seen}");
                seen += 1;
            }
        }
    }
    for consumer in consumers {
        consumer.close().await?;
    }
    // The ordinary group is not disturbed, and gets all of it too.
    let mut reader = lab.reader(&topic, &group).await?;
    let mut counted = 0;
    while counted < 20 {
        let delivery = reader.next().await?;
        counted += usize::from(ident(delivery.message()) != "warm-up");
        reader.ack(delivery).await?;
    }
    reader.close().await
}

async fn one_consumer_of_several_topics(lab: &Lab) -> Verdict {
    let group = Group::parse("g")?;
    let mut topics = Vec::new();
    for suffix in ["one", "two", "three"] {
        let topic = lab.topic(suffix).await?;
        lab.group(&topic, "g").await?;
        topics.push(topic);
    }
    let [one, two, three] = topics.as_slice() else { return Err(Failure::new("three topics")) };
    let producer = lab.producer().await?;
    lab.send_all(
        &producer,
        (0..30).map(|n| {
            lab.message(
                if n % 3 == 0 {
                    one
                } else if n % 3 == 1 {
                    two
                } else {
                    three
                },
                n,
            )
        }),
    )
    .await?;
    let broker = lab.broker().await?;
    let subscription = Subscription::new(one, &group).topic(two).topic(three);
    let mut reader = lab.reader_on(&broker, ConsumerSpec::new(subscription)).await?;
    let got = reader.consume(30).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    // Each says which topic it came from: the comparison looks at it.
    crate::scenarios::publish::all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}
