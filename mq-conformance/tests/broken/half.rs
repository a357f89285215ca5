//! Drivers that spoil half messages.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{BrokerDriver, CheckBack, Decision, Destination, Half, HalfDriver, Verdict, in_flight};
use mq_core::error::Result;
use mq_core::message::Message;

use mq_conformance::spoil::Mischief;

/// Sends what is only to be prepared.
#[derive(Debug, Default)]
pub(crate) struct ShowsHalfMessages;

impl Mischief for ShowsHalfMessages {
    fn half(&self, honest: Arc<dyn HalfDriver>, broker: &Arc<dyn BrokerDriver>) -> Arc<dyn HalfDriver> {
        Arc::new(Sends { honest, broker: Arc::clone(broker) })
    }
}

#[derive(Debug)]
struct Sends {
    honest: Arc<dyn HalfDriver>,
    broker: Arc<dyn BrokerDriver>,
}

#[async_trait]
impl HalfDriver for Sends {
    async fn prepare(&self, message: Message) -> Result<Half> {
        let (publish, pending) = in_flight(message, Destination::Topic, None, true);
        self.broker.open_producer().await?.publish(vec![publish]).await;
        pending.await.map_err(|(error, _)| error)?;
        Ok(Half::new("sent"))
    }
    async fn decide(&self, _half: &Half, _decision: Decision) -> Result<()> {
        Ok(())
    }
    async fn close(&self, deadline: Duration) -> Result<()> {
        self.honest.close(deadline).await
    }
}

/// Commits what is to be rolled back.
#[derive(Debug, Default)]
pub(crate) struct CommitsRollbacks;

impl Mischief for CommitsRollbacks {
    fn half(&self, honest: Arc<dyn HalfDriver>, _broker: &Arc<dyn BrokerDriver>) -> Arc<dyn HalfDriver> {
        Arc::new(AlwaysCommits(honest))
    }
}

#[derive(Debug)]
struct AlwaysCommits(Arc<dyn HalfDriver>);

#[async_trait]
impl HalfDriver for AlwaysCommits {
    async fn prepare(&self, message: Message) -> Result<Half> {
        self.0.prepare(message).await
    }
    async fn decide(&self, half: &Half, _decision: Decision) -> Result<()> {
        self.0.decide(half, Decision::Commit).await
    }
    async fn close(&self, deadline: Duration) -> Result<()> {
        self.0.close(deadline).await
    }
}

/// Takes "not known" for a commit.
#[derive(Debug, Default)]
pub(crate) struct CommitsTheUnknown;

impl Mischief for CommitsTheUnknown {
    fn check(&self, honest: Arc<dyn CheckBack>) -> Arc<dyn CheckBack> {
        Arc::new(Guesses { honest, instead_of_unknown: Verdict::Commit })
    }
}

/// Rolls back what is not known: the transaction may yet commit.
#[derive(Debug, Default)]
pub(crate) struct RollsBackTheUnknown;

impl Mischief for RollsBackTheUnknown {
    fn check(&self, honest: Arc<dyn CheckBack>) -> Arc<dyn CheckBack> {
        Arc::new(Guesses { honest, instead_of_unknown: Verdict::Rollback })
    }
}

#[derive(Debug)]
struct Guesses {
    honest: Arc<dyn CheckBack>,
    instead_of_unknown: Verdict,
}

#[async_trait]
impl CheckBack for Guesses {
    async fn check(&self, message: &Message) -> Verdict {
        match self.honest.check(message).await {
            Verdict::Unknown => self.instead_of_unknown,
            known => known,
        }
    }
}

/// Does not ask.
#[derive(Debug, Default)]
pub(crate) struct NeverAsks;

impl Mischief for NeverAsks {
    fn check(&self, _honest: Arc<dyn CheckBack>) -> Arc<dyn CheckBack> {
        Arc::new(Silent)
    }
}

#[derive(Debug)]
struct Silent;

#[async_trait]
impl CheckBack for Silent {
    async fn check(&self, _message: &Message) -> Verdict {
        Verdict::Unknown
    }
}
