//! The user's handle on a broker.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Capabilities, Feature};
use crate::consumer::Consumer;
use crate::driver::{AdminDriver, BrokerDriver, ConsumerSpec, Health, SchedulerDriver, Verdict};
use crate::error::{Error, Result};
use crate::half::{Check, HalfProducer};
use crate::message::Message;
use crate::name::Group;
use crate::producer::{Producer, ProducerOptions};
use crate::subscription::Subscription;

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(30);

/// A connection to a broker. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Broker {
    driver: Arc<dyn BrokerDriver>,
}

impl Broker {
    /// Wraps an adapter's driver.
    pub fn from_driver(driver: Arc<dyn BrokerDriver>) -> Self {
        Self { driver }
    }

    /// The driver underneath: for adapters, tools and the conformance suite.
    pub fn driver(&self) -> &Arc<dyn BrokerDriver> {
        &self.driver
    }

    /// The adapter's name: `kafka`, `rabbit`, `memory`.
    pub fn name(&self) -> &'static str {
        self.driver.name()
    }

    /// What this broker can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.driver.capabilities()
    }

    /// Fails at once when the broker lacks one of `features`, naming it and the way out.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported).
    pub fn require(&self, features: impl IntoIterator<Item = Feature>) -> Result<()> {
        self.capabilities().require(features, self.name())
    }

    /// Opens a producer with the default bounds: 1,000 messages or 32 MiB in flight, 30 s to be sent.
    pub async fn producer(&self) -> Result<Producer> {
        self.producer_with(ProducerOptions::default()).await
    }

    /// Opens a producer with bounds of your own.
    pub async fn producer_with(&self, options: ProducerOptions) -> Result<Producer> {
        let driver = self.driver.open_producer().await.map_err(|error| error.with_operation("open producer"))?;
        Ok(Producer::new(self.clone(), driver, options))
    }

    /// Opens a producer of messages that become visible with your own transaction; see [`half`](crate::half). `name` is
    /// that of a group of producers with one database.
    ///
    /// While the producer is open, the broker asks `check` about messages of that name which were not decided in time,
    /// also those of a producer that died. The check answers from your own data: `Commit` or `Rollback` only when that is
    /// final there, `Unknown` while the transaction may still be under way: then the broker asks again. At most 16 run
    /// at once, each for at most 10 s; what takes longer, or panics, counts as `Unknown`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) where the broker has no half messages.
    pub async fn half_producer<N, F, V>(&self, name: N, check: F) -> Result<HalfProducer>
    where
        N: TryInto<Group>,
        Error: From<N::Error>,
        F: Fn(Message) -> V + Send + Sync + 'static,
        V: Future<Output = Verdict> + Send + 'static,
    {
        let name = name.try_into()?;
        self.require([Feature::HalfMessage])?;
        let opened = self.driver.open_half_producer(&name, Arc::new(Check::new(check))).await;
        let driver = opened.map_err(|error| error.with_operation("open half producer"))?;
        Ok(HalfProducer::new(self.clone(), driver))
    }

    /// Opens a consumer that you settle by hand. For the whole pipeline (retries, dead letters, guards) use
    /// [`Worker`](crate::Worker).
    pub async fn consumer(&self, subscription: Subscription) -> Result<Consumer> {
        self.consumer_with(ConsumerSpec::new(subscription)).await
    }

    /// Opens a consumer with retry delays, acknowledgement at receipt and the like.
    pub async fn consumer_with(&self, spec: ConsumerSpec) -> Result<Consumer> {
        spec.subscription.check()?;
        if spec.auto_ack {
            self.require([Feature::AutoAck])?;
        }
        Consumer::open(self, spec).await.map_err(|error| error.with_operation("open consumer"))
    }

    /// Topics, groups, lag, seek, dead letters.
    pub fn admin(&self) -> Arc<dyn AdminDriver> {
        self.driver.admin()
    }

    /// What must run for delayed messages to become due, where the broker cannot do it alone.
    pub fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        self.driver.scheduler()
    }

    /// Asks the broker for a sign of life, waiting at most `deadline`.
    pub async fn health(&self, deadline: Duration) -> Health {
        self.driver.health(deadline).await
    }

    /// Flushes producers and closes every connection, waiting at most 30 s. Close consumers and stop workers first:
    /// what they have not settled is redelivered.
    pub async fn close(&self) -> Result<()> {
        self.driver.close(CLOSE).await
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("driver", &self.driver).finish()
    }
}
