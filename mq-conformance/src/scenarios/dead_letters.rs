//! Dead letters are whole, stay until told otherwise, and come back to the failing group only (G7, G8).

use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::dead_letter::{DeadLetter, DeadLetterReason, DeadLetterRecord};
use mq_core::driver::DeadLetterDriver;
use mq_core::name::{Group, Topic};

use crate::checker::Checker;
use crate::compare::same;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::{Action, What};
use crate::lab::Lab;
use crate::reader::{Reader, ident};
use crate::scenario::scenarios;
use crate::scenarios::retry::retrying;
use crate::scenarios::send::{limit, sized};

scenarios!("dead_letters":
    they_are_whole [7, 8] [DeadLetters];
    the_record_says_why [7] [DeadLetters];
    attempts_are_recorded [4, 7] [DeadLetters, NonBlockingRetry];
    one_at_the_size_limit_still_fits [7] [DeadLetters];
    listing_thirty_times_consumes_nothing [7] [DeadLetters];
    groups_have_their_own [7] [DeadLetters];
    an_empty_place_is_no_error [7] [DeadLetters];
);

pub(super) async fn open(lab: &Lab, topic: &Topic, group: &Group) -> Verdict<Box<dyn DeadLetterDriver>> {
    Ok(lab.admin().await?.dead_letters(topic, group).await?)
}

/// The dead letters, which must be `count`; recorded as found.
pub(super) async fn listed(lab: &Lab, topic: &Topic, group: &Group, count: usize) -> Verdict<Vec<DeadLetter>> {
    let letters = open(lab, topic, group).await?.list(count + 10).await?;
    let ids: Vec<String> = letters.iter().map(|letter| ident(&letter.message)).collect();
    ensure_eq!(letters.len(), count, "dead letters listed: {ids:?}; how many");
    for letter in &letters {
        lab.history().note(ident(&letter.message), group.as_str(), What::Dead);
    }
    Ok(letters)
}

pub(super) fn record(letter: &DeadLetter) -> Verdict<&DeadLetterRecord> {
    let record = letter.record.as_ref();
    record.ok_or_else(|| Failure::new(format!("{} has no record of why it is there", ident(&letter.message))))
}

/// Fails unless every dead letter is the message that was sent.
pub(super) fn whole(lab: &Lab, letters: &[DeadLetter]) -> Verdict {
    for letter in letters {
        let id = ident(&letter.message);
        let sent = lab.original(&id).ok_or_else(|| Failure::new(format!("{id} was never sent")))?;
        same(&sent, &letter.message).map_err(|failure| failure.at(format!("the dead letter {id}")))?;
    }
    Ok(())
}

pub(super) async fn fail_all(reader: &mut Reader<'_>, count: usize) -> Verdict {
    for delivery in reader.take(count).await? {
        reader.dead_letter(delivery, "it cannot be done").await?;
    }
    Ok(())
}

async fn they_are_whole(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut messages = vec![
        lab.message(&topic, 0).key([0, 0xff]).body((0..=255).collect::<Vec<u8>>()).header("b", vec![0xff, 0]),
        lab.message(&topic, 1).header("twice", "1").header("twice", "2").header("größe", "ä"),
        lab.message(&topic, 2).body("").header("empty", ""),
        lab.message(&topic, 3).key("k").body(vec![b'x'; 60_000]),
    ];
    if lab.supports(Feature::Tombstones) {
        messages.push(lab.message(&topic, 4).key("k").with_body(None));
    }
    let count = messages.len();
    lab.send_all(&lab.producer().await?, messages).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    fail_all(&mut reader, count).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    whole(lab, &listed(lab, &topic, &group, count).await?)?;
    Checker::new(&group).judge(lab.history())
}

async fn the_record_says_why(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let before = std::time::SystemTime::now() - Duration::from_secs(1);
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let delivery = reader.next().await?;
    let position = delivery.position().clone();
    // Longer than what is kept, with characters of two bytes at the cut.
    let error = format!("no such customer: {}", "é".repeat(1500));
    reader.dead_letter(delivery, &error).await?;
    reader.close().await?;
    let letters = listed(lab, &topic, &group, 1).await?;
    let letter = letters.first().ok_or_else(|| Failure::new("one dead letter"))?;
    let record = record(letter)?;
    ensure_eq!(record.reason, DeadLetterReason::Rejected, "the reason");
    ensure_eq!(record.topic, topic, "the topic");
    ensure_eq!(record.group, group, "the group");
    ensure_eq!(record.attempts, 1, "the attempts");
    ensure_eq!(record.redrives, 0, "the redrives");
    ensure!(record.failed > before, "it failed at {:?}", record.failed);
    ensure!(error.starts_with(&record.error) && record.error.len() > 500, "the error kept is `{}`", record.error);
    if position.is_stable() {
        ensure_eq!(record.position, position, "where it stood");
    }
    Checker::new(&group).judge(lab.history())
}

async fn attempts_are_recorded(lab: &Lab) -> Verdict {
    let delays = [lab.delay(Feature::NonBlockingRetry)];
    let topic = lab.topic("t").await?;
    let group = lab.group_with(&topic, "g", mq_core::GroupMode::Shared, &delays).await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, retrying(&topic, &group, &delays)).await?;
    for _ in 0..2 {
        let delivery = reader.next().await?;
        reader.retry(delivery, delays[0]).await?;
    }
    let delivery = reader.next().await?;
    reader.dead_letter(delivery, "enough").await?;
    reader.close().await?;
    let letters = listed(lab, &topic, &group, 1).await?;
    whole(lab, &letters)?;
    for letter in &letters {
        let record = record(letter)?;
        ensure_eq!(record.attempts, 3, "the attempts recorded");
        ensure!(
            record.first_failed.is_some_and(|first| first < record.failed),
            "it first failed before it failed last"
        );
        ensure_eq!(record.topic, topic, "the topic it failed on is the user's, not a retry place");
    }
    Checker::new(&group).judge(lab.history())
}

async fn one_at_the_size_limit_still_fits(lab: &Lab) -> Verdict {
    let delays =
        if lab.supports(Feature::NonBlockingRetry) { vec![lab.delay(Feature::NonBlockingRetry)] } else { vec![] };
    let topic = lab.topic("t").await?;
    let group = lab.group_with(&topic, "g", mq_core::GroupMode::Shared, &delays).await?;
    let size = limit(lab)?.min(16 << 20);
    lab.send(&lab.producer().await?, sized(lab.message(&topic, 0).key("key"), size)).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, retrying(&topic, &group, &delays)).await?;
    if let Some(delay) = delays.first() {
        let delivery = reader.next().await?;
        reader.retry(delivery, *delay).await?;
    }
    let delivery = reader.next().await?;
    reader.dead_letter(delivery, &"e".repeat(2000)).await?;
    let letters = listed(lab, &topic, &group, 1).await?;
    whole(lab, &letters)?;
    for letter in &letters {
        ensure_eq!(record(letter)?.reason, DeadLetterReason::Rejected, "the reason, also without room for headers");
    }
    redrive(lab, &topic, &group, 1).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.control().redrives, 1, "the redrives");
    crate::scenarios::publish::all_same(lab, &[delivery.message().clone()])?;
    reader.ack(delivery).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

/// Brings back everything, recorded; `count` must come.
pub(super) async fn redrive(lab: &Lab, topic: &Topic, group: &Group, count: u64) -> Verdict {
    let mut letters = open(lab, topic, group).await?;
    for letter in letters.list(1000).await? {
        let what = What::Settled { action: Action::Redrive, due: None };
        lab.history().note(ident(&letter.message), group.as_str(), what);
    }
    let mut moved = 0;
    loop {
        match letters.redrive(100).await? {
            0 => break,
            some => moved += some,
        }
    }
    ensure_eq!(moved, count, "dead letters brought back");
    ensure_eq!(letters.list(10).await?.len(), 0, "dead letters left after all were brought back");
    Ok(())
}

async fn listing_thirty_times_consumes_nothing(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    fail_all(&mut reader, 10).await?;
    for round in 0..30 {
        let letters = open(lab, &topic, &group).await?.list(100).await?;
        ensure_eq!(letters.len(), 10, "dead letters in round {round} of listing");
    }
    // One handle listing repeatedly is no cursor either.
    let mut same_handle = open(lab, &topic, &group).await?;
    for _ in 0..3 {
        ensure_eq!(same_handle.list(4).await?.len(), 4, "the oldest four, again");
    }
    drop(same_handle);
    whole(lab, &listed(lab, &topic, &group, 10).await?)?;
    redrive(lab, &topic, &group, 10).await?;
    let got = reader.consume(10).await?;
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    crate::scenarios::publish::all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}

async fn groups_have_their_own(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let other = lab.group(&topic, "other").await?;
    lab.send_many(&lab.producer().await?, &topic, 2).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    fail_all(&mut reader, 2).await?;
    let mut second = lab.reader(&topic, &other).await?;
    second.consume(2).await?;
    listed(lab, &topic, &group, 2).await?;
    ensure_eq!(
        open(lab, &topic, &other).await?.list(10).await?.len(),
        0,
        "dead letters of a group that had no failure"
    );
    ensure_eq!(open(lab, &topic, &other).await?.purge(None).await?, 0, "purged of a group that had no failure");
    listed(lab, &topic, &group, 2).await?;
    reader.close().await?;
    second.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_empty_place_is_no_error(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut letters = open(lab, &topic, &group).await?;
    ensure_eq!(letters.list(10).await?.len(), 0, "listed of none");
    ensure_eq!(letters.redrive(10).await?, 0, "brought back of none");
    ensure_eq!(letters.purge(None).await?, 0, "purged of none");
    Ok(())
}
