//! The handle on a memory broker, and the driver behind it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::broker::Broker;
use crate::capability::Capabilities;
use crate::clock::Clock;
use crate::config::{Topology, Url};
use crate::driver::{
    AdminDriver, BrokerDriver, CheckBack, ConsumerDriver, ConsumerSpec, HalfDriver, Health, ProducerDriver,
    SettlerDriver,
};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::NAME;
use crate::memory::admin::MemoryAdmin;
use crate::memory::capabilities::capabilities;
use crate::memory::config::MemoryConfig;
use crate::memory::consumer::MemoryConsumer;
use crate::memory::faults::Faults;
use crate::memory::half::MemoryHalf;
use crate::memory::producer::MemoryProducer;
use crate::memory::registry;
use crate::memory::server::Server;
use crate::memory::settler::MemorySettler;
use crate::memory::state::fail;
use crate::name::Group;

/// A broker in memory, and one connection to it.
///
/// Clones share the connection; [`MemoryBroker::connection`] makes another one to the same broker, as a service would
/// after its restart. What was stored outlives connections, and ends with the last handle.
#[derive(Debug, Clone)]
pub struct MemoryBroker {
    pub(super) server: Arc<Server>,
    connection: Arc<Connection>,
}

/// One connection to a broker.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    closed: AtomicBool,
    topology: Topology,
    capabilities: Capabilities,
}

impl Connection {
    /// Fails when the connection is closed.
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed(what).with_backend(NAME));
        }
        Ok(())
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBroker {
    /// A broker of its own with the default settings: strict about topics, like real brokers.
    ///
    /// Takes its time from tokio: make it inside the runtime whose clock a test pauses.
    pub fn new() -> Self {
        Self::over(Arc::new(Server::new(MemoryConfig::default())), Topology::Declare)
    }

    /// A broker with these settings; the existing one when `config.name` is that of a living broker.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for settings out of bounds, [`ErrorKind::TopologyConflict`] when the broker of that name
    /// has other settings.
    pub fn with_config(config: MemoryConfig) -> Result<Self> {
        config.check()?;
        let topology = config.topology;
        Ok(Self::over(registry::attach(config)?, topology))
    }

    /// The broker of `memory:` or `memory:NAME`; parameters as in [`MemoryConfig::from_url`].
    ///
    /// # Errors
    /// As [`MemoryBroker::with_config`].
    pub fn connect(url: &Url) -> Result<Self> {
        Self::with_config(MemoryConfig::from_url(url)?)
    }

    /// Another connection to the same broker; closing one leaves the others alone.
    #[must_use]
    pub fn connection(&self) -> Self {
        Self::over(Arc::clone(&self.server), self.connection.topology)
    }

    /// A [`Broker`] on a connection of its own: closing it ends its consumers, and leaves the messages to be looked at.
    pub fn broker(&self) -> Broker {
        Broker::from_driver(Arc::new(self.connection()))
    }

    /// A broker of its own whose clock shows `wall` now and goes on with tokio's: the same times in every run of a test.
    ///
    /// # Errors
    /// As [`MemoryBroker::with_config`]; and a name, by which others would find it, is refused.
    pub fn starting_at(config: MemoryConfig, wall: SystemTime) -> Result<Self> {
        config.check()?;
        if config.name.is_some() {
            return Err(Error::config("a broker with a clock of its own has no name").with_backend(NAME));
        }
        let topology = config.topology;
        Ok(Self::over(Arc::new(Server::with_clock(config, Clock::tokio_from(wall))), topology))
    }

    fn over(server: Arc<Server>, topology: Topology) -> Self {
        let connection = Connection {
            number: server.connections.fetch_add(1, Ordering::Relaxed),
            closed: AtomicBool::new(false),
            topology,
            capabilities: capabilities(&server.config),
        };
        Self { server, connection: Arc::new(connection) }
    }

    /// The switches that break things.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.server))
    }
}

#[async_trait]
impl BrokerDriver for MemoryBroker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.connection.capabilities
    }

    fn clock(&self) -> Clock {
        self.server.clock
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        self.connection.check("broker")?;
        Ok(Arc::new(MemoryProducer {
            server: Arc::clone(&self.server),
            connection: Arc::clone(&self.connection),
            closed: AtomicBool::new(false),
        }))
    }

    async fn open_half_producer(&self, name: &Group, check: Arc<dyn CheckBack>) -> Result<Arc<dyn HalfDriver>> {
        self.connection.check("broker")?;
        Ok(Arc::new(MemoryHalf::open(&self.server, &self.connection, name, check)))
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        self.connection.check("broker")?;
        self.server.passable().await.map_err(|error| error.with_operation("open consumer"))?;
        let Connection { number, topology, .. } = *self.connection;
        let consumer = MemoryConsumer::open(&self.server, &spec, number, topology)
            .map_err(|error| error.with_backend(NAME).with_operation("open consumer"))?;
        let settler = MemorySettler { server: Arc::clone(&self.server), member: consumer.member() };
        Ok((Box::new(consumer), Arc::new(settler)))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        Arc::new(MemoryAdmin { server: Arc::clone(&self.server), connection: Arc::clone(&self.connection) })
    }

    async fn health(&self, deadline: Duration) -> Health {
        if let Err(error) = self.connection.check("broker") {
            return Health::down(error.to_string());
        }
        if tokio::time::timeout(deadline, self.server.passable()).await.is_err() {
            return Health::down("no answer: the connection is stalled");
        }
        let state = self.server.lock();
        if state.plan.down {
            return Health::down("the connection was cut on purpose");
        }
        Health::up(Duration::ZERO, format!("in memory, {} topics", state.topics.len()))
    }

    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.clone()))
    }

    async fn close(&self, _deadline: Duration) -> Result<()> {
        if !self.connection.closed.swap(true, Ordering::AcqRel) {
            self.server.lock().hang_up(self.connection.number);
            self.server.room.ring();
            self.server.changed.ring();
        }
        Ok(())
    }
}

impl crate::memory::state::State {
    /// Ends every consumer of a connection, without blame.
    fn hang_up(&mut self, connection: u64) {
        let gone =
            |(id, member): (&u32, &crate::memory::member::Member)| (member.connection == connection).then_some(*id);
        for id in self.members.iter().filter_map(gone).collect::<Vec<_>>() {
            self.leave(id, false);
        }
    }

    /// Fails while the connection is cut.
    pub(super) fn check_up(&self) -> Result<()> {
        if self.plan.down {
            return Err(fail(ErrorKind::Unavailable, "the connection is cut"));
        }
        Ok(())
    }
}
