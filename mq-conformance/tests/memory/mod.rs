//! The in-memory broker as the suite sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_conformance::faults::{Breakage, Way};
use mq_conformance::{Carries, Faults, Foreign, Harness, RawMessage};
use mq_core::driver::{BrokerDriver, Destination, TopicSpec, in_flight};
use mq_core::memory::{MemoryBroker, MemoryConfig};
use mq_core::message::{Message, control};
use mq_core::{Result, Topic};

/// One broker for the whole run.
#[derive(Debug)]
pub(crate) struct Memory {
    broker: MemoryBroker,
}

impl Default for Memory {
    #[expect(clippy::expect_used, reason = "a harness")]
    fn default() -> Self {
        let mut config = MemoryConfig::default();
        // Half messages are asked back about within the patience of a scenario.
        config.check_back = Duration::from_millis(200);
        Self { broker: MemoryBroker::with_config(config).expect("settings within bounds") }
    }
}

#[async_trait]
impl Harness for Memory {
    fn profile(&self) -> String {
        "memory".into()
    }

    async fn version(&self) -> Result<String> {
        Ok(env!("CARGO_PKG_VERSION").into())
    }

    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        Ok(Arc::new(self.broker.connection()))
    }

    fn parallel(&self) -> usize {
        // The scenarios wait more than they work.
        24
    }

    fn slack(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(self)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    fn alone(&self) -> Option<Arc<dyn Harness>> {
        Some(Arc::new(Self::default()))
    }
}

/// There is neither a wire nor a process: every connection to the broker is the way that breaks.
#[async_trait]
impl Faults for Memory {
    fn lacks(&self) -> &'static [Breakage] {
        &[Breakage::OneWay, Breakage::Slow, Breakage::HalfOpen, Breakage::Process, Breakage::Broker, Breakage::Blocked]
    }

    async fn way(&self) -> Result<Arc<dyn Way>> {
        Ok(Arc::new(Switches { broker: self.broker.clone(), refusing: AtomicBool::new(false) }))
    }
}

#[derive(Debug)]
struct Switches {
    broker: MemoryBroker,
    refusing: AtomicBool,
}

impl Way for Switches {
    fn address(&self) -> Option<SocketAddr> {
        None
    }

    fn cut(&self) {
        self.broker.faults().disconnect();
        if !self.refusing.load(Ordering::SeqCst) {
            self.broker.faults().reconnect();
        }
    }

    fn stall(&self, stalled: bool) {
        self.broker.faults().stall(stalled);
    }

    fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::SeqCst);
        if refusing {
            self.broker.faults().disconnect();
        } else {
            self.broker.faults().reconnect();
        }
    }
}

/// There is no wire, and so no client but ours: the place of one is taken by publishing past every check of the SDK.
#[async_trait]
impl Foreign for Memory {
    async fn create(&self, name: &str) -> Result<Topic> {
        let topic = Topic::parse(name.to_owned())?;
        self.broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await?;
        Ok(topic)
    }

    async fn publish(&self, place: &Topic, raw: &RawMessage) -> Result<()> {
        let mut message = Message::to(place.clone()).with_body(raw.body.clone().map(Into::into));
        for (name, value) in &raw.headers {
            message = message.header(name.clone(), value.clone().unwrap_or_default());
        }
        if let Some(key) = &raw.key {
            message = message.key(key);
        }
        let id = control::take_id(message.headers_mut());
        let (publish, pending) = in_flight(message.with_id(id), Destination::Topic, None, true);
        self.broker.open_producer().await?.publish(vec![publish]).await;
        pending.await.map(drop).map_err(|(error, _)| error)
    }

    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
        let began = Instant::now();
        loop {
            let sent = self.broker.sent(place)?;
            if sent.len() >= max || began.elapsed() >= wait {
                return Ok(sent.iter().take(max).map(raw).collect());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn remove(&self, place: &Topic) -> Result<()> {
        self.broker.admin().delete_topic(place).await
    }

    fn carries(&self) -> Carries {
        Carries::default().null_headers(false)
    }
}

fn raw(message: &Message) -> RawMessage {
    RawMessage {
        key: message.key_bytes().map(|key| key.to_vec()),
        body: message.body_bytes().map(|body| body.to_vec()),
        headers: message.headers().iter().map(|(name, value)| (name.to_string(), Some(value.to_vec()))).collect(),
    }
}
