//! Drivers that spoil dead letters, lag and what is declared.

use async_trait::async_trait;
use mq_core::capability::{Capabilities, Feature, Level, Limits};
use mq_core::dead_letter::DeadLetter;
use mq_core::driver::{BrokerDriver, DeadLetterDriver, Destination, Lag, in_flight};
use mq_core::error::Result;
use std::sync::Arc;

use mq_conformance::spoil::{DeadLettersOf, Mischief};

/// Listing takes what it shows.
#[derive(Debug, Default)]
pub(crate) struct ListingConsumes;

impl Mischief for ListingConsumes {
    fn dead_letters(&self, honest: Box<dyn DeadLetterDriver>, _of: DeadLettersOf) -> Box<dyn DeadLetterDriver> {
        Box::new(TakesWhatItLists(honest))
    }
}

#[derive(Debug)]
struct TakesWhatItLists(Box<dyn DeadLetterDriver>);

#[async_trait]
impl DeadLetterDriver for TakesWhatItLists {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        let listed = self.0.list(max).await?;
        self.0.purge(Some(1)).await?;
        Ok(listed)
    }
    async fn redrive(&mut self, max: usize) -> Result<u64> {
        self.0.redrive(max).await
    }
    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        self.0.purge(max).await
    }
}

/// Brings dead letters back to the topic, so that every group gets them again.
#[derive(Debug, Default)]
pub(crate) struct RedrivesToAllGroups;

impl Mischief for RedrivesToAllGroups {
    fn dead_letters(&self, honest: Box<dyn DeadLetterDriver>, of: DeadLettersOf) -> Box<dyn DeadLetterDriver> {
        Box::new(SendsToTheTopic { honest, driver: of.driver, topic: of.topic })
    }
}

#[derive(Debug)]
struct SendsToTheTopic {
    honest: Box<dyn DeadLetterDriver>,
    driver: Arc<dyn BrokerDriver>,
    topic: mq_core::Topic,
}

#[async_trait]
impl DeadLetterDriver for SendsToTheTopic {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        self.honest.list(max).await
    }
    async fn redrive(&mut self, max: usize) -> Result<u64> {
        let producer = self.driver.open_producer().await?;
        let mut moved = 0;
        for letter in self.honest.list(max).await? {
            let message = letter.message.with_topic(self.topic.clone());
            let (publish, pending) = in_flight(message, Destination::Topic, None, true);
            producer.publish(vec![publish]).await;
            pending.await.map_err(|(error, _)| error)?;
            moved += self.honest.purge(Some(1)).await?;
        }
        Ok(moved)
    }
    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        self.honest.purge(max).await
    }
}

/// Sees no messages waiting.
#[derive(Debug, Default)]
pub(crate) struct SeesNoLag;

impl Mischief for SeesNoLag {
    fn lag(&self, honest: Lag) -> Lag {
        Lag { ready: 0, ..honest }
    }
}

/// Denies what it can do.
#[derive(Debug, Default)]
pub(crate) struct DeniesBroadcast;

impl Mischief for DeniesBroadcast {
    fn capabilities(&self, honest: Capabilities) -> Capabilities {
        // The call itself still works: a declared no that passes is as wrong as a declared yes that fails.
        honest.with(Feature::Broadcast, Level::Unsupported, Limits::default(), "use a group for each consumer")
    }
}

/// Declares no bound of lateness.
#[derive(Debug, Default)]
pub(crate) struct DeclaresNoBounds;

impl Mischief for DeclaresNoBounds {
    fn capabilities(&self, honest: Capabilities) -> Capabilities {
        honest.with(Feature::NonBlockingRetry, Level::Native, Limits::default(), "")
    }
}
