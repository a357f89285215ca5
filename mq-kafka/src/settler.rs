//! Settling: in memory for acks, through the producer for retries and dead letters.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Feature;
use mq_core::driver::{DeadLettering, Retry, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Headers, Message, MessageId, control};
use mq_core::name::{Group, Topic};

use crate::encode::{number, with_control};
use crate::error::{BACKEND, fault};
use crate::link::Link;
use crate::names;
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use crate::state::{offset_of, settled};

/// How long the commit of a held message's attempt may take.
const HOLD: Duration = Duration::from_secs(2);
/// Bytes the failure record may take: derived topics have this much more room than their source.
const RECORD: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct KafkaSettler {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// `None` for a broadcast subscription.
    group: Option<Group>,
    delays: Vec<Duration>,
}

impl KafkaSettler {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>, group: Option<Group>, delays: Vec<Duration>) -> Self {
        Self { shared, link, group, delays }
    }

    /// Everything that needs no broker, under one lock.
    fn settle_here(&self, batch: &mut Vec<Settlement>, slow: &mut Vec<(usize, Settlement)>) -> Vec<Result<Settled>> {
        let options = &self.shared.options;
        // At most once, or nothing to remember: nothing comes back, so everything is as durable as it gets.
        let durable = options.auto_ack || !options.commits;
        let mut results = Vec::with_capacity(batch.len());
        let mut wake = false;
        let mut state = self.shared.lock();
        let awaited = state.is_awaited(options);
        state.begin_batch();
        for settlement in batch.drain(..) {
            let token = settlement.token;
            results.push(Ok(match settlement.action {
                _ if options.auto_ack => match settlement.action {
                    Settle::Retry(_) | Settle::DeadLetter(_) => {
                        slow.push((results.len(), settlement));
                        Settled::Sent
                    }
                    _ => Settled::Durable,
                },
                Settle::Ack => settled(state.ack(&token), durable),
                ref action @ (Settle::Requeue | Settle::Release) => {
                    wake = true;
                    settled(state.give_back(&token, matches!(action, Settle::Requeue)), durable)
                }
                // A member's lease is its heartbeat, which the client sends by itself.
                Settle::Extend(_) => settled(state.lane(&token).is_some(), durable),
                Settle::Hold(ref hold) => {
                    let held = state.hold(&token, hold.attempt);
                    slow.push((results.len(), settlement));
                    settled(held, false)
                }
                Settle::Retry(_) | Settle::DeadLetter(_) => {
                    slow.push((results.len(), settlement));
                    Settled::Sent
                }
            }));
        }
        self.shared.commit_if_due(&mut state, std::time::Instant::now());
        drop(state);
        if awaited {
            self.shared.ready.notify_one();
        }
        if wake {
            // Something is to be fetched again.
            self.shared.wake_reader();
        }
        results
    }

    async fn settle_slow(&self, settlement: Settlement) -> Result<Settled> {
        let token = settlement.token;
        match settlement.action {
            Settle::Retry(retry) => self.retry(&token, &retry).await?,
            Settle::DeadLetter(lettering) => self.dead_letter(&token, &lettering).await?,
            _ => return Ok(Settled::Sent),
        }
        if self.shared.options.auto_ack {
            return Ok(Settled::Durable);
        }
        let mut state = self.shared.lock();
        let awaited = state.is_awaited(&self.shared.options);
        state.begin_batch();
        let acked = state.moved(&token, self.shared.options.commit_acks);
        self.shared.commit_if_due(&mut state, std::time::Instant::now());
        drop(state);
        if awaited {
            self.shared.ready.notify_one();
        }
        Ok(settled(acked, false))
    }

    /// Topic of the delivery and the id its copies travel under; `None` when it is stale.
    fn origin(&self, token: &Token, message: &Message) -> Option<(Topic, Option<MessageId>)> {
        let state = self.shared.lock();
        let lane =
            if self.shared.options.auto_ack { state.lanes.get(token.lane as usize)? } else { state.lane(token)? };
        let topic = lane.source.topic.clone();
        let id = message.message_id().cloned().unwrap_or_else(|| {
            // The same id the consumer derives, so that a guard recognises the copy, which has another position.
            MessageId::from(format!("{topic}@{}:{}", lane.partition, offset_of(token)))
        });
        Some((topic, Some(id)))
    }

    async fn retry(&self, token: &Token, retry: &Retry) -> Result<()> {
        let Some((topic, id)) = self.origin(token, &retry.message) else { return Ok(()) };
        let group = self.group(Feature::NonBlockingRetry)?;
        if !self.delays.contains(&retry.delay) {
            return Err(fault(
                ErrorKind::Config,
                format!("no place was declared for a retry after {}", humantime::format_duration(retry.delay)),
            )
            .with_hint("name every delay when the consumer is opened"));
        }
        let mut patch = Headers::with_capacity(6);
        patch.append(control::ATTEMPT, number(retry.attempt));
        patch.append(control::DUE, control::from_time(retry.due));
        patch.append(control::GROUP, group.as_str().to_owned());
        patch.append(control::ORIGIN, topic.text().clone().into_bytes());
        if retry.redrives > 0 {
            patch.append(control::REDRIVES, number(retry.redrives));
        }
        if let Some(first) = retry.first_failed {
            patch.append(control::DLQ_FIRST_FAILED, control::from_time(first));
        }
        let name = names::retry(&topic, group, retry.delay);
        self.send(&name, &retry.message, id.as_ref(), &patch).await.map_err(|error| error.with_operation("retry"))
    }

    async fn dead_letter(&self, token: &Token, lettering: &DeadLettering) -> Result<()> {
        let Some((topic, id)) = self.origin(token, &lettering.message) else { return Ok(()) };
        let group = self.group(Feature::DeadLetters)?;
        let patch = lettering.record.to_headers(&lettering.message, RECORD);
        let name = names::dead_letters(&topic, group);
        self.send(&name, &lettering.message, id.as_ref(), &patch)
            .await
            .map_err(|error| error.with_operation("dead letter"))
    }

    fn group(&self, feature: Feature) -> Result<&Group> {
        self.group.as_ref().ok_or_else(|| {
            Error::unsupported(feature, BACKEND, "a broadcast subscription has no place for it: subscribe as a group")
        })
    }

    async fn send(&self, name: &str, message: &Message, id: Option<&MessageId>, patch: &Headers) -> Result<()> {
        self.link
            .store(&Outgoing {
                topic: name,
                key: message.key_bytes().map(|key| &**key),
                body: message.body_bytes().map(|body| &**body),
                headers: Some(with_control(message, id, patch)),
            })
            .await
            .map(drop)
    }
}

#[async_trait]
impl SettlerDriver for KafkaSettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut slow = Vec::new();
        let mut results = self.settle_here(batch, &mut slow);
        let mut held = false;
        for (index, settlement) in slow {
            let result = if let Settle::Hold(_) = settlement.action {
                held = true;
                continue;
            } else {
                self.settle_slow(settlement).await
            };
            if let Some(slot) = results.get_mut(index) {
                *slot = result;
            }
        }
        if held && let Err(error) = self.flush(HOLD).await {
            // The attempt is in memory and goes with the next commit; only a crash before that forgets it.
            tracing::debug!(%error, "an attempt is not durable yet");
        }
        results
    }

    fn ack_now(&self, tokens: &[Token], results: &mut Vec<Result<Settled>>) -> bool {
        self.shared.ack(tokens, results);
        true
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        tokio::time::timeout(deadline, self.shared.flush()).await.map_err(|_| {
            Error::timeout(deadline)
                .with_backend(BACKEND)
                .with_operation("flush")
                .with_hint("the commits go on; until they succeed a crash repeats what was acked since")
        })
    }
}
