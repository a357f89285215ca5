//! Drivers that lie to senders, or spoil what is sent.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use mq_core::driver::{ProducerDriver, Publish, Receipt};
use mq_core::message::{Headers, Position};
use mq_core::name::Topic;

use mq_conformance::spoil::{Mischief, instead};

/// Confirms every tenth message without storing it.
#[derive(Debug, Default)]
pub(crate) struct ConfirmsBeforeStoring(AtomicUsize);

#[async_trait]
impl Mischief for ConfirmsBeforeStoring {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        let mut kept = Vec::new();
        for publish in batch {
            if self.0.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
                publish.complete(Ok(Receipt::at(Position::None)));
            } else {
                kept.push(publish);
            }
        }
        to.publish(kept).await;
    }
}

/// Confirms the first message of each topic without storing it.
#[derive(Debug, Default)]
pub(crate) struct LosesTheFirst(Mutex<HashSet<Topic>>);

#[async_trait]
impl Mischief for LosesTheFirst {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        let is_first = |publish: &Publish| self.0.lock().unwrap().insert(publish.message().topic().clone());
        let (first, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_first);
        first.into_iter().for_each(|publish| publish.complete(Ok(Receipt::at(Position::None))));
        to.publish(rest).await;
    }
}

/// Stores the first message of each topic that has a key behind the ten after it.
#[derive(Debug, Default)]
pub(crate) struct OvertakesTheFirst(Mutex<HashMap<Topic, (Option<Publish>, usize)>>);

#[async_trait]
impl Mischief for OvertakesTheFirst {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        let mut now = Vec::new();
        for publish in batch {
            let mut topics = self.0.lock().unwrap();
            let topic = publish.message().topic().clone();
            if publish.message().key_bytes().is_some() && !topics.contains_key(&topic) {
                topics.insert(topic, (Some(publish), 0));
                continue;
            }
            now.push(publish);
            if let Some((first, behind)) = topics.get_mut(&topic) {
                *behind += 1;
                now.extend(if *behind == 10 { first.take() } else { None });
            }
        }
        to.publish(now).await;
    }
}

/// Reports success whatever the broker says.
#[derive(Debug, Default)]
pub(crate) struct CallsEverySendGood;

#[async_trait]
impl Mischief for CallsEverySendGood {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for original in batch {
            let (publish, pending) = mq_core::driver::in_flight(
                original.message().clone(),
                original.destination().clone(),
                original.deliver_at(),
                true,
            );
            to.publish(vec![publish]).await;
            tokio::spawn(async move { original.complete(Ok(pending.await.unwrap_or_default())) });
        }
    }
}

/// Reports a failure for the neighbour of the message that failed, as a client with one list of returns does.
#[derive(Debug, Default)]
pub(crate) struct MixesUpOutcomes {
    owed: std::sync::Arc<std::sync::Mutex<Option<mq_core::Error>>>,
}

#[async_trait]
impl Mischief for MixesUpOutcomes {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for original in batch {
            let (publish, pending) =
                mq_core::driver::in_flight(original.message().clone(), original.destination().clone(), None, true);
            to.publish(vec![publish]).await;
            let outcome = pending.await.map_err(|(error, _)| error);
            let mut owed = self.owed.lock().unwrap();
            let told = match (outcome, owed.take()) {
                (Err(error), None) => {
                    *owed = Some(error);
                    Ok(Receipt::default())
                }
                (Ok(_), Some(error)) => Err(error),
                (outcome, _) => outcome,
            };
            original.complete(told);
        }
    }
}

/// Stores a message without its headers.
#[derive(Debug, Default)]
pub(crate) struct DropsHeaders;

#[async_trait]
impl Mischief for DropsHeaders {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for publish in batch {
            let (message, at) = (publish.message().clone().with_headers(Headers::new()), publish.deliver_at());
            instead(to, publish, message, at).await;
        }
    }
}

/// Stores a message without its key.
#[derive(Debug, Default)]
pub(crate) struct LosesKeys;

#[async_trait]
impl Mischief for LosesKeys {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for publish in batch {
            let (message, at) = (publish.message().clone().with_key(None), publish.deliver_at());
            instead(to, publish, message, at).await;
        }
    }
}

/// Stores an empty body where there is none.
#[derive(Debug, Default)]
pub(crate) struct FillsTombstones;

#[async_trait]
impl Mischief for FillsTombstones {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for publish in batch {
            let message = publish.message().clone();
            let body = message.body_bytes().cloned().unwrap_or_else(Bytes::new);
            let at = publish.deliver_at();
            instead(to, publish, message.body(body), at).await;
        }
    }
}

/// Sends delayed messages at once.
#[derive(Debug, Default)]
pub(crate) struct IgnoresDelays;

#[async_trait]
impl Mischief for IgnoresDelays {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for publish in batch {
            let message = publish.message().clone();
            instead(to, publish, message, None).await;
        }
    }
}
