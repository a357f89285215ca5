//! Every way to send, and every way it can fail: the sender always learns the truth, in time (G1).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mq_core::capability::Feature;
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::{ProducerOptions, SendError};

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::publish::{all_same, refused};

scenarios!("send":
    a_message_at_the_limit_fits [1, 7] [ConfirmedSend];
    too_large_gives_the_message_back [1] [ConfirmedSend];
    an_unknown_topic_is_an_error [1] [ConfirmedSend];
    a_topic_without_a_group_loses_nothing_silently [1] [ConfirmedSend];
    good_and_bad_sends_in_flight_together [1] [PipelinedSend];
    a_batch_answers_for_each_message [1] [BatchSend];
    a_large_batch_goes_through [1, 14] [BatchSend];
    the_callback_is_called_once [1] [PipelinedSend];
    unconfirmed_sends_arrive_on_a_good_day [1] [UnconfirmedSend];
    flush_waits_for_every_outcome [1, 12] [PipelinedSend];
    close_flushes_and_then_refuses [1, 12] [PipelinedSend];
    reserved_headers_are_refused [17] [Headers];
    in_flight_is_bounded [14] [PipelinedSend];
);

/// The longest a send may take to fail: the deadline of the contract.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest message the adapter declares.
pub(super) fn limit(lab: &Lab) -> Verdict<usize> {
    let limits = lab.capabilities().get(Feature::ConfirmedSend).map(|capability| capability.limits.clone());
    let bytes = limits.and_then(|limits| limits.max_bytes);
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| Failure::new("confirmed-send declares no max_bytes: the largest message is unbounded"))
}

/// A message of exactly `size` bytes, as limits count.
pub(super) fn sized(message: Message, size: usize) -> Message {
    let other = message.size() - message.body_bytes().map_or(0, bytes::Bytes::len);
    let body: Vec<u8> = (0..size.saturating_sub(other)).map(|at| (at % 251) as u8).collect();
    message.body(body)
}

async fn a_message_at_the_limit_fits(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    // Beyond 16 MiB the test would measure patience, not the limit.
    let size = limit(lab)?.min(16 << 20);
    let message = sized(lab.message(&topic, 0).key("key").header("h", "v"), size);
    ensure_eq!(message.size(), size, "the size built");
    lab.send(&lab.producer().await?, message).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(1).await?;
    reader.close().await?;
    all_same(lab, &got)
}

async fn too_large_gives_the_message_back(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let message = sized(lab.message(&topic, 0), limit(lab)? + 1);
    let began = Instant::now();
    let error = refused(producer.send(message).await, "m0", &[ErrorKind::TooLarge]).await?;
    ensure!(!error.is_ambiguous(), "a message that cannot be stored is not ambiguous: {error}");
    ensure!(began.elapsed() < DEADLINE, "it took {:?}", began.elapsed());
    lab.send(&producer, lab.message(&topic, 1)).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(1).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn an_unknown_topic_is_an_error(lab: &Lab) -> Verdict {
    let producer = lab.producer().await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let began = Instant::now();
    let kinds = [ErrorKind::NotFound, ErrorKind::Unroutable];
    let error = refused(producer.send(lab.message(&nowhere, 0)).await, "m0", &kinds).await?;
    ensure!(began.elapsed() < DEADLINE, "it took {:?}", began.elapsed());
    ensure!(error.hint().is_some(), "the error does not say what to do: {error}");
    let (topic, _) = lab.place().await?;
    lab.send(&producer, lab.message(&topic, 1)).await.map(drop)
}

async fn a_topic_without_a_group_loses_nothing_silently(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let producer = lab.producer().await?;
    let outcome = producer.send(lab.message(&topic, 0)).await;
    if let Err(error) = &outcome {
        let error = error.error();
        ensure_eq!(error.kind(), ErrorKind::Unroutable, "a message for nobody: {error}");
        ensure!(error.hint().is_some(), "the error does not say what to do: {error}");
    } else {
        // Stored means stored: whoever comes later and asks for everything must find it.
        ensure!(lab.supports(Feature::Replay), "confirmed, though nobody can ever receive it");
        let group = mq_core::Group::parse("later")?;
        let mut reader = lab.reader_from(&topic, &group, mq_core::StartFrom::Earliest).await?;
        reader.consume(1).await?;
        reader.close().await?;
    }
    Ok(())
}

async fn good_and_bad_sends_in_flight_together(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let producer = lab.producer().await?;
    let mut pending = Vec::new();
    for number in 0..120 {
        let bad = number % 4 == 1;
        let message = lab.message(if bad { &nowhere } else { &topic }, number);
        let id = lab.sending(&message, None);
        pending.push((id, bad, producer.enqueue(message).await?));
    }
    for (id, bad, pending) in pending {
        let outcome = pending.await;
        lab.sent(&id, outcome.as_ref().map_err(SendError::error));
        if bad {
            refused(outcome, &id, &[ErrorKind::NotFound, ErrorKind::Unroutable]).await?;
        } else {
            outcome?;
        }
    }
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(90).await?;
    reader.silent(Duration::from_millis(200)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_batch_answers_for_each_message(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let too_large = limit(lab)? + 1;
    let batch: Vec<Message> = (0..7)
        .map(|n| lab.message(&topic, n))
        .map(|message| if ident(&message) == "m3" { sized(message, too_large) } else { message })
        .collect();
    for message in &batch {
        lab.sending(message, None);
    }
    let results = producer.send_batch(batch).await;
    ensure_eq!(results.len(), 7, "one result for each message");
    for (number, outcome) in results.into_iter().enumerate() {
        let id = format!("m{number}");
        lab.sent(&id, outcome.as_ref().map_err(SendError::error));
        if number == 3 {
            refused(outcome, &id, &[ErrorKind::TooLarge]).await?;
        } else {
            let receipt = outcome?;
            ensure_eq!(receipt.id.as_ref().map(ToString::to_string), Some(id), "the receipt's id");
        }
    }
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(6).await?;
    reader.silent(Duration::from_millis(200)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_large_batch_goes_through(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut options = ProducerOptions::default();
    options.max_in_flight = 64;
    let producer = lab.broker().await?.producer_with(options).await?;
    let batch: Vec<Message> = (0..500).map(|n| lab.message(&topic, n)).collect();
    for message in &batch {
        lab.sending(message, None);
    }
    for (number, outcome) in producer.send_batch(batch).await.into_iter().enumerate() {
        lab.sent(&format!("m{number}"), outcome.as_ref().map_err(SendError::error));
        outcome?;
    }
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(500).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn the_callback_is_called_once(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    let (calls, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    for number in 0..40 {
        let to = if number == 20 { &nowhere } else { &topic };
        let (calls, good) = (Arc::clone(&calls), Arc::clone(&good));
        let count = move |outcome: mq_core::Result<_>| {
            calls.fetch_add(1, Ordering::Relaxed);
            good.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
        };
        producer.enqueue_with(lab.message(to, number), count).await?;
    }
    producer.flush().await?;
    ensure_eq!(calls.load(Ordering::Relaxed), 40, "calls of the callback after a flush");
    ensure_eq!(good.load(Ordering::Relaxed), 39, "calls with a receipt");
    Ok(())
}

async fn unconfirmed_sends_arrive_on_a_good_day(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    for number in 0..50 {
        let message = lab.message(&topic, number);
        lab.sending(&message, None);
        producer.send_unconfirmed(message).await?;
    }
    producer.flush().await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(50).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}

async fn flush_waits_for_every_outcome(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    let mut pending = Vec::new();
    for number in 0..100 {
        pending.push(producer.enqueue(lab.message(&topic, number)).await?);
    }
    producer.flush().await?;
    for (number, pending) in pending.into_iter().enumerate() {
        let outcome = pending.now_or_never();
        let outcome = outcome.ok_or_else(|| Failure::new(format!("after the flush m{number} has no outcome")))?;
        outcome?;
    }
    Ok(())
}

async fn close_flushes_and_then_refuses(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    let mut pending = Vec::new();
    for number in 0..50 {
        let message = lab.message(&topic, number);
        let id = lab.sending(&message, None);
        pending.push((id, producer.enqueue(message).await?));
    }
    producer.close().await?;
    for (id, pending) in pending {
        let outcome = pending.now_or_never();
        let outcome = outcome.ok_or_else(|| Failure::new(format!("after the close {id} has no outcome")))?;
        lab.sent(&id, outcome.as_ref().map_err(SendError::error));
        outcome?;
    }
    refused(producer.send(lab.message(&topic, 99)).await, "m99", &[ErrorKind::Closed]).await?;
    let again = tokio::time::timeout(DEADLINE, producer.close()).await;
    match again {
        Err(_) => return Err(Failure::new("closing twice hangs")),
        Ok(Err(error)) => ensure_eq!(error.kind(), ErrorKind::Closed, "closing twice: {error}"),
        Ok(Ok(())) => {}
    }
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(50).await?;
    reader.silent(Duration::from_millis(200)).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn reserved_headers_are_refused(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    for name in ["mq-id", "mq-attempt", "mq-anything"] {
        let outcome = producer.send(lab.message(&topic, 0).header(name, "7")).await;
        let error = refused(outcome, "m0", &[ErrorKind::Config]).await?;
        ensure!(error.to_string().contains(name), "the error does not name the header: {error}");
    }
    Ok(())
}

async fn in_flight_is_bounded(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut options = ProducerOptions::default();
    options.max_in_flight = 4;
    let producer = lab.broker().await?.producer_with(options).await?;
    // Faster than any broker: what does not fit waits, and nothing is refused or lost.
    lab.send_many(&producer, &topic, 200).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(200).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}
