//! What is sent arrives, whole, and the sender is told the truth (G1).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mq_core::driver::ConsumerSpec;
use mq_core::error::ErrorKind;
use mq_core::message::{Headers, Message};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, StartFrom, Subscription};

use crate::checker::Checker;
use crate::compare::same;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;

scenarios!("publish":
    everything_arrives_as_sent [1, 2] [ConfirmedSend, Headers];
    odd_headers_survive [17] [Headers];
    any_bytes_survive [17] [ConfirmedSend];
    an_empty_body_is_no_tombstone [17] [Tombstones];
    no_key_is_no_empty_key [9, 17] [ConfirmedSend];
    ids_are_made_and_kept [1] [ConfirmedSend];
    timestamps_are_kept [1] [ConfirmedSend];
    topics_are_isolated [1] [ConfirmedSend];
    many_senders_at_once [1, 2] [ConfirmedSend, PipelinedSend];
    pipelined_sends_keep_the_order_of_a_key [1, 9] [PipelinedSend, KeyedOrder];
    the_first_messages_of_a_new_topic_are_kept [1, 9] [PipelinedSend, KeyedOrder, Replay];
    receipts_tell_the_position [1] [StablePosition];
);

/// Compares everything consumed with what was sent, message by message.
pub(super) fn all_same(lab: &Lab, messages: &[Message]) -> Verdict {
    for message in messages {
        let id = ident(message);
        let sent = lab.original(&id).ok_or_else(|| Failure::new(format!("{id} was never sent")))?;
        same(&sent, message).map_err(|failure| failure.at(&id))?;
    }
    Ok(())
}

async fn everything_arrives_as_sent(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let messages =
        (0..200).map(|n| lab.message(&topic, n).key(format!("key-{}", n % 7)).header("trace", vec![n as u8, 0]));
    lab.send_all(&producer, messages).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(200).await?;
    reader.silent(Duration::from_millis(200)).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).ordered().judge(lab.history())
}

async fn odd_headers_survive(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut headers = Headers::new();
    headers.append("every-byte", (0..=255).collect::<Vec<u8>>());
    headers.append("empty", Bytes::new());
    headers.append("größe-🦀", "naïve ✓");
    headers.append("not-utf-8", vec![0xff, 0xfe, 0x80]);
    headers.append("UPPER-and-lower", "kept");
    headers.append("two words", "kept too");
    headers.append("digits", "007");
    headers.append("long", "x".repeat(4000));
    headers.append("repeated", "first");
    headers.append("between", "b");
    headers.append("repeated", "second");
    headers.append("x-death", "a name brokers use themselves");
    let sent = lab.message(&topic, 0).with_headers(headers);
    lab.send(&lab.producer().await?, sent.clone()).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(1).await?;
    reader.close().await?;
    all_same(lab, &got)
}

async fn any_bytes_survive(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let every: Vec<u8> = (0..=255).collect();
    let bodies = [vec![], vec![0], vec![0xff; 3], every.clone(), b"\r\n\0{}".to_vec(), vec![7; 70_000]];
    let messages = bodies.into_iter().enumerate().map(|(n, body)| lab.message(&topic, n).key(&every).body(body));
    lab.send_all(&lab.producer().await?, messages).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(6).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}

async fn an_empty_body_is_no_tombstone(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let messages = [lab.message(&topic, 0).key("k").body(""), lab.message(&topic, 1).key("k").with_body(None)];
    lab.send_all(&lab.producer().await?, messages).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(2).await?;
    reader.close().await?;
    all_same(lab, &got)
}

async fn no_key_is_no_empty_key(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let messages = [lab.message(&topic, 0), lab.message(&topic, 1).key(""), lab.message(&topic, 2).key([0xff, 0])];
    lab.send_all(&lab.producer().await?, messages).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(3).await?;
    reader.close().await?;
    all_same(lab, &got)
}

async fn ids_are_made_and_kept(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let mut ids = HashSet::new();
    for number in 0..20 {
        let receipt = producer.send(Message::to(topic.clone()).body(format!("{number}"))).await?;
        let id = receipt.id.ok_or_else(|| Failure::new("a receipt without the id the message was sent under"))?;
        ensure!(ids.insert(id.clone()), "the id {id} was made twice");
    }
    let mut reader = lab.reader(&topic, &group).await?;
    for message in reader.consume(20).await? {
        let id = message.message_id().ok_or_else(|| Failure::new("a message arrived without its id"))?;
        ensure!(ids.remove(id), "a message arrived with an id nobody was told of, or twice: {id}");
    }
    reader.close().await
}

async fn timestamps_are_kept(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let producer = lab.producer().await?;
    lab.send(&producer, lab.message(&topic, 0).timestamp(at)).await?;
    let before = SystemTime::now();
    lab.send(&producer, lab.message(&topic, 1)).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for message in reader.consume(2).await? {
        let made = message.made_at().ok_or_else(|| Failure::new("a message arrived without its timestamp"))?;
        if ident(&message) == "m0" {
            // Whole seconds are all some brokers keep.
            let off = at.duration_since(made).or_else(|_| made.duration_since(at)).unwrap_or_default();
            ensure!(off < Duration::from_secs(1), "made at {made:?} instead of {at:?}");
        } else {
            let off = made.duration_since(before).or_else(|_| before.duration_since(made)).unwrap_or_default();
            ensure!(off < lab.patience(), "the default timestamp is off by {off:?}");
        }
    }
    reader.close().await
}

async fn topics_are_isolated(lab: &Lab) -> Verdict {
    let (one, two) = (lab.topic("one").await?, lab.topic("two").await?);
    let (group_one, group_two) = (lab.group(&one, "g").await?, lab.group(&two, "g").await?);
    let producer = lab.producer().await?;
    for number in 0..10 {
        let to: &Topic = if number % 2 == 0 { &one } else { &two };
        lab.send(&producer, lab.message(to, number)).await?;
    }
    for (topic, group, parity) in [(&one, &group_one, 0), (&two, &group_two, 1)] {
        let mut reader = lab.reader(topic, group).await?;
        let got = reader.consume(5).await?;
        reader.silent(Duration::from_millis(200)).await?;
        reader.close().await?;
        all_same(lab, &got)?;
        for message in got {
            let number: usize = ident(&message).trim_start_matches('m').parse().unwrap_or(usize::MAX);
            ensure_eq!(number % 2, parity, "{} crossed over to {topic}", ident(&message));
        }
    }
    Ok(())
}

async fn many_senders_at_once(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut producers = Vec::new();
    for _ in 0..8 {
        producers.push(lab.producer().await?);
    }
    let sends = producers.iter().enumerate().map(|(sender, producer)| {
        let messages: Vec<Message> =
            (0..50).map(|n| lab.message(&topic, sender * 50 + n).key(format!("s{sender}"))).collect();
        lab.send_all(producer, messages)
    });
    futures_util::future::try_join_all(sends).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(400).await?;
    reader.silent(Duration::from_millis(200)).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).ordered().judge(lab.history())
}

async fn pipelined_sends_keep_the_order_of_a_key(lab: &Lab) -> Verdict {
    let (topic, group) = lab.ordered_place().await?;
    let producer = lab.producer().await?;
    lab.send_all(&producer, (0..300).map(|n| lab.message(&topic, n).key(format!("k{}", n % 5)))).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, lab.ordered(&topic, &group, 50)).await?;
    reader.consume(300).await?;
    reader.close().await?;
    Checker::new(&group).ordered().judge(lab.history())
}

/// Sent while the broker is still making the topic: it may refuse the first in passing and take those behind it.
async fn the_first_messages_of_a_new_topic_are_kept(lab: &Lab) -> Verdict {
    let producer = lab.producer().await?;
    let group = Group::parse("late")?;
    let mut topics = Vec::new();
    for round in 0..6 {
        let topic = lab.topic(&format!("t{round}")).await?;
        let messages = (0..40).map(|n| {
            let message = lab.message(&topic, round * 100 + n);
            if n % 4 == 0 { message } else { message.key(format!("{round}-{}", n % 3)) }
        });
        lab.send_all(&producer, messages).await?;
        topics.push(topic);
    }
    for topic in &topics {
        let broker = lab.broker().await?;
        let subscription = Subscription::new(topic, &group).start(StartFrom::Earliest).mode(GroupMode::Ordered);
        let mut reader = lab.reader_on(&broker, ConsumerSpec::new(subscription)).await?;
        reader.consume(40).await?;
        reader.close().await?;
    }
    Checker::new(&group).ordered().judge(lab.history())
}

async fn receipts_tell_the_position(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let mut receipts = Vec::new();
    for number in 0..10 {
        let receipt = lab.send(&producer, lab.message(&topic, number)).await?;
        ensure!(receipt.position.is_stable(), "a receipt without position: {receipt:?}");
        receipts.push((format!("m{number}"), receipt.position));
    }
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(10).await? {
        let id = ident(delivery.message());
        let told = receipts.iter().find(|(sent, _)| *sent == id).map(|(_, position)| position);
        ensure_eq!(Some(delivery.position()), told, "the position of {id}");
        reader.ack(delivery).await?;
    }
    reader.close().await
}

/// The error of a send that must fail, and the message it gave back.
pub(super) async fn refused(
    outcome: Result<impl std::fmt::Debug, mq_core::SendError>,
    id: &str,
    kinds: &[ErrorKind],
) -> Verdict<mq_core::Error> {
    match outcome {
        Ok(receipt) => Err(Failure::new(format!("{id} was confirmed, though it cannot be stored: {receipt:?}"))),
        Err(error) => {
            let (error, message) = error.into_parts();
            ensure!(kinds.contains(&error.kind()), "{id}: expected one of {kinds:?}: {error:?}");
            ensure_eq!(ident(&message), id, "the message given back");
            Ok(error)
        }
    }
}
