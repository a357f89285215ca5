//! The broker as the core sees it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::capability::Capabilities;
use mq_core::driver::{AdminDriver, BrokerDriver, ConsumerDriver, ConsumerSpec, Health, ProducerDriver, SettlerDriver};
use mq_core::error::Result;
use tokio::time::Instant;

use crate::admin::RabbitAdmin;
use crate::capability::capabilities;
use crate::config::RabbitConfig;
use crate::consumer::RabbitConsumer;
use crate::core::Core;
use crate::error::{BACKEND, from_client};
use crate::producer::RabbitProducer;

/// RabbitMQ, connected. Reconnects by itself; what is opened on it survives.
#[derive(Debug)]
pub struct RabbitBroker {
    core: Arc<Core>,
    capabilities: Capabilities,
}

impl RabbitBroker {
    /// Connects, waiting for a broker that is still starting until the connect deadline.
    ///
    /// # Errors
    /// [`Config`](mq_core::error::ErrorKind::Config), [`Auth`](mq_core::error::ErrorKind::Auth) and an unknown virtual
    /// host at once; [`Unavailable`](mq_core::error::ErrorKind::Unavailable) at the deadline.
    pub async fn connect(config: RabbitConfig) -> Result<Self> {
        config.check().map_err(|cause| cause.with_backend(BACKEND))?;
        let capabilities = capabilities(&config);
        let core = Arc::new(Core::open(config));
        let deadline = Instant::now() + core.config.connect_timeout;
        let ready = async { core.consuming.ready(deadline).await.and(core.publishing.ready(deadline).await) };
        ready.await.map_err(|cause| {
            let hosts = core.config.hosts.join(",");
            let cause = cause.with_operation("connect").with_context("hosts", hosts);
            if cause.hint().is_some() {
                cause
            } else {
                cause.with_hint("is the broker running, and is this its AMQP port?")
            }
        })?;
        Ok(Self { core, capabilities })
    }
}

#[async_trait]
impl BrokerDriver for RabbitBroker {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        let deadline = Instant::now() + self.core.config.connect_timeout;
        self.core.publishing.ready(deadline).await.map_err(|cause| cause.with_operation("open producer"))?;
        Ok(Arc::new(RabbitProducer::new(Arc::clone(&self.core))))
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let opened = RabbitConsumer::open(Arc::clone(&self.core), &spec).await;
        opened.map_err(|cause| cause.with_operation("open consumer"))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        Arc::new(RabbitAdmin::new(Arc::clone(&self.core)))
    }

    async fn health(&self, deadline: Duration) -> Health {
        let until = Instant::now() + deadline;
        let started = Instant::now();
        // Opening a channel is a question the broker must answer.
        let asked = async {
            let channel = self.core.consuming.channel(until).await?;
            channel.close(200, "healthy".into()).await.map_err(|cause| from_client(&cause))
        };
        match tokio::time::timeout_at(until, asked).await {
            Ok(Ok(())) => match self.core.publishing.blocked() {
                None => Health::up(started.elapsed(), "RabbitMQ answers"),
                Some(reason) => Health::down(format!("the broker accepts no messages now: {reason}")),
            },
            Ok(Err(cause)) => Health::down(cause.to_string()),
            Err(_) => {
                let why = self.core.consuming.last_failure();
                Health::down(why.unwrap_or_else(|| "no answer within the deadline".to_owned()))
            }
        }
    }

    /// An [`Arc<lapin::Connection>`](lapin::Connection): the connection used for consuming and declaring. It is replaced
    /// when it is lost: ask again.
    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.core.consuming.current().map(|connection| connection as Arc<dyn Any + Send + Sync>)
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.core.close(deadline).await
    }
}
