//! The broker as the core sees it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Capabilities;
use mq_core::driver::{
    AdminDriver, BrokerDriver, ConsumerDriver, ConsumerSpec, Health, ProducerDriver, SchedulerDriver, SettlerDriver,
};
use mq_core::error::Result;
use tokio::time::Instant;

use crate::admin::RedisAdmin;
use crate::capability::capabilities;
use crate::config::RedisConfig;
use crate::consumer::RedisConsumer;
use crate::core::Core;
use crate::error::BACKEND;
use crate::producer::RedisProducer;
use crate::scheduler::RedisScheduler;
use crate::server::Server;

/// Redis, connected. Reconnects by itself; what is opened on it survives.
#[derive(Debug)]
pub struct RedisBroker {
    core: Arc<Core>,
    capabilities: Capabilities,
    server: Server,
}

impl RedisBroker {
    /// Connects, waiting for a broker that is still starting until the connect deadline.
    ///
    /// # Errors
    /// [`Config`](mq_core::error::ErrorKind::Config) also when the server is less durable than demanded, or evicts
    /// streams; [`Auth`](mq_core::error::ErrorKind::Auth) at once;
    /// [`Unavailable`](mq_core::error::ErrorKind::Unavailable) at the deadline.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        config.check().map_err(|cause| cause.with_backend(BACKEND))?;
        let core = Arc::new(Core::open(config)?);
        let deadline = Instant::now() + core.config.connect_timeout;
        let ready = async {
            core.asking.ready(deadline).await?;
            core.publishing.ready(deadline).await?;
            Server::read(&core.asking, &core.config).await
        };
        match ready.await {
            Ok(server) => Ok(Self { capabilities: capabilities(&core.config, &server), core, server }),
            Err(cause) => {
                core.close();
                let place = format!("{}:{}", core.config.host, core.config.port);
                let cause = cause.with_operation("connect").with_context("host", place);
                if cause.hint().is_some() {
                    return Err(cause);
                }
                Err(cause.with_hint(match core.config.tls.enabled {
                    true => "is the broker running, and is this its port? One without TLS wants redis:// or redis-cluster://",
                    false => "is the broker running, and is this its port? One with TLS wants rediss://",
                }))
            }
        }
    }
}

#[async_trait]
impl BrokerDriver for RedisBroker {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        let deadline = Instant::now() + self.core.config.connect_timeout;
        self.core.publishing.ready(deadline).await.map_err(|cause| cause.with_operation("open producer"))?;
        Ok(Arc::new(RedisProducer::new(Arc::clone(&self.core))))
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let opened = RedisConsumer::open(Arc::clone(&self.core), spec).await;
        opened.map_err(|cause| cause.with_operation("open consumer"))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        Arc::new(RedisAdmin::new(Arc::clone(&self.core), self.server.clone()))
    }

    fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        Some(Box::new(RedisScheduler::new(Arc::clone(&self.core))))
    }

    async fn health(&self, deadline: Duration) -> Health {
        let started = Instant::now();
        match self.core.asking.ask(&redis::cmd("PING"), deadline).await {
            Ok(_) => Health::up(started.elapsed(), format!("Redis {} answers", self.server.version)),
            Err(cause) => Health::down(cause.to_string()),
        }
    }

    /// A [`redis::Client`]: makes connections of its own with the same settings.
    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.core.asking.client()))
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.core.stop(deadline).await;
        self.core.close();
        Ok(())
    }
}
