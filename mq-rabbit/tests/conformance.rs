//! The conformance suite on a real RabbitMQ: `MQ_TEST_RABBIT=amqp://guest:guest@127.0.0.1:5672`, and as
//! `MQ_TEST_PROFILE` the name of the column in the matrix (`rabbit-3.10`, `rabbit-4.0`). For the scenarios that kill the
//! broker `MQ_TEST_RABBIT_CONTROL`, as `cargo xtask brokers up` prints it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use mq_conformance::faults::Server;
use mq_conformance::{Carries, Faults, Foreign, Harness, RawMessage};
use mq_core::config::Url;
use mq_core::driver::BrokerDriver;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Topic, TopicKind};
use mq_rabbit::{RabbitBroker, RabbitConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Debug)]
struct Rabbit {
    url: String,
    stock: Stock,
    server: Server,
}

/// A stock client: nothing of the SDK.
#[derive(Debug)]
struct Stock {
    url: String,
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the stock client: {cause}"))
}

impl Stock {
    async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.map_err(failed)?;
        let channel = connection.create_channel().await.map_err(failed)?;
        Ok((connection, channel))
    }
}

#[async_trait]
impl Harness for Rabbit {
    fn profile(&self) -> String {
        std::env::var("MQ_TEST_PROFILE").unwrap_or_else(|_| "rabbit".to_owned())
    }

    /// Read from the first frame the server sends: the client keeps it to itself.
    async fn version(&self) -> Result<String> {
        let config = RabbitConfig::from_url(&Url::parse(&self.url)?)?;
        let host = config.hosts.first().cloned().unwrap_or_default();
        let mut stream = tokio::net::TcpStream::connect(host).await.map_err(failed)?;
        stream.write_all(b"AMQP\0\0\x09\x01").await.map_err(failed)?;
        let mut frame = vec![0; 4096];
        let mut length = 0;
        let version = loop {
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut frame[length..])).await;
            let read = read.map_err(failed)?.map_err(failed)?;
            length += read;
            let bytes = &frame[..length];
            let marker = b"\x07versionS";
            if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker)
                && let Some(value) = bytes.get(at + marker.len() + 4..)
                && let Some(size) = bytes.get(at + marker.len() + 3)
                && let Some(value) = value.get(..usize::from(*size))
            {
                break String::from_utf8_lossy(value).into_owned();
            }
            if read == 0 || length == frame.len() {
                return Err(failed("the server does not name its version"));
            }
        };
        Ok(format!("RabbitMQ {version}"))
    }

    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        let config = RabbitConfig::from_url(&Url::parse(&self.url)?)?;
        Ok(Arc::new(RabbitBroker::connect(config).await?))
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(&self.stock)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(&self.server)
    }

    async fn connect_at(&self, address: SocketAddr) -> Result<Arc<dyn BrokerDriver>> {
        let mut config = RabbitConfig::from_url(&Url::parse(&self.url)?)?;
        config.hosts = vec![address.to_string()];
        // A test sees the end of a silent connection sooner than a service should.
        config.heartbeat = 2;
        Ok(Arc::new(RabbitBroker::connect(config).await?))
    }
}

#[async_trait]
impl Foreign for Stock {
    async fn create(&self, name: &str) -> Result<Topic> {
        let (_connection, channel) = self.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, arguments).await.map_err(failed)?;
        Topic::parse(format!("queue:{name}"))
    }

    async fn publish(&self, place: &Topic, message: &RawMessage) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let mut headers = FieldTable::default();
        for (name, value) in &message.headers {
            let value = match value {
                Some(value) => AMQPValue::LongString(value.clone().into()),
                None => AMQPValue::Void,
            };
            headers.insert(ShortString::try_new(name.as_str()).map_err(failed)?, value);
        }
        let (exchange, key) = if place.kind() == TopicKind::Topic { (place.name(), "") } else { ("", place.name()) };
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = BasicProperties::default().with_headers(headers);
        let body = message.body.clone().unwrap_or_default();
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, &body, properties).await;
        let confirmation = confirm.map_err(failed)?.await.map_err(failed)?;
        if confirmation.is_ack() && confirmation.take_message().is_none() {
            return Ok(());
        }
        Err(failed("the message was not stored"))
    }

    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
        let (_connection, channel) = self.channel().await?;
        let began = Instant::now();
        let mut read = Vec::new();
        while read.len() < max && began.elapsed() < wait {
            let got = channel.basic_get(place.name().into(), BasicGetOptions { no_ack: true }).await;
            let Some(got) = got.map_err(failed)? else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let delivery = got.delivery;
            let mut message = RawMessage::new(delivery.data);
            for (name, value) in delivery.properties.headers().iter().flatten() {
                let value = match value {
                    AMQPValue::LongString(value) => Some(value.as_bytes().to_vec()),
                    AMQPValue::Void => None,
                    other => Some(format!("{other:?}").into_bytes()),
                };
                message.headers.push((name.to_string(), value));
            }
            read.push(message);
        }
        Ok(read)
    }

    async fn remove(&self, place: &Topic) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.queue_delete(place.name().into(), Default::default()).await.map(drop).map_err(failed)
    }

    fn carries(&self) -> Carries {
        Carries::little().null_headers(true)
    }
}

/// Where the broker listens.
fn address(url: &str) -> Option<SocketAddr> {
    let config = RabbitConfig::from_url(&Url::parse(url).ok()?).ok()?;
    config.hosts.first()?.to_socket_addrs().ok()?.next()
}

#[expect(clippy::print_stderr, reason = "the end of a test program")]
fn main() -> ExitCode {
    let Ok(url) = std::env::var("MQ_TEST_RABBIT") else {
        eprintln!("MQ_TEST_RABBIT names no broker: cargo xtask brokers up rabbit-4.0 prints what to set");
        return ExitCode::FAILURE;
    };
    let Some(address) = address(&url) else {
        eprintln!("MQ_TEST_RABBIT names no address of this machine: {url}");
        return ExitCode::FAILURE;
    };
    let server = Server::at(address).control(std::env::var("MQ_TEST_RABBIT_CONTROL").ok());
    mq_conformance::main(Rabbit { stock: Stock { url: url.clone() }, url, server })
}
