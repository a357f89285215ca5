//! The broker as the core sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Capabilities;
use mq_core::driver::{
    AdminDriver, BrokerDriver, CheckBack, ConsumerDriver, ConsumerSpec, HalfDriver, Health, ProducerDriver,
    SettlerDriver,
};
use mq_core::error::Result;
use mq_core::name::Group;
use tokio::time::Instant;

use crate::admin::RocketAdmin;
use crate::capability::capabilities;
use crate::config::RocketConfig;
use crate::consumer::RocketConsumer;
use crate::core::Core;
use crate::error::BACKEND;
use crate::half::RocketHalf;
use crate::producer::RocketProducer;
use crate::topology;

/// Between two attempts to reach a broker that is still starting.
const PAUSE: Duration = Duration::from_millis(100);

/// RocketMQ, connected. Reconnects by itself; what is opened on it survives.
#[derive(Debug)]
pub struct RocketBroker {
    core: Arc<Core>,
    capabilities: Capabilities,
}

impl RocketBroker {
    /// Connects, waiting for a name server and a broker that are still starting until the connect deadline.
    ///
    /// # Errors
    /// [`Config`](mq_core::error::ErrorKind::Config) and [`Auth`](mq_core::error::ErrorKind::Auth) at once;
    /// [`Unavailable`](mq_core::error::ErrorKind::Unavailable) at the deadline.
    pub async fn connect(config: RocketConfig) -> Result<Self> {
        config.check().map_err(|cause| cause.with_backend(BACKEND))?;
        let capabilities = capabilities(&config);
        let core = Core::new(config)?;
        let deadline = core.deadline();
        let ready = loop {
            // The first thing a broker refuses a login for.
            match topology::list_own(&core, deadline).await {
                // The name server may not have noticed yet that a broker is away, or where it is now.
                Err(cause) if cause.is_transient() && Instant::now() + PAUSE < deadline => {
                    core.forget_nodes();
                    tokio::time::sleep(PAUSE).await;
                }
                asked => break asked,
            }
        };
        ready.map_err(|cause| cause.with_operation("connect").with_context("hosts", core.config.hosts.join(",")))?;
        Ok(Self { core, capabilities })
    }
}

#[async_trait]
impl BrokerDriver for RocketBroker {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        let deadline = self.core.deadline();
        self.core.nodes(deadline).await.map_err(|cause| cause.with_operation("open producer"))?;
        Ok(Arc::new(RocketProducer::new(Arc::clone(&self.core))))
    }

    async fn open_half_producer(&self, name: &Group, check: Arc<dyn CheckBack>) -> Result<Arc<dyn HalfDriver>> {
        let opened = RocketHalf::open(Arc::clone(&self.core), name, check).await;
        Ok(Arc::new(opened.map_err(|cause| cause.with_operation("open half producer"))?))
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let opened = RocketConsumer::open(Arc::clone(&self.core), &spec).await;
        opened.map_err(|cause| cause.with_operation("open consumer"))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        Arc::new(RocketAdmin::new(Arc::clone(&self.core)))
    }

    async fn health(&self, deadline: Duration) -> Health {
        let started = Instant::now();
        // A question that the broker itself must answer.
        match tokio::time::timeout(deadline, topology::list_own(&self.core, started + deadline)).await {
            Ok(Ok((_, away))) if away.is_empty() => Health::up(started.elapsed(), "RocketMQ answers"),
            Ok(Ok((_, away))) => {
                let away = away.join(", ");
                Health::up(started.elapsed(), format!("RocketMQ answers, but these of its brokers are away: {away}"))
            }
            Ok(Err(cause)) => Health::down(cause.to_string()),
            Err(_) => Health::down("no answer within the deadline"),
        }
    }

    async fn close(&self, _: Duration) -> Result<()> {
        self.core.close();
        Ok(())
    }
}
