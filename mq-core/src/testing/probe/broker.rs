//! The connection of a simulated process.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::capability::Capabilities;
use crate::clock::Clock;
use crate::driver::{
    AdminDriver, BrokerDriver, CheckBack, ConsumerDriver, ConsumerSpec, HalfDriver, Health, ProducerDriver, Publish,
    SchedulerDriver, Settlement, SettlerDriver, in_flight,
};
use crate::error::Result;
use crate::message::Message;
use crate::name::Group;
use crate::testing::fault::Point;
use crate::testing::history::What;
use crate::testing::probe::consumer::{ProbedConsumer, name};
use crate::testing::probe::settler::ProbedSettler;
use crate::testing::process::Process;

#[derive(Debug)]
pub(crate) struct ProbedBroker {
    pub(crate) inner: Arc<dyn BrokerDriver>,
    pub(crate) process: Arc<Process>,
}

#[async_trait]
impl BrokerDriver for ProbedBroker {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    async fn open_producer(&self) -> Result<Arc<dyn ProducerDriver>> {
        self.process.alive().await;
        let inner = self.inner.open_producer().await?;
        Ok(Arc::new(ProbedProducer { inner, process: Arc::clone(&self.process) }))
    }

    async fn open_half_producer(&self, name: &Group, check: Arc<dyn CheckBack>) -> Result<Arc<dyn HalfDriver>> {
        self.process.alive().await;
        self.inner.open_half_producer(name, check).await
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        self.process.alive().await;
        let (consumer, settler) = self.inner.open_consumer(spec).await?;
        self.process.write(What::Joined);
        let consumer = ProbedConsumer::new(consumer, Arc::clone(&self.process));
        let settler = ProbedSettler { inner: settler, process: Arc::clone(&self.process), clock: self.inner.clock() };
        Ok((Box::new(consumer), Arc::new(settler)))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        self.inner.admin()
    }

    fn scheduler(&self) -> Option<Box<dyn SchedulerDriver>> {
        self.inner.scheduler()
    }

    async fn health(&self, deadline: Duration) -> Health {
        self.process.alive().await;
        self.inner.health(deadline).await
    }

    fn native_client(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.inner.native_client()
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.process.alive().await;
        self.inner.close(deadline).await
    }
}

#[derive(Debug)]
struct ProbedProducer {
    inner: Arc<dyn ProducerDriver>,
    process: Arc<Process>,
}

impl ProbedProducer {
    /// The same, its outcome written down before the worker learns of it.
    fn watched(&self, publish: Publish) -> Publish {
        let (message, destination) = (publish.message().clone(), publish.destination().clone());
        let (inner, pending) = in_flight(message, destination, publish.deliver_at(), publish.wants_confirm());
        let process = Arc::clone(&self.process);
        pending.on_complete(move |outcome| {
            let id = name(publish.message());
            process
                .write(What::FollowUp { id, error: outcome.as_ref().err().map(|error| format!("{:?}", error.kind())) });
            publish.complete(outcome);
        });
        inner
    }
}

#[async_trait]
impl ProducerDriver for ProbedProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        self.process.alive().await;
        let batch = batch.into_iter().map(|publish| self.watched(publish)).collect();
        self.inner.publish(batch).await;
        self.process.reach(Point::Published).await;
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.process.alive().await;
        self.inner.flush(deadline).await
    }

    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        self.process.alive().await;
        self.inner.atomic(batch, settlements).await
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.process.alive().await;
        self.inner.close(deadline).await
    }
}
