//! The conformance suite on a real Redis: `MQ_TEST_REDIS=redis://127.0.0.1:6379`, and as `MQ_TEST_PROFILE` the name of
//! the column in the matrix (`redis-7.0`, `redis-8.0`, `redis-cluster`). For the scenarios that kill the broker `MQ_TEST_REDIS_CONTROL`,
//! as `cargo xtask brokers up` prints it, and of a cluster `MQ_TEST_REDIS_NODES`: every node, replicas too.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_conformance::faults::{Proxy, Server, Way};
use mq_conformance::{Carries, Faults, Foreign, Harness, RawMessage};
use mq_core::config::Url;
use mq_core::driver::{BrokerDriver, TopicSpec};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Topic, TopicKind};
use mq_redis_stream::{Deployment, RedisBroker, RedisConfig};
use redis::{Value, cmd};

#[derive(Debug)]
struct Redis {
    url: String,
    stock: Stock,
    server: Server,
    cluster: Option<Cluster>,
}

/// The nodes of a cluster, replicas too, and how they are killed: all at once.
#[derive(Debug)]
struct Cluster {
    nodes: Vec<SocketAddr>,
    server: Server,
}

/// A way to each node.
#[derive(Debug)]
struct Ways(Vec<Proxy>);

impl Way for Ways {
    /// That to the first node; the others begin at the ports behind.
    fn address(&self) -> Option<SocketAddr> {
        self.0.first().map(Proxy::address)
    }
    fn cut(&self) {
        self.0.iter().for_each(Proxy::cut);
    }
    fn stall(&self, stalled: bool) {
        self.0.iter().for_each(|way| way.stall(stalled));
    }
    fn slow(&self, bytes_per_second: Option<u32>) {
        self.0.iter().for_each(|way| way.slow(bytes_per_second));
    }
    fn half_open(&self) {
        self.0.iter().for_each(Proxy::half_open);
    }
    fn refuse(&self, refusing: bool) {
        self.0.iter().for_each(|way| way.refuse(refusing));
    }
}

impl Cluster {
    /// The address of each node behind a way, by its own.
    fn map(&self, first: SocketAddr) -> impl Iterator<Item = (String, String)> {
        let behind = (first.port()..).map(move |port| SocketAddr::new(first.ip(), port));
        self.nodes.iter().zip(behind).map(|(node, way)| (node.to_string(), way.to_string()))
    }
}

#[async_trait]
impl Faults for Cluster {
    async fn kill(&self) -> Result<()> {
        self.server.kill().await
    }
    async fn start(&self) -> Result<()> {
        self.server.start().await
    }
    async fn block(&self, blocked: bool) -> Result<()> {
        self.server.block(blocked).await
    }
    async fn way(&self) -> Result<Arc<dyn Way>> {
        // The ports are the lock: whoever listens there has the way, in this process or another.
        for first in (23_000_u16..24_000).step_by(self.nodes.len()) {
            let mut ways = Vec::new();
            for (node, port) in self.nodes.iter().zip(first..) {
                match Proxy::start(SocketAddr::from(([127, 0, 0, 1], port)), *node).await {
                    Ok(way) => ways.push(way),
                    Err(_) => break,
                }
            }
            if ways.len() == self.nodes.len() {
                return Ok(Arc::new(Ways(ways)));
            }
        }
        Err(failed("no ports are free for a way"))
    }
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
    async fn ask(&self, command: &redis::Cmd) -> Result<Value> {
        let mut url = self.url.clone();
        // On a cluster the first node says which has the key.
        for _ in 0..3 {
            let client = redis::Client::open(url.as_str()).map_err(failed)?;
            let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
            match command.query_async::<Value>(&mut connection).await {
                Err(cause) if cause.redirect_node().is_some() => {
                    url = cause.redirect_node().map(|(node, _)| format!("redis://{node}")).unwrap_or_default();
                }
                answer => return answer.map_err(failed),
            }
        }
        Err(failed("the cluster sends it from node to node"))
    }

    /// The key of a place; a topic of ours has a first partition.
    fn key(place: &Topic) -> String {
        match place.kind() {
            TopicKind::Stream => place.name().to_owned(),
            _ => format!("{{mq:{}:0}}:s", place.name()),
        }
    }
}

#[async_trait]
impl Harness for Redis {
    fn profile(&self) -> String {
        std::env::var("MQ_TEST_PROFILE").unwrap_or_else(|_| "redis".to_owned())
    }

    async fn version(&self) -> Result<String> {
        let info = self.stock.ask(cmd("INFO").arg("server")).await?;
        let text: String = redis::from_redis_value(info).map_err(failed)?;
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(format!("Redis {}", version.ok_or_else(|| failed("the server does not name its version"))?.trim()))
    }

    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        let config = config(&self.url)?;
        Ok(Arc::new(RedisBroker::connect(config).await?))
    }

    fn topic_spec(&self, spec: TopicSpec) -> TopicSpec {
        spec.partitions(3)
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        Some(&self.stock)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self.cluster.as_ref().map_or(&self.server as &dyn Faults, |cluster| cluster))
    }

    async fn connect_at(&self, address: SocketAddr) -> Result<Arc<dyn BrokerDriver>> {
        let mut config = config(&self.url)?;
        config.host = address.ip().to_string();
        config.port = address.port();
        if let Some(cluster) = &self.cluster {
            config.seeds.clear();
            config.address_map = cluster.map(address).collect();
        }
        // A test sees the end of a silent session sooner than a service should.
        config.session = Duration::from_secs(4);
        Ok(Arc::new(RedisBroker::connect(config).await?))
    }
}

#[async_trait]
impl Foreign for Stock {
    async fn create(&self, name: &str) -> Result<Topic> {
        self.ask(cmd("XGROUP").arg("CREATE").arg(name).arg("its-own").arg("$").arg("MKSTREAM")).await?;
        Topic::parse(format!("stream:{name}"))
    }

    async fn publish(&self, place: &Topic, message: &RawMessage) -> Result<()> {
        let mut add = cmd("XADD");
        add.arg(Self::key(place)).arg("*").arg("body").arg(message.body.clone().unwrap_or_default());
        for (name, value) in &message.headers {
            add.arg(name).arg(value.clone().unwrap_or_default());
        }
        self.ask(&add).await.map(drop)
    }

    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
        let began = Instant::now();
        let mut entries: Vec<(String, Vec<(String, Vec<u8>)>)> = Vec::new();
        while entries.len() < max && began.elapsed() < wait {
            let read = self.ask(cmd("XRANGE").arg(Self::key(place)).arg("-").arg("+").arg("COUNT").arg(max)).await?;
            entries = redis::from_redis_value(read).map_err(failed)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let message = |(_, fields): (String, Vec<(String, Vec<u8>)>)| {
            let mut message = RawMessage::new(Vec::new());
            for (name, value) in fields {
                match name.as_str() {
                    "body" => message.body = Some(value),
                    _ => message.headers.push((name, Some(value))),
                }
            }
            message
        };
        Ok(entries.into_iter().map(message).collect())
    }

    async fn remove(&self, place: &Topic) -> Result<()> {
        self.ask(cmd("DEL").arg(Self::key(place))).await.map(drop)
    }

    fn carries(&self) -> Carries {
        let mut carries = Carries::little();
        carries.repeated_headers = true;
        carries
    }
}

/// What the URL names: the first host.
fn config(url: &str) -> Result<RedisConfig> {
    RedisConfig::from_url(&Url::parse(url)?)
}

fn resolved(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}

#[expect(clippy::print_stderr, reason = "the end of a test program")]
fn main() -> ExitCode {
    let Ok(url) = std::env::var("MQ_TEST_REDIS") else {
        eprintln!("MQ_TEST_REDIS names no broker: cargo xtask brokers up redis-7.0 prints what to set");
        return ExitCode::FAILURE;
    };
    let Ok(config) = config(&url) else {
        eprintln!("MQ_TEST_REDIS is no URL of Redis");
        return ExitCode::FAILURE;
    };
    let Some(address) = resolved(&config.host, config.port) else {
        eprintln!("MQ_TEST_REDIS names no address of this machine");
        return ExitCode::FAILURE;
    };
    let stock = match config.deployment {
        Deployment::Cluster => format!("redis://{address}"),
        _ => url.clone(),
    };
    let server = Server::at(address).control(std::env::var("MQ_TEST_REDIS_CONTROL").ok());
    let nodes = std::env::var("MQ_TEST_REDIS_NODES").unwrap_or_default();
    let nodes: Vec<SocketAddr> = nodes.split(',').filter_map(|node| node.parse().ok()).collect();
    let cluster = match config.deployment {
        Deployment::Cluster if nodes.is_empty() => {
            eprintln!("MQ_TEST_REDIS_NODES names no nodes: cargo xtask brokers up redis-cluster prints what to set");
            return ExitCode::FAILURE;
        }
        Deployment::Cluster => Some(Cluster { nodes, server: server.clone() }),
        _ => None,
    };
    mq_conformance::main(Redis { stock: Stock { url: stock }, url, server, cluster })
}
