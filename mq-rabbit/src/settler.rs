//! Settling: acknowledgements in batches; retries and dead letters first stored at their new place, then acknowledged.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use mq_core::config::Topology as Mode;
use mq_core::driver::{DeadLettering, Hold, Retry, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Headers, Message, MessageId, control};
use mq_core::name::TopicKind;

use crate::core::Core;
use crate::error::error;
use crate::lane::Outgoing;
use crate::names::short;
use crate::session::{Return, Session};
use crate::source::Source;
use crate::topology::{QueueSpec, default_exchange};
use crate::wire;

/// Room for the record of a dead letter beside the headers a message may have.
const RECORD: usize = 4 * 1024;

/// Settles the deliveries of one consumer.
#[derive(Debug)]
pub(crate) struct RabbitSettler {
    core: Arc<Core>,
    session: Arc<Session>,
    sources: Arc<[Source]>,
    /// Acknowledged at receipt: the answer to everything is that it is done.
    auto_ack: bool,
}

/// What became of one settlement, as far as it is known before anything is awaited.
enum Step {
    Done(Result<Settled>),
    /// Its place in the list of acknowledgements.
    Ack(usize),
    /// Its place in the list of those given back.
    Return(usize),
    /// Its place in the list of hops.
    Hop(usize),
}

impl RabbitSettler {
    pub(crate) fn new(core: Arc<Core>, session: Arc<Session>, sources: Arc<[Source]>, auto_ack: bool) -> Self {
        Self { core, session, sources, auto_ack }
    }

    fn source(&self, token: Token) -> Result<&Source> {
        let index = usize::try_from(token.lane).ok();
        index
            .and_then(|index| self.sources.get(index))
            .ok_or_else(|| error(ErrorKind::Internal, "the delivery names a queue this consumer does not read"))
    }

    fn is_foreign_queue(&self, token: Token) -> bool {
        self.source(token).map_or(true, |source| source.topic.kind() == TopicKind::Queue && !source.trusted)
    }

    fn ack(&self, tokens: &[Token]) -> Vec<Settled> {
        let (results, forget) = self.session.ack(tokens);
        if !forget.is_empty() {
            tokio::spawn(forget_records(Arc::clone(&self.sources), forget));
        }
        results
    }

    async fn hop(&self, token: Token, action: Settle) -> Result<Settled> {
        if !self.session.is_current(token) {
            return Ok(Settled::Stale);
        }
        match action {
            Settle::Hold(hold) => return self.hold(token, &hold).await,
            Settle::Retry(retry) => self.retry(token, *retry).await?,
            Settle::DeadLetter(letter) => match self.dead_letter(token, *letter).await {
                // There is no room for a record: the broker moves it as it is, at least once, where the queue is ours.
                Err(cause) if cause.kind() == ErrorKind::TooLarge && !self.is_foreign_queue(token) => {
                    return Ok(self.session.give_back(token, Return::DeadLetter));
                }
                stored => stored?,
            },
            _ => return Err(error(ErrorKind::Internal, "not a settlement that moves the message")),
        }
        Ok(self.ack(&[token]).pop().unwrap_or(Settled::Stale))
    }

    async fn retry(&self, token: Token, retry: Retry) -> Result<()> {
        let source = self.source(token)?;
        let mut patch = Headers::with_capacity(5);
        patch.append(control::ATTEMPT, retry.attempt.to_string());
        patch.append(control::DUE, control::from_time(retry.due));
        patch.append(control::GROUP, source.group_name().to_owned());
        if let Some(first) = retry.first_failed {
            patch.append(control::DLQ_FIRST_FAILED, control::from_time(first));
        }
        if retry.redrives > 0 {
            patch.append(control::REDRIVES, retry.redrives.to_string());
        }
        let queue = source.retry_queue(retry.delay);
        self.store(&retry.message, &patch, &queue).await
    }

    async fn dead_letter(&self, token: Token, letter: DeadLettering) -> Result<()> {
        let source = self.source(token)?;
        let patch = letter.record.to_headers(&letter.message, RECORD);
        let queue = source.dead_letter_queue(&letter.record.group);
        self.store(&letter.message, &patch, &queue).await
    }

    /// Stores a copy in one of the group's queues, declaring the queue if somebody removed it.
    async fn store(&self, message: &Message, patch: &Headers, queue: &QueueSpec) -> Result<()> {
        let send = || async {
            let properties = wire::hop(message, patch)?;
            let routing_key = short(&queue.name)?;
            let body = message.body_bytes().cloned().unwrap_or_default();
            let outgoing = |done| Outgoing {
                exchange: default_exchange(),
                routing_key,
                properties,
                body,
                keyed: false,
                confirm: true,
                done,
            };
            self.core.hops.send(outgoing).await
        };
        match send().await {
            Err(cause) if cause.kind() == ErrorKind::Unroutable && self.core.config.topology == Mode::Declare => {
                self.core.topology.ensure_queue(queue).await?;
                send().await
            }
            result => result,
        }
    }

    async fn hold(&self, token: Token, hold: &Hold) -> Result<Settled> {
        let source = self.source(token)?;
        let Some(ledger) = &source.ledger else {
            return Err(error(ErrorKind::Rejected, "this group is not ordered: it holds no messages for retry")
                .with_hint("create the group with the mode `ordered`"));
        };
        match self.session.record(token) {
            // Without an id there is nothing to record the attempt under; it starts again after a crash.
            None => Ok(if self.session.is_current(token) { Settled::Sent } else { Settled::Stale }),
            Some(id) => {
                ledger.record(&id, hold.attempt, hold.due).await?;
                Ok(Settled::Durable)
            }
        }
    }
}

async fn forget_records(sources: Arc<[Source]>, forget: Vec<(u32, MessageId)>) {
    for (lane, id) in forget {
        let source = usize::try_from(lane).ok().and_then(|lane| sources.get(lane));
        if let Some(ledger) = source.and_then(|source| source.ledger.as_ref())
            && let Err(cause) = ledger.forget(&id).await
        {
            // Harmless: the record of a message that is gone expires.
            tracing::debug!(%cause, "a recorded attempt was not removed");
        }
    }
}

#[async_trait]
impl SettlerDriver for RabbitSettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        if self.auto_ack {
            return batch.drain(..).map(|_| Ok(Settled::Durable)).collect();
        }
        let mut acks = Vec::with_capacity(batch.len());
        let mut returns = Vec::new();
        let mut hops = Vec::new();
        let mut steps = Vec::with_capacity(batch.len());
        for Settlement { token, action } in batch.drain(..) {
            steps.push(match action {
                Settle::Ack => {
                    acks.push(token);
                    Step::Ack(acks.len() - 1)
                }
                Settle::Requeue | Settle::Release => {
                    let how = if matches!(action, Settle::Requeue) { Return::Requeue } else { Return::Release };
                    returns.push((token, how));
                    Step::Return(returns.len() - 1)
                }
                // The broker's consumer_timeout cannot be extended; while the channel stands, the message is ours.
                Settle::Extend(_) => {
                    Step::Done(Ok(if self.session.is_current(token) { Settled::Durable } else { Settled::Stale }))
                }
                Settle::Retry(_) | Settle::DeadLetter(_) | Settle::Hold(_) => {
                    hops.push(self.hop(token, action));
                    Step::Hop(hops.len() - 1)
                }
            });
        }
        // Before anything is given back: the attempt of a held message must be recorded when the next one gets it.
        let mut moved: Vec<Option<Result<Settled>>> = match hops.len() {
            0 => Vec::new(),
            _ => join_all(hops).await.into_iter().map(Some).collect(),
        };
        let acked = if acks.is_empty() { Vec::new() } else { self.ack(&acks) };
        let returned: Vec<Settled> =
            returns.into_iter().map(|(token, how)| self.session.give_back(token, how)).collect();
        let lost = || error(ErrorKind::Internal, "a settlement has no result");
        steps
            .into_iter()
            .map(|step| match step {
                Step::Done(result) => result,
                Step::Ack(index) => acked.get(index).copied().ok_or_else(lost),
                Step::Return(index) => returned.get(index).copied().ok_or_else(lost),
                Step::Hop(index) => moved.get_mut(index).and_then(Option::take).unwrap_or_else(|| Err(lost())),
            })
            .collect()
    }

    /// Frames are queued for the connection's thread: nothing to wait for.
    fn ack_now(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) -> bool {
        if self.auto_ack {
            results.extend(tokens.iter().map(|_| Ok(Settled::Durable)));
        } else {
            results.extend(self.ack(tokens).into_iter().map(Ok));
        }
        true
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        if self.auto_ack {
            return Ok(());
        }
        self.session.flush(deadline).await
    }
}
