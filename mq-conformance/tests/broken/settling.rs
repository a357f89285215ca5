//! Drivers that settle something else than they are told.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::driver::{Event, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::Result;

use mq_conformance::spoil::Mischief;

/// Acknowledges what is to be given back.
#[derive(Debug, Default)]
pub(crate) struct LosesOnRequeue;

#[async_trait]
impl Mischief for LosesOnRequeue {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut().filter(|settlement| matches!(settlement.action, Settle::Requeue)) {
            settlement.action = Settle::Ack;
        }
        to.settle(batch).await
    }
}

/// Acknowledges what was never started.
#[derive(Debug, Default)]
pub(crate) struct LosesOnRelease;

#[async_trait]
impl Mischief for LosesOnRelease {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut().filter(|settlement| matches!(settlement.action, Settle::Release)) {
            settlement.action = Settle::Ack;
        }
        to.settle(batch).await
    }
}

/// Says an ack took effect, and gives the message back.
#[derive(Debug, Default)]
pub(crate) struct ForgetsAcks;

#[async_trait]
impl Mischief for ForgetsAcks {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut().filter(|settlement| matches!(settlement.action, Settle::Ack)) {
            settlement.action = Settle::Release;
        }
        to.settle(batch).await
    }
}

/// An ack settles everything delivered before it, too.
#[derive(Debug, Default)]
pub(crate) struct AcksNeighbours(Mutex<Vec<Token>>);

#[async_trait]
impl Mischief for AcksNeighbours {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let mut delivered = self.0.lock().unwrap();
        delivered.extend(events.iter().skip(first).filter_map(|event| match event {
            Event::Message(incoming) => Some(incoming.token),
            _ => None,
        }));
    }

    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let asked = batch.len();
        let mut neighbours = BTreeSet::new();
        {
            let mut delivered = self.0.lock().unwrap();
            for settlement in batch.iter().filter(|settlement| matches!(settlement.action, Settle::Ack)) {
                if let Some(place) = delivered.iter().position(|token| *token == settlement.token) {
                    neighbours.extend(0..place);
                }
            }
            let named: Vec<Token> = batch.iter().map(|settlement| settlement.token).collect();
            let swallowed: Vec<Token> = neighbours.iter().filter_map(|place| delivered.get(*place).copied()).collect();
            delivered.retain(|token| !swallowed.contains(token) && !named.contains(token));
            let acks = swallowed.into_iter().filter(|token| !named.contains(token));
            batch.extend(acks.map(|token| Settlement { token, action: Settle::Ack }));
        }
        let mut results = to.settle(batch).await;
        results.truncate(asked);
        results
    }
}

/// Makes every retry due at once.
#[derive(Debug, Default)]
pub(crate) struct RetriesEarly;

#[async_trait]
impl Mischief for RetriesEarly {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut() {
            if let Settle::Retry(retry) = &mut settlement.action {
                retry.due -= retry.delay / 2;
            }
        }
        to.settle(batch).await
    }
}

/// Keeps all retries in one queue: a short one waits behind a long one.
#[derive(Debug, Default)]
pub(crate) struct QueuesRetriesInARow(Mutex<Option<SystemTime>>);

#[async_trait]
impl Mischief for QueuesRetriesInARow {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut() {
            if let Settle::Retry(retry) = &mut settlement.action {
                let mut last = self.0.lock().unwrap();
                retry.due = last.map_or(retry.due, |last| retry.due.max(last + Duration::from_millis(50)));
                *last = Some(retry.due);
            }
        }
        to.settle(batch).await
    }
}

/// Acknowledges first and stores the retry never: what a crash between the two does.
#[derive(Debug, Default)]
pub(crate) struct AcksInsteadOfRetrying;

#[async_trait]
impl Mischief for AcksInsteadOfRetrying {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut().filter(|settlement| matches!(settlement.action, Settle::Retry(_))) {
            settlement.action = Settle::Ack;
        }
        to.settle(batch).await
    }
}

/// Cuts the body of a dead letter.
#[derive(Debug, Default)]
pub(crate) struct TruncatesDeadLetters;

#[async_trait]
impl Mischief for TruncatesDeadLetters {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut() {
            if let Settle::DeadLetter(letter) = &mut settlement.action {
                let body = letter.message.body_bytes().map(|body| body.slice(..body.len().min(1000)));
                letter.message = letter.message.clone().with_body(body);
            }
        }
        to.settle(batch).await
    }
}

/// Forgets why a message was set aside.
#[derive(Debug, Default)]
pub(crate) struct ForgetsTheReason;

#[async_trait]
impl Mischief for ForgetsTheReason {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut() {
            if let Settle::DeadLetter(letter) = &mut settlement.action {
                letter.record.error.clear();
                letter.record.attempts = 0;
            }
        }
        to.settle(batch).await
    }
}

/// Keeps the last acks for itself, as a client that is closed before they are on the wire.
#[derive(Debug, Default)]
pub(crate) struct LosesTheLastAcks(Mutex<Vec<Settlement>>);

#[async_trait]
impl Mischief for LosesTheLastAcks {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut results = Vec::new();
        for settlement in batch.drain(..) {
            let mut ready = Vec::new();
            if matches!(settlement.action, Settle::Ack) {
                let mut kept = self.0.lock().unwrap();
                kept.push(settlement);
                if kept.len() > 20 {
                    ready.push(kept.remove(0));
                }
            } else {
                ready.push(settlement);
                results.extend(to.settle(&mut ready).await);
                continue;
            }
            to.settle(&mut ready).await;
            results.push(Ok(Settled::Sent));
        }
        results
    }
}

/// Forgets that a message held for its key's order has failed.
#[derive(Debug, Default)]
pub(crate) struct ForgetsHeldAttempts;

#[async_trait]
impl Mischief for ForgetsHeldAttempts {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        for settlement in batch.iter_mut() {
            if let Settle::Hold(hold) = &mut settlement.action {
                hold.attempt = 1;
            }
        }
        to.settle(batch).await
    }
}
