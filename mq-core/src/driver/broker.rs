//! A connection to a broker.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::capability::{Capabilities, Feature};
use crate::clock::Clock;
use crate::driver::{AdminDriver, CheckBack, ConsumerDriver, ConsumerSpec, HalfDriver, ProducerDriver, SettlerDriver};
use crate::error::{Error, Result};
use crate::name::Group;

/// Whether the broker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// True when the broker answered a request just now.
    pub ready: bool,
    /// How long the answer took.
    pub latency: Option<Duration>,
    /// What a person should read: broker version, or what is wrong.
    pub detail: String,
}

impl Health {
    /// The broker answered in `latency`.
    pub fn up(latency: Duration, detail: impl Into<String>) -> Self {
        Self { ready: true, latency: Some(latency), detail: detail.into() }
    }

    /// The broker did not answer, and why.
    pub fn down(detail: impl Into<String>) -> Self {
        Self { ready: false, latency: None, detail: detail.into() }
    }
}

/// A broker, connected. Cheap to share; everything on it is opened separately.
#[async_trait]
pub trait BrokerDriver: Send + Sync + fmt::Debug + 'static {
    /// The adapter's name as in errors and the matrix: `kafka`, `rabbit`, `memory`.
    fn name(&self) -> &'static str;

    /// What this broker can do, as configured and as connected.
    fn capabilities(&self) -> &Capabilities;

    /// The clock that decides when something is due.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// Opens a producer. Fails within the connect deadline when the broker cannot be reached or refuses.
    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>>;

    /// Opens a producer of half messages under the name of a group of producers. From then on the broker's questions
    /// about half messages of that name may reach `check`. Fails within the connect deadline.
    async fn open_half_producer(&self, name: &Group, check: Arc<dyn CheckBack>) -> Result<Arc<dyn HalfDriver>> {
        let _ = (name, check);
        let way_out = "write the message to an outbox in your own database transaction, and relay it from there";
        Err(Error::unsupported(Feature::HalfMessage, self.name(), way_out))
    }

    /// Opens a consumer: declares or verifies its group (by the topology mode), subscribes, and returns once the
    /// subscription stands as far as the broker can tell (the first assignment may still be under way).
    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)>;

    /// Topics, groups, lag, seek, dead letters.
    fn admin(&self) -> Arc<dyn AdminDriver>;

    /// What must run for delayed messages to become due, where the broker cannot do it alone. `None` where it can.
    fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        None
    }

    /// Asks the broker for a sign of life; never longer than `deadline`, never an error.
    async fn health(&self, deadline: Duration) -> Health;

    /// The client underneath, for what the contract does not cover. `None` when there is none.
    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Closes every connection; producers flush first. Waits at most `deadline`.
    async fn close(&self, deadline: Duration) -> Result<()>;
}

/// Moves due messages to their topics. Several may run at once; a crash loses and repeats nothing beyond the declared
/// window. Consumers and producers opened by the SDK need not run one; `mq scheduler` and workers do.
#[async_trait]
pub trait SchedulerDriver: Send + fmt::Debug {
    /// Runs for about `slice`, then returns how many messages were moved; call it again. Cancel safe.
    async fn run(&mut self, slice: Duration) -> Result<u64>;

    /// Leaves without losing what is under way. Waits at most `deadline`.
    async fn close(self: Box<Self>, deadline: Duration) -> Result<()>;
}
