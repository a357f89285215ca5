//! Which brokers there are.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A broker in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[value(name = "kafka")]
    #[serde(rename = "kafka")]
    Kafka,
    #[value(name = "rabbit-3.10")]
    #[serde(rename = "rabbit-3.10")]
    Rabbit310,
    #[value(name = "rabbit-4.0")]
    #[serde(rename = "rabbit-4.0")]
    Rabbit40,
    #[value(name = "redis-7.0")]
    #[serde(rename = "redis-7.0")]
    Redis70,
    #[value(name = "redis-8.0")]
    #[serde(rename = "redis-8.0")]
    Redis80,
    /// Of Redis 8.0
    #[value(name = "redis-cluster")]
    #[serde(rename = "redis-cluster")]
    RedisCluster,
    /// Of Redis 8.0
    #[value(name = "redis-sentinel")]
    #[serde(rename = "redis-sentinel")]
    RedisSentinel,
    #[value(name = "rocket-5.4")]
    #[serde(rename = "rocket-5.4")]
    Rocket54,
    /// The same, which takes nobody without a certificate and a login: for tests of both.
    #[value(name = "rocket-5.4-guarded")]
    #[serde(rename = "rocket-5.4-guarded")]
    Rocket54Guarded,
    /// Of RocketMQ 5.4
    #[value(name = "rocket-cluster")]
    #[serde(rename = "rocket-cluster")]
    RocketCluster,
}

impl Kind {
    /// One of each that services use.
    pub(crate) const ALL: [Self; 9] = [
        Self::Kafka,
        Self::Rabbit310,
        Self::Rabbit40,
        Self::Redis70,
        Self::Redis80,
        Self::RedisCluster,
        Self::RedisSentinel,
        Self::Rocket54,
        Self::RocketCluster,
    ];

    /// Those that only tests of themselves want as well.
    pub(crate) const EVERY: [Self; 10] = [
        Self::Kafka,
        Self::Rabbit310,
        Self::Rabbit40,
        Self::Redis70,
        Self::Redis80,
        Self::RedisCluster,
        Self::RedisSentinel,
        Self::Rocket54,
        Self::RocketCluster,
        Self::Rocket54Guarded,
    ];

    /// The name on the command line, of its folder and of its conformance profile.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Rabbit310 => "rabbit-3.10",
            Self::Rabbit40 => "rabbit-4.0",
            Self::Redis70 => "redis-7.0",
            Self::Redis80 => "redis-8.0",
            Self::RedisCluster => "redis-cluster",
            Self::RedisSentinel => "redis-sentinel",
            Self::Rocket54 => "rocket-5.4",
            Self::Rocket54Guarded => "rocket-5.4-guarded",
            Self::RocketCluster => "rocket-cluster",
        }
    }

    /// The Debian release which carries this RabbitMQ or Redis.
    pub(crate) fn debian_release(self) -> Option<&'static str> {
        match self {
            Self::Kafka | Self::Rocket54 | Self::Rocket54Guarded | Self::RocketCluster => None,
            Self::Rabbit310 | Self::Redis70 => Some("bookworm"),
            Self::Rabbit40 | Self::Redis80 | Self::RedisCluster | Self::RedisSentinel => Some("trixie"),
        }
    }

    /// How many processes an instance is.
    pub(crate) fn processes(self) -> usize {
        match self {
            Self::RedisCluster => super::redis_cluster::NODES,
            Self::RedisSentinel => super::redis_sentinel::NODES,
            Self::RocketCluster => super::rocket_cluster::NODES.len(),
            _ => 1,
        }
    }

    /// The process which has this port of an instance.
    pub(crate) fn process_of(self, port: usize) -> usize {
        match self {
            Self::RocketCluster => super::rocket_cluster::node_of(port),
            _ => port % self.processes(),
        }
    }

    /// The process with this name of an instance that is several; those of Redis are numbered from 1 on.
    pub(crate) fn node(self, name: &str) -> Option<usize> {
        match self {
            Self::RocketCluster => super::rocket_cluster::NODES.iter().position(|node| *node == name),
            Self::RedisCluster | Self::RedisSentinel => {
                let index = name.parse::<usize>().ok()?.checked_sub(1)?;
                (index < self.processes()).then_some(index)
            }
            _ => None,
        }
    }

    /// By the ports of an instance.
    pub(crate) fn url(self, ports: &[u16]) -> String {
        let port = ports.first().copied().unwrap_or_default();
        match self {
            Self::Kafka => format!("kafka://127.0.0.1:{port}"),
            Self::Rabbit310 | Self::Rabbit40 => format!("amqp://guest:guest@127.0.0.1:{port}"),
            Self::Redis70 | Self::Redis80 => format!("redis://127.0.0.1:{port}"),
            Self::RedisCluster => super::redis_cluster::url(ports),
            Self::RedisSentinel => super::redis_sentinel::url(ports),
            Self::Rocket54 | Self::Rocket54Guarded => super::rocket::url(port),
            Self::RocketCluster => super::rocket_cluster::url(ports),
        }
    }

    /// Where the search for free ports begins, well below the range of outgoing connections: a port there stays
    /// ours while the broker is killed.
    pub(crate) fn first_port(self) -> u16 {
        match self {
            Self::Kafka => 21092,
            Self::Rabbit310 => 21310,
            Self::Rabbit40 => 21400,
            Self::Redis70 => 21700,
            Self::Redis80 => 21800,
            Self::RedisCluster => 21900,
            Self::RedisSentinel => 21950,
            Self::Rocket54 => 22000,
            Self::Rocket54Guarded => 22200,
            Self::RocketCluster => 22300,
        }
    }

    pub(crate) fn is_rocket(self) -> bool {
        matches!(self, Self::Rocket54 | Self::Rocket54Guarded | Self::RocketCluster)
    }

    /// How long a start may take before it counts as failed. Slow on purpose: a loaded machine is no failure.
    pub(crate) fn start_patience(self) -> Duration {
        Duration::from_secs(90)
    }
}
