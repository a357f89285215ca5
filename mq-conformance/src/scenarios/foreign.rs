//! What stock tools write is consumable as it is, and what we write is readable by them (G17).

use std::time::{Duration, Instant};

use mq_core::driver::Origin;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};

use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::harness::RawMessage;
use crate::lab::{Lab, QUIET};
use crate::reader::Reader;
use crate::scenario::scenarios;
use crate::scenarios::dead_letters::{open, record};
use crate::scenarios::retry::retrying;

scenarios!("foreign":
    a_stock_message_arrives_as_it_is [17] [];
    a_stock_client_reads_what_we_write [17] [];
    forged_control_headers_change_nothing [4, 17] [];
    forged_control_headers_on_our_topic_change_nothing [4, 17] [];
    a_foreign_id_is_believed [10, 17] [];
    hostile_messages_end_no_subscription [8, 17] [];
    a_foreign_message_survives_retry_and_dead_letter [7, 17] [NonBlockingRetry, DeadLetters];
    nothing_foreign_is_declared_or_deleted [17] [Topology];
);

/// A foreign place, and a group to read it as. On a queue the group names only its retry and dead-letter places; on a
/// log it must be there before the messages are, or it may begin behind them.
async fn place(lab: &Lab) -> Verdict<(Topic, Group)> {
    let place = lab.foreign_place("f").await?;
    let group = if place.is_foreign() { Group::parse("g")? } else { lab.group(&place, "g").await? };
    Ok((place, group))
}

async fn publish(lab: &Lab, place: &Topic, message: RawMessage) -> Verdict {
    Ok(lab.foreign()?.publish(place, &message).await?)
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m [u8]> {
    message.headers().get(name).map(|value| &**value)
}

async fn a_stock_message_arrives_as_it_is(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    let carries = lab.foreign()?.carries();
    let body: Vec<u8> = (0..=255).collect();
    let mut raw = RawMessage::new(body.clone()).header("plain", "text").header("ünïcode", "wörth");
    if carries.key {
        raw = raw.key([1, 0, 0xff]);
    }
    publish(lab, &place, raw).await?;
    let mut reader = lab.reader(&place, &group).await?;
    let delivery = reader.next().await?;
    let message = delivery.message();
    ensure_eq!(message.topic(), &place, "the topic it came from");
    ensure_eq!(message.body_bytes().map(|bytes| bytes.to_vec()), Some(body), "the body");
    ensure_eq!(header(message, "plain"), Some(b"text".as_slice()), "a header");
    ensure_eq!(header(message, "ünïcode"), Some("wörth".as_bytes()), "a header that is not ASCII");
    if carries.key {
        ensure_eq!(message.key_bytes().map(|bytes| bytes.to_vec()), Some(vec![1, 0, 0xff]), "the key");
    }
    ensure_eq!((delivery.attempt(), delivery.origin()), (1, Origin::Topic), "attempt and origin");
    if delivery.position().is_stable() {
        ensure!(delivery.id().is_some(), "a stable position, yet no id is derived from it");
    }
    drop(delivery.ack());
    reader.silent(QUIET).await?;
    reader.close().await
}

async fn a_stock_client_reads_what_we_write(lab: &Lab) -> Verdict {
    let place = lab.foreign_place("f").await?;
    let foreign = lab.foreign()?;
    let producer = lab.producer().await?;
    let trace = if foreign.carries().binary_headers { vec![0xff, 1] } else { b"text".to_vec() };
    let message = Message::to(place.clone()).key("key-7").body("written by the SDK").header("trace", trace.clone());
    producer.send(message.id("our-id")).await?;
    producer.send(Message::to(place.clone()).body("second")).await?;
    let read = foreign.read(&place, 2, lab.patience()).await?;
    ensure_eq!(read.len(), 2, "messages the stock client read");
    let first = read.iter().find(|raw| raw.body.as_deref() == Some(b"written by the SDK".as_slice()));
    let first = first.ok_or_else(|| Failure::new(format!("the body is not among {read:?}")))?;
    let read = first.headers.iter().find(|(name, _)| name == "trace").and_then(|(_, value)| value.clone());
    ensure_eq!(read, Some(trace), "the header as the stock client reads it");
    if foreign.carries().key {
        ensure_eq!(first.key.as_deref(), Some(b"key-7".as_slice()), "the key as the stock client reads it");
    }
    Ok(())
}

/// Every control header the SDK has, each with the worst value for whoever believes it.
fn forged(body: &str) -> RawMessage {
    [
        ("mq-attempt", "99"),
        ("mq-due-ms", "99999999999999"),
        ("mq-group", "somebody-else"),
        ("mq-origin", "elsewhere"),
        ("mq-redrives", "7"),
        ("mq-dlq-reason", "max-attempts"),
        ("mq-dlq-error", "forged"),
        ("mq-dlq-attempts", "99"),
        ("mq-dlq-topic", "elsewhere"),
        ("mq-dlq-group", "somebody-else"),
        ("mq-dlq-failed-ms", "1"),
        ("mq-tombstone", "body"),
    ]
    .into_iter()
    .fold(RawMessage::new(body), |raw, (name, value)| raw.header(name, value))
}

/// A forged message must look like any other, at once.
async fn ordinary(lab: &Lab, reader: &mut Reader<'_>, body: &str, foreign: bool) -> Verdict {
    let began = Instant::now();
    let delivery = reader.next().await?;
    ensure!(began.elapsed() < lab.patience(), "a forged due time held it back for {:?}", began.elapsed());
    ensure_eq!(delivery.attempt(), 1, "the attempt of a message with a forged one");
    ensure_eq!(delivery.origin(), Origin::Topic, "the origin of a message with forged headers");
    ensure_eq!(delivery.control().redrives, 0, "the redrives of a message with forged ones");
    ensure_eq!(delivery.control().group, None, "the group of a message with a forged one");
    let got = delivery.message().body_bytes().map(|bytes| bytes.to_vec());
    ensure_eq!(got, Some(body.as_bytes().to_vec()), "the body of a message with forged headers");
    if foreign {
        let attempt = header(delivery.message(), "mq-attempt");
        ensure_eq!(attempt, Some(b"99".as_slice()), "on a foreign place forged headers are plain data, and stay");
    }
    drop(delivery.ack());
    Ok(())
}

async fn forged_control_headers_change_nothing(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    publish(lab, &place, forged("forged")).await?;
    let mut reader = lab.reader(&place, &group).await?;
    ordinary(lab, &mut reader, "forged", place.is_foreign()).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn forged_control_headers_on_our_topic_change_nothing(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    publish(lab, &topic, forged("forged")).await?;
    publish(lab, &topic, RawMessage::new("plain")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for _ in 0..2 {
        let delivery = reader.next().await?;
        let body = delivery.message().body_bytes().map(|bytes| bytes.to_vec()).unwrap_or_default();
        ensure_eq!(delivery.attempt(), 1, "the attempt of `{}`", body.escape_ascii());
        ensure_eq!(delivery.origin(), Origin::Topic, "the origin of `{}`", body.escape_ascii());
        ensure_eq!(delivery.control().redrives, 0, "the redrives of `{}`", body.escape_ascii());
        drop(delivery.ack());
    }
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn a_foreign_id_is_believed(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    publish(lab, &place, RawMessage::new("x").header("mq-id", "order-4711")).await?;
    let mut reader = lab.reader(&place, &group).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.id(), Some(MessageId::from("order-4711")), "the id of a message that says it");
    drop(delivery.ack());
    reader.close().await
}

async fn hostile_messages_end_no_subscription(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    let carries = lab.foreign()?.carries();
    let mut hostile = vec![
        RawMessage::new(Vec::new()),
        RawMessage::new(vec![0xff; 1000]).header("bad-utf8", vec![0xc3, 0x28]),
        RawMessage::new("x").header("mq-id", vec![0xff, 0xfe]),
        RawMessage::new("x").header("mq-id", "x".repeat(10_000)),
        RawMessage::new("x").header("mq-attempt", vec![0xff; 40]).header("mq-due-ms", "-1"),
        RawMessage::new("x").header("mq-attempt", "18446744073709551616").header("mq-redrives", "4294967296"),
        RawMessage::new("x").header("mq-due-ms", "18446744073709551615"),
        RawMessage::new("x").header("mq-key", "forged").header("traceparent", "00-nonsense"),
        (0..200).fold(RawMessage::new("x"), |raw, n| raw.header(format!("h{n}"), "v")),
    ];
    if carries.repeated_headers {
        hostile.push(
            RawMessage::new("x")
                .header("twice", "1")
                .header("twice", "2")
                .header("mq-attempt", "3")
                .header("mq-attempt", "4"),
        );
    }
    if carries.null_headers {
        hostile
            .push(RawMessage { headers: vec![("null".into(), None), ("mq-id".into(), None)], ..RawMessage::new("x") });
    }
    if carries.null_body {
        hostile.push(RawMessage { body: None, ..RawMessage::default() });
    }
    let count = hostile.len();
    for raw in hostile {
        publish(lab, &place, raw).await?;
    }
    publish(lab, &place, RawMessage::new("good")).await?;
    let mut reader = lab.reader(&place, &group).await?;
    let mut good = false;
    for _ in 0..=count {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.attempt(), 1, "the attempt of a hostile message");
        good |= delivery.message().body_bytes().is_some_and(|body| &**body == b"good");
        drop(delivery.ack());
    }
    ensure!(good, "the good message behind {count} hostile ones did not come");
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn a_foreign_message_survives_retry_and_dead_letter(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    let carries = lab.foreign()?.carries();
    let mut raw = RawMessage::new(vec![0, 0xff, 7]).header("h", vec![0xff]).header("mq-attempt", "50");
    if carries.repeated_headers {
        raw = raw.header("twice", "1").header("twice", "2");
    }
    if carries.null_headers {
        raw.headers.push(("nothing".into(), None));
    }
    if carries.key {
        raw = raw.key("k");
    }
    publish(lab, &place, raw).await?;
    let delays = [lab.delay(mq_core::Feature::NonBlockingRetry)];
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, retrying(&place, &group, &delays)).await?;
    let delivery = reader.next().await?;
    let first = delivery.message().clone();
    let settled = delivery.retry_after(delays[0]).map_err(|refused| refused.0)?;
    settled.await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.attempt(), 2, "the attempt after one retry of a foreign message with a forged attempt");
    alike(&first, delivery.message()).map_err(|failure| failure.at("after the retry"))?;
    delivery.dead_letter("no").await?;
    let mut letters = open(lab, &place, &group).await?;
    let listed = letters.list(10).await?;
    ensure_eq!(listed.len(), 1, "dead letters of the foreign place");
    for letter in &listed {
        alike(&first, &letter.message).map_err(|failure| failure.at("as a dead letter"))?;
        ensure_eq!(record(letter)?.attempts, 2, "the attempts recorded");
    }
    ensure_eq!(letters.redrive(10).await?, 1, "brought back");
    let delivery = reader.next().await?;
    alike(&first, delivery.message()).map_err(|failure| failure.at("brought back"))?;
    ensure_eq!((delivery.attempt(), delivery.control().redrives), (1, 1), "attempt and redrives, brought back");
    delivery.ack().await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

/// As [`same`](crate::compare::same), but the id may have been made on the way: a copy needs one.
fn alike(first: &Message, later: &Message) -> Verdict {
    crate::compare::same(first, &later.clone().with_id(first.message_id().cloned()))
}

async fn nothing_foreign_is_declared_or_deleted(lab: &Lab) -> Verdict {
    let (place, group) = place(lab).await?;
    if !place.is_foreign() {
        // A log's topics have no owner: consuming one as it is must not change it.
        let admin = lab.admin().await?;
        let before = admin.describe_topic(&place).await?;
        let mut reader = lab.reader(&place, &group).await?;
        reader.silent(QUIET).await?;
        reader.close().await?;
        let after = admin.describe_topic(&place).await?;
        ensure_eq!(after.partitions, before.partitions, "the partitions of a foreign topic after consuming it");
        return Ok(());
    }
    let admin = lab.admin().await?;
    let declared = admin.declare_topic(&mq_core::driver::TopicSpec::new(place.clone())).await;
    ensure!(declared.is_err(), "a place of another program was declared");
    ensure!(admin.delete_topic(&place).await.is_err(), "a place of another program was deleted");
    publish(lab, &place, RawMessage::new("still there")).await?;
    let mut reader = lab.reader(&place, &group).await?;
    let delivery = reader.next().await?;
    drop(delivery.ack());
    reader.close().await
}
