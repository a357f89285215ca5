//! The conformance suite on a real RocketMQ: `MQ_TEST_ROCKET=rocketmq://127.0.0.1:9876` names the name server,
//! `MQ_TEST_ROCKET_BROKER` the broker's own address. For the scenarios that kill the broker `MQ_TEST_ROCKET_CONTROL`, as
//! `cargo xtask brokers up` prints it.

#[expect(dead_code, reason = "the audit does more with it")]
mod stock;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_conformance::faults::Server;
use mq_conformance::{Faults, Foreign, Harness};
use mq_core::config::Url;
use mq_core::driver::{BrokerDriver, TopicSpec};
use mq_core::error::Result;
use mq_rocket::{RocketBroker, RocketConfig};

use crate::stock::Stock;

#[derive(Debug)]
struct Rocket {
    url: String,
    broker: SocketAddr,
    stock: Stock,
    server: Server,
}

impl Rocket {
    fn config(&self) -> Result<RocketConfig> {
        let mut config = RocketConfig::from_url(&Url::parse(&self.url)?)?;
        // What a dead member had comes back within the patience of a scenario.
        config.lease = Duration::from_secs(6);
        // The start of a broker in a virtual machine of its own takes long on a loaded machine.
        config.connect_timeout = Duration::from_secs(45);
        Ok(config)
    }
}

#[async_trait]
impl Harness for Rocket {
    fn profile(&self) -> String {
        "rocket-5.4".to_owned()
    }

    async fn version(&self) -> Result<String> {
        self.stock.version().await
    }

    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        Ok(Arc::new(RocketBroker::connect(self.config()?).await?))
    }

    /// Each queue is files of its own at the broker.
    fn topic_spec(&self, mut spec: TopicSpec) -> TopicSpec {
        spec.partitions.get_or_insert(4);
        spec
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(&self.stock)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(&self.server)
    }

    async fn connect_at(&self, address: SocketAddr) -> Result<Arc<dyn BrokerDriver>> {
        let mut config = self.config()?;
        config.addresses.insert(self.broker.to_string(), address.to_string());
        Ok(Arc::new(RocketBroker::connect(config).await?))
    }
}

#[expect(clippy::print_stderr, reason = "the end of a test program")]
fn main() -> ExitCode {
    let hint = "cargo xtask brokers up rocket-5.4 prints what to set";
    let (Ok(url), Ok(broker)) = (std::env::var("MQ_TEST_ROCKET"), std::env::var("MQ_TEST_ROCKET_BROKER")) else {
        eprintln!("MQ_TEST_ROCKET and MQ_TEST_ROCKET_BROKER name no broker: {hint}");
        return ExitCode::FAILURE;
    };
    let Ok(broker) = broker.parse() else {
        eprintln!("MQ_TEST_ROCKET_BROKER is no address: {hint}");
        return ExitCode::FAILURE;
    };
    let server = Server::at(broker).control(std::env::var("MQ_TEST_ROCKET_CONTROL").ok());
    let Some(stock) = Stock::new(&url, broker) else {
        eprintln!("MQ_TEST_ROCKET names no name server: {hint}");
        return ExitCode::FAILURE;
    };
    mq_conformance::main(Rocket { url, broker, stock, server })
}
