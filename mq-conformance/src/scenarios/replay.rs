//! Where groups start, and where they can be moved to.

use std::time::{Duration, SystemTime};

use mq_core::driver::{ConsumerSpec, SeekTo};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{StartFrom, Subscription};

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("replay":
    a_declared_group_gets_what_is_sent_since [2] [Groups];
    a_new_group_may_start_at_the_oldest [2] [Replay];
    a_new_group_may_start_behind_the_newest [2] [Replay];
    a_group_goes_on_where_it_stopped [2, 3] [Replay];
    seek_to_the_oldest_and_the_newest [2] [Replay];
    seek_to_a_position [2] [SeekPosition];
    seek_to_a_time [2] [SeekTime];
);

async fn a_declared_group_gets_what_is_sent_since(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    // Nobody consumes yet; what is sent now is for the group all the same.
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(10).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_new_group_may_start_at_the_oldest(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let group = Group::parse("late")?;
    let mut reader = lab.reader_from(&topic, &group, StartFrom::Earliest).await?;
    reader.consume(10).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_new_group_may_start_behind_the_newest(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let producer = lab.producer().await?;
    for number in 100..105 {
        producer.send(lab.message(&topic, number)).await?;
    }
    let group = Group::parse("late")?;
    let mut reader = lab.reader_from(&topic, &group, StartFrom::Latest).await?;
    reader.silent(Duration::from_secs(2)).await?;
    lab.send_many(&producer, &topic, 3).await?;
    reader.consume(3).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_group_goes_on_where_it_stopped(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    for start in [StartFrom::Earliest, StartFrom::Latest, StartFrom::SinceDeclared] {
        let mut reader = lab.reader_from(&topic, &group, start).await?;
        reader.consume(3).await?;
        reader.close().await?;
    }
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(1).await?;
    reader.silent(QUIET).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn read_ids(lab: &Lab, topic: &Topic, group: &Group) -> Verdict<Vec<String>> {
    let broker = lab.fresh().await?;
    let mut consumer = broker.consumer_with(ConsumerSpec::new(Subscription::new(topic, group))).await?;
    let mut ids = Vec::new();
    // The first assignment may take its time; after the first message the others follow at once.
    let mut wait = Duration::from_secs(4);
    while let Some(delivery) = consumer.recv_within(wait).await? {
        ids.push(ident(delivery.message()));
        delivery.ack().await?;
        wait = Duration::from_millis(800);
    }
    consumer.close().await?;
    broker.close().await?;
    ids.sort();
    Ok(ids)
}

async fn seek_to_the_oldest_and_the_newest(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let admin = lab.admin().await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 4).await?;
    let all = ["m0", "m1", "m2", "m3"];
    ensure_eq!(read_ids(lab, &topic, &group).await?, all, "the first reading");
    admin.seek(&topic, &group, &SeekTo::Earliest).await?;
    ensure_eq!(read_ids(lab, &topic, &group).await?, all, "the reading after a seek to the oldest");
    admin.seek(&topic, &group, &SeekTo::Earliest).await?;
    admin.seek(&topic, &group, &SeekTo::Latest).await?;
    lab.send_all(&producer, [lab.message(&topic, 9)]).await?;
    ensure_eq!(read_ids(lab, &topic, &group).await?, ["m9"], "the reading after a seek behind the newest");
    Ok(())
}

async fn seek_to_a_position(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let mut positions = Vec::new();
    for number in 0..6 {
        // One key: one partition, so that a position divides all of them.
        let receipt = lab.send(&producer, lab.message(&topic, number).key("k")).await?;
        positions.push(receipt.position);
    }
    ensure_eq!(read_ids(lab, &topic, &group).await?.len(), 6, "the first reading");
    let third = positions.get(3).cloned().ok_or_else(|| Failure::new("six positions"))?;
    lab.admin().await?.seek(&topic, &group, &SeekTo::Position(third)).await?;
    ensure_eq!(read_ids(lab, &topic, &group).await?, ["m3", "m4", "m5"], "the reading after a seek to the fourth");
    Ok(())
}

async fn seek_to_a_time(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 3).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let between = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    lab.send_all(&producer, (3..6).map(|n| lab.message(&topic, n))).await?;
    ensure_eq!(read_ids(lab, &topic, &group).await?.len(), 6, "the first reading");
    let admin = lab.admin().await?;
    admin.seek(&topic, &group, &SeekTo::Time(between)).await?;
    ensure_eq!(read_ids(lab, &topic, &group).await?, ["m3", "m4", "m5"], "the reading after a seek to a time");
    admin.seek(&topic, &group, &SeekTo::Time(SystemTime::now() + Duration::from_secs(3600))).await?;
    let left = read_ids(lab, &topic, &group).await?;
    ensure!(left.is_empty(), "after a seek into the future came {left:?}");
    Ok(())
}
