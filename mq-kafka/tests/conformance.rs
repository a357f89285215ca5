//! The conformance suite on a real Kafka: `MQ_TEST_KAFKA=kafka://127.0.0.1:9092`, and as `MQ_TEST_PROFILE` the name of
//! the column in the matrix. For the scenarios with faults `MQ_TEST_KAFKA_WAYS` and `MQ_TEST_KAFKA_CONTROL`, as
//! `cargo xtask brokers up kafka` prints them.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_conformance::faults::Server;
use mq_conformance::{Faults, Foreign, Harness, RawMessage};
use mq_core::driver::{BrokerDriver, TopicSpec};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::Topic;
use mq_kafka::{Config, Kafka, Profile};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

#[derive(Debug)]
struct Cluster {
    config: Config,
    stock: Stock,
    server: Server,
}

/// A stock client: nothing of the SDK.
#[derive(Debug)]
struct Stock {
    brokers: String,
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the stock client: {cause}"))
}

impl Stock {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        self.config().create().map_err(failed)
    }
}

#[async_trait]
impl Harness for Cluster {
    fn profile(&self) -> String {
        std::env::var("MQ_TEST_PROFILE").unwrap_or_else(|_| "kafka".to_owned())
    }

    /// Kafka's protocol does not name the server's version; whoever runs the suite may.
    async fn version(&self) -> Result<String> {
        let admin = self.stock.admin()?;
        tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, Duration::from_secs(10)).map(drop))
            .await
            .map_err(failed)?
            .map_err(failed)?;
        let version = std::env::var("MQ_TEST_KAFKA_VERSION").unwrap_or_default();
        Ok(format!("Kafka {version}").trim().to_owned())
    }

    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        Ok(Arc::new(Kafka::new(self.config.clone())?))
    }

    fn topic_spec(&self, spec: TopicSpec) -> TopicSpec {
        spec.partitions(3)
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(&self.stock)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(&self.server)
    }

    async fn connect_at(&self, address: SocketAddr) -> Result<Arc<dyn BrokerDriver>> {
        let mut config = self.config.clone();
        config.brokers = vec![address.to_string()];
        // A test sees the end of a session sooner than a service should.
        config.consumer.session_timeout = Duration::from_secs(3);
        config.consumer.heartbeat_interval = Duration::from_millis(500);
        // A bound that a load of hundreds a second could break.
        config.consumer.duplicate_window = 100;
        Ok(Arc::new(Kafka::new(config)?))
    }
}

#[async_trait]
impl Foreign for Stock {
    async fn create(&self, name: &str) -> Result<Topic> {
        let admin = self.admin()?;
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        let created = admin.create_topics(&[topic], &AdminOptions::new()).await.map_err(failed)?;
        for result in created {
            result.map_err(|(name, code)| failed(format!("{name}: {code}")))?;
        }
        let place = name.to_owned();
        tokio::task::spawn_blocking(move || known(&admin, &place)).await.map_err(failed)??;
        Topic::parse(name.to_owned())
    }

    async fn publish(&self, place: &Topic, message: &RawMessage) -> Result<()> {
        let producer: FutureProducer = self.config().create().map_err(failed)?;
        let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
            headers.insert(Header { key: name, value: value.as_ref() })
        });
        let mut record = FutureRecord::<[u8], [u8]>::to(place.name()).headers(headers);
        if let Some(key) = &message.key {
            record = record.key(key.as_slice());
        }
        if let Some(body) = &message.body {
            record = record.payload(body.as_slice());
        }
        producer.send(record, Duration::from_secs(10)).await.map(drop).map_err(|(error, _)| failed(error))
    }

    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
        let (config, name) = (self.config(), place.name().to_owned());
        tokio::task::spawn_blocking(move || read(config, &name, max, wait)).await.map_err(failed)?
    }

    async fn remove(&self, place: &Topic) -> Result<()> {
        let admin = self.admin()?;
        admin.delete_topics(&[place.name()], &AdminOptions::new()).await.map(drop).map_err(failed)
    }
}

/// Returns when the broker knows a topic just created: until it has heard of it from the controller, it denies it.
fn known(admin: &AdminClient<DefaultClientContext>, name: &str) -> Result<()> {
    let limit = Duration::from_secs(10);
    let began = Instant::now();
    while began.elapsed() < limit {
        let metadata = admin.inner().fetch_metadata(Some(name), limit).map_err(failed)?;
        if metadata.topics().iter().any(|topic| topic.error().is_none() && !topic.partitions().is_empty()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(failed(format!("{name} was created, and is not known after {limit:?}")))
}

fn read(mut config: ClientConfig, name: &str, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
    config.set("group.id", "stock").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(name), wait).map_err(failed)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).map_err(failed)? {
        list.add_partition_offset(name, partition, Offset::Beginning).map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    drop(list);
    let began = Instant::now();
    let mut read = Vec::new();
    while read.len() < max && began.elapsed() < wait {
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let headers = record.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        read.push(RawMessage {
            key: record.key().map(<[u8]>::to_vec),
            body: record.payload().map(<[u8]>::to_vec),
            headers,
        });
    }
    Ok(read)
}

#[expect(clippy::print_stderr, reason = "the end of a test program")]
fn main() -> ExitCode {
    let Ok(url) = std::env::var("MQ_TEST_KAFKA") else {
        eprintln!("MQ_TEST_KAFKA names no broker: cargo xtask brokers up kafka prints what to set");
        return ExitCode::FAILURE;
    };
    let mut config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("MQ_TEST_KAFKA: {error}");
            return ExitCode::FAILURE;
        }
    };
    // The servers for tests are single nodes.
    config.profile = Profile::Development;
    let Ok(ways) = std::env::var("MQ_TEST_KAFKA_WAYS") else {
        eprintln!("MQ_TEST_KAFKA_WAYS names no way to break: cargo xtask brokers up kafka prints what to set");
        return ExitCode::FAILURE;
    };
    let server = match Server::by_ways(&ways) {
        Ok(server) => server.control(std::env::var("MQ_TEST_KAFKA_CONTROL").ok()),
        Err(error) => {
            eprintln!("MQ_TEST_KAFKA_WAYS: {error}");
            return ExitCode::FAILURE;
        }
    };
    mq_conformance::main(Cluster { stock: Stock { brokers: config.brokers.join(",") }, config, server })
}
