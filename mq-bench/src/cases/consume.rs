//! P2: consuming with an ack per message, beside the raw client's best loop.

use mq::{Broker, Feature, Result, StartFrom, Subscription};

use crate::cases::ours;
use crate::cases::place::{self, Place};
use crate::cli::Extent;
use crate::pair::{Cost, Outcome, Pair};
use crate::raw::Raw;

/// Which part of `mq` consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Consumer,
    Worker,
}

/// Where the messages come from.
struct Source<'a> {
    broker: &'a Broker,
    place: &'a Place,
    body: bytes::Bytes,
    /// A log is filled once and read by each run from its start; a queue is filled before each run.
    log: bool,
}

pub(super) async fn measure(url: &str, extent: Extent, way: Way) -> Result<Outcome> {
    let broker = mq::connect(url).await?;
    let place = Place::make(&broker, "consume").await?;
    let log = broker.capabilities().supports(Feature::Replay);
    let messages = extent.messages.unwrap_or(if log { 300_000 } else { 40_000 });
    let source = Source { broker: &broker, place: &place, body: place::body(extent.size), log };
    if log {
        source.fill(&place, messages).await?;
    }
    let raw = Raw::connect(url).await?;
    let (name, ours_name, budget) = match way {
        Way::Consumer => ("P2 consume, an ack per message", "mq consumer", Some(0.95)),
        Way::Worker => ("P2 beside: consume with the worker", "mq worker", None),
    };
    let pair = Pair {
        name,
        ways: ("raw client, acks batched", ours_name),
        raw: Box::new(|messages| Box::pin(source.raw(&raw, messages))),
        ours: Box::new(|messages| Box::pin(source.ours(way, messages))),
        budget,
    };
    let outcome = pair.measure(extent, messages).await;
    place.remove(&broker).await?;
    broker.close().await?;
    outcome
}

impl Source<'_> {
    async fn fill(&self, place: &Place, messages: u64) -> Result<()> {
        let producer = self.broker.producer().await?;
        ours::send(&producer, place, &self.body, messages).await?;
        producer.close().await
    }

    /// A group that has all messages ahead of it.
    async fn group(&self, messages: u64) -> Result<Place> {
        let place = self.place.with_new_group(self.broker).await?;
        if !self.log {
            self.fill(&place, messages).await?;
        }
        Ok(place)
    }

    async fn raw(&self, raw: &Raw, messages: u64) -> Result<Cost> {
        let place = self.group(messages).await?;
        let spent = raw.consume(&place, messages).await?;
        self.broker.admin().delete_group(&place.topic, &place.group).await?;
        Ok(spent)
    }

    async fn ours(&self, way: Way, messages: u64) -> Result<Cost> {
        let place = self.group(messages).await?;
        let mut subscription = Subscription::new(&place.topic, &place.group);
        if self.log {
            subscription = subscription.start(StartFrom::Earliest);
        }
        let spent = match way {
            Way::Consumer => ours::consume(self.broker, subscription, messages).await?,
            Way::Worker => ours::work(self.broker, subscription, messages, ours::Handler::Nothing).await?,
        };
        self.broker.admin().delete_group(&place.topic, &place.group).await?;
        Ok(spent)
    }
}
