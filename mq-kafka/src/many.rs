//! One subscription to several topics.
//!
//! A group belongs to a topic, so each topic has a membership of its own; here they are one consumer again. The topic's
//! number travels in the upper half of a token's lane.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{ConsumerDriver, Event, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::consumer::KafkaConsumer;
use crate::error::fault;
use crate::settler::KafkaSettler;

const SHIFT: u32 = 16;
/// Partitions of one topic, its retries included.
pub(crate) const MAX_LANES: usize = 1 << SHIFT;
/// Topics of one subscription.
pub(crate) const MAX_TOPICS: usize = 1 << SHIFT;

fn place(part: usize, lane: u32) -> u32 {
    (u32::try_from(part).unwrap_or_default() << SHIFT) | lane
}

/// Leaves the number of the partition; returns that of the topic.
pub(crate) fn take_part(lane: &mut u32) -> usize {
    let part = *lane >> SHIFT;
    *lane &= (1 << SHIFT) - 1;
    part as usize
}

#[derive(Debug)]
pub(crate) struct Consumers {
    parts: Vec<KafkaConsumer>,
    ready: Arc<Notify>,
    /// Which part is asked first: each in turn, so that none starves the others.
    first: usize,
    events: Vec<Event>,
}

impl Consumers {
    /// `ready` is told when any of the parts has something.
    pub(crate) fn new(parts: Vec<KafkaConsumer>, ready: Arc<Notify>) -> Self {
        Self { parts, ready, first: 0, events: Vec::new() }
    }

    fn take(&mut self, events: &mut Vec<Event>, max: usize) -> Result<bool> {
        let before = events.len();
        self.first = (self.first + 1) % self.parts.len().max(1);
        for turn in 0..self.parts.len() {
            let part = (self.first + turn) % self.parts.len();
            let Some(consumer) = self.parts.get(part) else { continue };
            let messages = events.iter().skip(before).filter(|event| matches!(event, Event::Message(_))).count();
            consumer.take(&mut self.events, max.saturating_sub(messages))?;
            events.extend(self.events.drain(..).map(|event| placed(part, event)));
        }
        Ok(events.len() > before)
    }
}

fn placed(part: usize, event: Event) -> Event {
    let all = |lanes: Vec<u32>| lanes.into_iter().map(|lane| place(part, lane)).collect();
    match event {
        Event::Message(mut incoming) => {
            incoming.token.lane = place(part, incoming.token.lane);
            Event::Message(incoming)
        }
        Event::Assigned(lanes) => Event::Assigned(all(lanes)),
        Event::Revoking(id, lanes) => Event::Revoking((id << SHIFT) | part as u64, all(lanes)),
        Event::Lost(lanes) => Event::Lost(all(lanes)),
        other => other,
    }
}

#[async_trait]
impl ConsumerDriver for Consumers {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + wait;
        let ready = Arc::clone(&self.ready);
        while !self.take(events, max)? && !wait.is_zero() {
            if tokio::time::timeout_at(deadline, ready.notified()).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        for part in &mut self.parts {
            part.pause(paused).await?;
        }
        Ok(())
    }

    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        let part = usize::try_from(revocation & ((1 << SHIFT) - 1)).unwrap_or_default();
        match self.parts.get_mut(part) {
            Some(part) => part.revoked(revocation >> SHIFT).await,
            None => Err(fault(ErrorKind::Internal, "no such revocation")),
        }
    }

    async fn close(self: Box<Self>, deadline: Duration) -> Result<()> {
        for part in &self.parts {
            part.begin_close();
        }
        let until = Instant::now() + deadline;
        let mut result = Ok(());
        for part in self.parts {
            result = result.and(Box::new(part).close(until.saturating_duration_since(Instant::now())).await);
        }
        result
    }
}

#[derive(Debug)]
pub(crate) struct Settlers(pub(crate) Vec<KafkaSettler>);

#[async_trait]
impl SettlerDriver for Settlers {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut run = Vec::new();
        let mut run_part = 0;
        for mut settlement in batch.drain(..) {
            let part = take_part(&mut settlement.token.lane);
            if part != run_part && !run.is_empty() {
                results.extend(self.settle_run(run_part, &mut run).await);
            }
            run_part = part;
            run.push(settlement);
        }
        if !run.is_empty() {
            results.extend(self.settle_run(run_part, &mut run).await);
        }
        results
    }

    fn ack_now(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) -> bool {
        let split = |mut token: Token| (take_part(&mut token.lane), token);
        let tokens: Vec<(usize, Token)> = tokens.iter().map(|token| split(*token)).collect();
        for run in tokens.chunk_by(|(one, _), (other, _)| one == other) {
            let part = run.first().and_then(|(part, _)| self.0.get(*part));
            let tokens: Vec<Token> = run.iter().map(|(_, token)| *token).collect();
            match part {
                Some(settler) if settler.ack_now(&tokens, results) => {}
                _ => results.extend(run.iter().map(|_| Ok(Settled::Stale))),
            }
        }
        true
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        for settler in &self.0 {
            settler.flush(until.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }
}

impl Settlers {
    async fn settle_run(&self, part: usize, run: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        match self.0.get(part) {
            Some(settler) => settler.settle(run).await,
            None => run.drain(..).map(|_| Ok(Settled::Stale)).collect(),
        }
    }
}
