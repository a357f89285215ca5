//! Dead letters come back to the failing group only, and begin again; or they are deleted (G4, G7).

use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::driver::Origin;

use crate::checker::Checker;
use crate::failure::{Verdict, ensure_eq};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::dead_letters::{fail_all, listed, open, record, redrive};
use crate::scenarios::retry::retrying;

scenarios!("redrive":
    redrive_goes_to_the_failing_group_only [7] [DeadLetters];
    a_redriven_message_begins_again [4, 7] [DeadLetters, NonBlockingRetry];
    redrive_takes_the_oldest_first [7] [DeadLetters];
    purge_removes_only_what_it_says [7] [DeadLetters];
);

async fn redrive_goes_to_the_failing_group_only(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let other = lab.group(&topic, "other").await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut fine = lab.reader(&topic, &other).await?;
    fine.consume(3).await?;
    fail_all(&mut reader, 3).await?;
    listed(lab, &topic, &group, 3).await?;
    redrive(lab, &topic, &group, 3).await?;
    let got = reader.consume(3).await?;
    fine.silent(QUIET).await?;
    reader.close().await?;
    fine.close().await?;
    crate::scenarios::publish::all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())?;
    Checker::new(&other).judge(lab.history())
}

async fn a_redriven_message_begins_again(lab: &Lab) -> Verdict {
    let delays = [lab.delay(Feature::NonBlockingRetry)];
    let topic = lab.topic("t").await?;
    let group = lab.group_with(&topic, "g", mq_core::GroupMode::Shared, &delays).await?;
    lab.send_many(&lab.producer().await?, &topic, 1).await?;
    let broker = lab.broker().await?;
    let mut reader = lab.reader_on(&broker, retrying(&topic, &group, &delays)).await?;
    for redrives in 0..3 {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.attempt(), 1, "the attempt after {redrives} redrives");
        ensure_eq!(delivery.control().redrives, redrives, "the redrives counted");
        if redrives > 0 {
            ensure_eq!(delivery.origin(), Origin::Redrive, "the origin of a redriven message");
        }
        reader.retry(delivery, delays[0]).await?;
        let delivery = reader.next().await?;
        ensure_eq!((delivery.attempt(), delivery.control().redrives), (2, redrives), "attempt and redrives on retry");
        if redrives == 2 {
            reader.ack(delivery).await?;
            break;
        }
        reader.dead_letter(delivery, "again").await?;
        let letters = listed(lab, &topic, &group, 1).await?;
        for letter in &letters {
            ensure_eq!(record(letter)?.redrives, redrives, "the redrives recorded");
        }
        redrive(lab, &topic, &group, 1).await?;
    }
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn redrive_takes_the_oldest_first(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut order = Vec::new();
    for _ in 0..5 {
        let delivery = reader.next().await?;
        order.push(ident(delivery.message()));
        reader.dead_letter(delivery, "no").await?;
    }
    let mut letters = open(lab, &topic, &group).await?;
    let ids: Vec<String> = letters.list(10).await?.iter().map(|letter| ident(&letter.message)).collect();
    ensure_eq!(ids, order, "the order listed");
    ensure_eq!(letters.redrive(2).await?, 2, "two brought back");
    let mut back: Vec<String> = Vec::new();
    for _ in 0..2 {
        let delivery = reader.next().await?;
        back.push(ident(delivery.message()));
        delivery.ack().await?;
    }
    back.sort();
    let mut oldest: Vec<String> = order.iter().take(2).cloned().collect();
    oldest.sort();
    ensure_eq!(back, oldest, "the two brought back");
    ensure_eq!(letters.list(10).await?.len(), 3, "those left");
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn purge_removes_only_what_it_says(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 5).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for _ in 0..5 {
        let delivery = reader.next().await?;
        reader.dead_letter(delivery, "no").await?;
    }
    let mut letters = open(lab, &topic, &group).await?;
    let before: Vec<String> = letters.list(10).await?.iter().map(|letter| ident(&letter.message)).collect();
    ensure_eq!(letters.purge(Some(2)).await?, 2, "purged of two asked for");
    let after: Vec<String> = letters.list(10).await?.iter().map(|letter| ident(&letter.message)).collect();
    ensure_eq!(after.as_slice(), before.get(2..).unwrap_or_default(), "those left are the younger ones");
    ensure_eq!(letters.purge(None).await?, 3, "purged of all");
    ensure_eq!(letters.list(10).await?.len(), 0, "those left after purging all");
    ensure_eq!(letters.redrive(10).await?, 0, "brought back from an empty place");
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}
