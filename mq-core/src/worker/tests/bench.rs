//! A memory broker with one topic and one group, and a record of what handlers did.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::capability::Capabilities;
use crate::clock::Clock;
use crate::dead_letter::DeadLetter;
use crate::driver::{
    AdminDriver, BrokerDriver, ConsumerDriver, ConsumerSpec, GroupSpec, Health, ProducerDriver, Settled, Settlement,
    SettlerDriver, TopicSpec,
};
use crate::memory::{MemoryBroker, SettledHow};
use crate::*;

pub(crate) const S: fn(u64) -> Duration = Duration::from_secs;

/// One topic `t` of one partition, one group `g`.
pub(crate) struct Bench {
    pub(crate) memory: MemoryBroker,
    pub(crate) broker: Broker,
    pub(crate) producer: Producer,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with_mode(GroupMode::Shared).await
    }

    pub(crate) async fn ordered() -> Self {
        Self::with_mode(GroupMode::Ordered).await
    }

    async fn with_mode(mode: GroupMode) -> Self {
        let memory = MemoryBroker::new();
        let broker = memory.broker();
        let topic = Topic::parse("t").unwrap();
        broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
        let mut group = GroupSpec::new(topic, Group::parse("g").unwrap());
        group.mode = mode;
        broker.admin().declare_group(&group).await.unwrap();
        let producer = broker.producer().await.unwrap();
        Self { memory, broker, producer }
    }

    pub(crate) async fn send(&self, bodies: impl IntoIterator<Item = &str>) {
        for body in bodies {
            self.producer.send(Message::new("t").unwrap().body(body.to_owned())).await.unwrap();
        }
    }

    /// Sends messages given as `key:body`.
    pub(crate) async fn send_keyed(&self, messages: impl IntoIterator<Item = String>) {
        for message in messages {
            let (key, _) = message.split_once(':').unwrap();
            self.producer.send(Message::new("t").unwrap().key(key).body(message.clone())).await.unwrap();
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        Worker::new(&self.broker, Subscription::new("t", "g"))
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn idle(&self) {
        self.memory.until_idle("t", "g", S(3600)).await.unwrap();
    }

    pub(crate) fn dead(&self) -> Vec<DeadLetter> {
        self.memory.dead_letters("t", "g").unwrap()
    }

    pub(crate) fn settled(&self, how: SettledHow) -> usize {
        self.memory.settled("t", "g").unwrap().iter().filter(|settled| settled.how == how).count()
    }

    /// A broker whose settlements `fault` may answer instead.
    pub(crate) fn faulty(
        &self,
        fault: impl Fn(&Settlement) -> Option<Result<Settled>> + Send + Sync + 'static,
    ) -> Broker {
        Broker::from_driver(Arc::new(Faulty { inner: Arc::clone(self.broker.driver()), fault: Arc::new(fault) }))
    }
}

/// A worker that runs in a task of its own.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    task: JoinHandle<Result<Summary>>,
    stop: oneshot::Sender<()>,
}

impl Running {
    pub(crate) fn start<H: Handler>(service: Service<H>) -> Self {
        let handle = service.control();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(service.run_until(async move {
            let _ = stopped.await;
        }));
        Self { handle, task, stop }
    }

    pub(crate) async fn stop(self) -> Summary {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap()
    }

    pub(crate) async fn end(self) -> Result<Summary> {
        self.task.await.unwrap()
    }
}

/// What handlers did, and when.
#[derive(Clone)]
pub(crate) struct Log {
    started: Instant,
    entries: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), entries: Arc::default() }
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.entries.lock().unwrap().push((self.started.elapsed(), what.into()));
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.entries.lock().unwrap().iter().map(|(_, what)| what.clone()).collect()
    }

    pub(crate) fn times(&self) -> Vec<(Duration, String)> {
        self.entries.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|entry| *entry == what).count()
    }

    /// Events of the worker by name, into this log.
    pub(crate) fn observer(&self) -> impl Observer + use<> {
        let log = self.clone();
        move |event: &WorkerEvent<'_>| {
            let text = format!("{event:?}");
            let end = text.find([' ', '(']).unwrap_or(text.len());
            log.note(&text[..end]);
        }
    }
}

type Fault = Arc<dyn Fn(&Settlement) -> Option<Result<Settled>> + Send + Sync>;

/// Another broker, some of whose settlements are answered here instead.
struct Faulty {
    inner: Arc<dyn BrokerDriver>,
    fault: Fault,
}

struct FaultySettler {
    inner: Arc<dyn SettlerDriver>,
    fault: Fault,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Debug for FaultySettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultySettler")
    }
}

#[async_trait]
impl BrokerDriver for Faulty {
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
        self.inner.open_producer().await
    }

    async fn open_consumer(&self, spec: ConsumerSpec) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let (consumer, inner) = self.inner.open_consumer(spec).await?;
        Ok((consumer, Arc::new(FaultySettler { inner, fault: Arc::clone(&self.fault) })))
    }

    fn admin(&self) -> Arc<dyn AdminDriver> {
        self.inner.admin()
    }

    async fn health(&self, deadline: Duration) -> Health {
        self.inner.health(deadline).await
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.inner.close(deadline).await
    }
}

#[async_trait]
impl SettlerDriver for FaultySettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut results = Vec::new();
        for settlement in batch.drain(..) {
            match (self.fault)(&settlement) {
                Some(result) => results.push(result),
                None => results.extend(self.inner.settle(&mut vec![settlement]).await),
            }
        }
        results
    }

    fn lease(&self) -> Option<Duration> {
        Some(S(30))
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }
}
