//! Settling: acknowledgements by themselves; retries and dead letters first stored at their new place.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use mq_core::driver::{DeadLettering, Retry, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Headers, control};

use crate::acks;
use crate::attempts;
use crate::core::Core;
use crate::error::error;
use crate::leases;
use crate::sending::deliver_at;
use crate::session::Session;
use crate::source::Source;
use crate::wire;

/// Room for the record of a dead letter beside the headers a message may have.
const RECORD: usize = 4 * 1024;

/// Settles the deliveries of one consumer.
#[derive(Debug)]
pub(crate) struct RocketSettler {
    core: Arc<Core>,
    session: Arc<Session>,
    sources: Arc<[Source]>,
    /// Acknowledged at receipt: the answer to everything is that it is done.
    auto_ack: bool,
}

impl RocketSettler {
    pub(crate) fn new(core: Arc<Core>, session: Arc<Session>, sources: Arc<[Source]>, auto_ack: bool) -> Self {
        Self { core, session, sources, auto_ack }
    }

    fn source(&self, token: Token) -> Result<&Source> {
        let index = usize::try_from(token.lane).ok();
        index
            .and_then(|index| self.sources.get(index))
            .ok_or_else(|| error(ErrorKind::Internal, "the delivery names a topic this consumer does not read"))
    }

    async fn one(&self, settlement: Settlement) -> Result<Settled> {
        let Settlement { token, action } = settlement;
        let Some(held) = self.session.held(token) else { return Ok(Settled::Stale) };
        let mut lease = held.lease.lock().await;
        if lease.settled {
            return Ok(Settled::Stale);
        }
        if !lease.stands() {
            drop(lease);
            self.session.forget(token.major);
            return Ok(Settled::Stale);
        }
        let known = match action {
            Settle::Ack => leases::ack(&self.core, &lease).await?,
            Settle::Requeue | Settle::Release => leases::give_back(&self.core, &mut lease).await?,
            Settle::Extend(length) => {
                let length = length.max(self.core.config.lease);
                let known = leases::change(&self.core, &mut lease, length).await?;
                if known {
                    return Ok(Settled::Durable);
                }
                known
            }
            Settle::Retry(retry) => {
                self.retry(token, *retry).await?;
                leases::ack(&self.core, &lease).await?
            }
            Settle::DeadLetter(letter) => {
                self.dead_letter(token, *letter).await?;
                leases::ack(&self.core, &lease).await?
            }
            Settle::Hold(hold) => {
                let receipt = lease.receipt.clone();
                // It stays ours: its lease is renewed while the record is stored.
                drop(lease);
                attempts::note(&self.core, self.source(token)?, &receipt, &hold).await?;
                return Ok(Settled::Durable);
            }
        };
        lease.settled = true;
        drop(lease);
        let settled = self.session.forget(token.major);
        Ok(if known { settled } else { Settled::Stale })
    }

    /// Side by side on one connection, each with an answer of its own.
    async fn each(&self, settlements: Vec<(usize, Settlement)>) -> Vec<(usize, Result<Settled>)> {
        let one = async |(index, settlement)| (index, self.one(settlement).await);
        join_all(settlements.into_iter().map(one)).await
    }

    async fn acks(&self, acks: Vec<(usize, Token)>) -> Vec<(usize, Result<Settled>)> {
        let (mut done, alone) = match acks.len() {
            0 | 1 => (Vec::new(), acks),
            _ => acks::together(&self.core, &self.session, acks).await,
        };
        let alone = alone.into_iter().map(|(index, token)| (index, Settlement { token, action: Settle::Ack }));
        done.extend(self.each(alone.collect()).await);
        done
    }

    async fn retry(&self, token: Token, retry: Retry) -> Result<()> {
        let source = self.source(token)?;
        let mut patch = Headers::with_capacity(5);
        patch.append(control::ATTEMPT, retry.attempt.to_string());
        patch.append(control::DUE, control::from_time(retry.due));
        patch.append(control::GROUP, source.group.as_str().to_owned());
        if let Some(first) = retry.first_failed {
            patch.append(control::DLQ_FIRST_FAILED, control::from_time(first));
        }
        if retry.redrives > 0 {
            patch.append(control::REDRIVES, retry.redrives.to_string());
        }
        let mut copy = wire::hop(&retry.message, &patch)?;
        deliver_at(&mut copy, retry.due);
        self.core.store(&source.retry, &copy).await
    }

    async fn dead_letter(&self, token: Token, letter: DeadLettering) -> Result<()> {
        let source = self.source(token)?;
        let patch = letter.record.to_headers(&letter.message, RECORD);
        self.core.store_visibly(&source.dead_letters, &wire::hop(&letter.message, &patch)?).await
    }
}

#[async_trait]
impl SettlerDriver for RocketSettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        if self.auto_ack {
            return batch.drain(..).map(|_| Ok(Settled::Durable)).collect();
        }
        let mut results: Vec<Option<Result<Settled>>> = batch.iter().map(|_| None).collect();
        let (mut acks, mut others) = (Vec::new(), Vec::new());
        for (index, settlement) in batch.drain(..).enumerate() {
            match settlement.action {
                Settle::Ack => acks.push((index, settlement.token)),
                _ => others.push((index, settlement)),
            }
        }
        let (others, acks) = tokio::join!(self.each(others), self.acks(acks));
        for (index, outcome) in others.into_iter().chain(acks) {
            if let Some(result) = results.get_mut(index) {
                *result = Some(outcome);
            }
        }
        let lost = || Err(error(ErrorKind::Internal, "a settlement was lost").ambiguous());
        results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    }

    /// Each settlement was answered by the broker, which has stored it.
    async fn flush(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}
