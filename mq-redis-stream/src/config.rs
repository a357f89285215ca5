//! Settings of a connection to Redis, as in the table `[broker.redis-stream]`.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::config::{Secret, Tls, Topology};
use mq_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::slots::Address;

/// How far what Redis confirmed outlives its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Not at all: no append-only file.
    Memory,
    /// Up to a second of confirmed messages may be lost: `appendonly yes`, `appendfsync everysec`.
    EverySec,
    /// Written and flushed before it is confirmed: `appendonly yes`, `appendfsync always`.
    Always,
}

/// How several servers form one Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deployment {
    /// One server.
    #[default]
    Single,
    /// A Redis Cluster: `host` and `seeds` are some of its nodes, the others are found.
    Cluster,
    /// One server at a time, the others copy it: `host` and `seeds` are Sentinels, which say where `master` is.
    Sentinel,
}

/// How to reach Redis, and how the SDK behaves there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// The host.
    pub host: String,
    /// The port. Default 6379.
    pub port: u16,
    /// Whether that is all of it. Default: it is.
    pub deployment: Deployment,
    /// More nodes of a cluster, or more Sentinels, `host:port`, to be asked when `host` does not answer.
    pub seeds: Vec<String>,
    /// What the Sentinels call the master.
    pub master: String,
    /// The user at the Sentinels, which have logins of their own; `None` is their default user.
    pub sentinel_user: Option<String>,
    /// The password at the Sentinels; empty is none.
    pub sentinel_password: Secret,
    /// Where to connect instead of the addresses the nodes of a cluster or Sentinels name, both `host:port`: for a cluster behind
    /// address translation, such as one in containers.
    pub address_map: BTreeMap<String, String>,
    /// The number of the database; a cluster has only 0. Default 0.
    pub database: i64,
    /// The user; `None` is the server's default user.
    pub user: Option<String>,
    /// The password; empty is none.
    pub password: Secret,
    /// Encryption.
    pub tls: Tls,
    /// Who creates groups and what belongs to them.
    pub topology: Topology,
    /// How long connecting, declaring and asking may take. Default 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub connect_timeout: Duration,
    /// How long a confirmed send may take, waiting for a connection included. Default 30 s.
    #[serde(with = "mq_core::config::duration")]
    pub send_timeout: Duration,
    /// The longest pause between two attempts to reconnect. Default 500 ms.
    #[serde(with = "mq_core::config::duration")]
    pub max_reconnect_delay: Duration,
    /// After how long without a sign of life a consumer counts as dead, and others take what it held. Default 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub session: Duration,
    /// After how long another program's consumer, in a group shared with the SDK, loses what it holds. Default 60 s.
    #[serde(with = "mq_core::config::duration")]
    pub stranger_lease: Duration,
    /// The least the server must be configured for, or connecting fails. Default: none demanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// How many replicas must have a message before its send is confirmed (`WAIT`). Default 0.
    pub replicas: u32,
    /// Partitions of a topic declared without a number. Default 12.
    pub partitions: u32,
    /// The beginning of every key the SDK makes. Default `mq`.
    pub prefix: String,
    /// The largest message sent, in bytes: body, key and headers. Default 16 MiB.
    pub max_message_bytes: usize,
    /// The name of the connections in `CLIENT LIST`. Default `mq`.
    pub name: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 6379,
            deployment: Deployment::default(),
            seeds: Vec::new(),
            master: String::new(),
            sentinel_user: None,
            sentinel_password: Secret::default(),
            address_map: BTreeMap::new(),
            database: 0,
            user: None,
            password: Secret::default(),
            tls: Tls::default(),
            topology: Topology::default(),
            connect_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            max_reconnect_delay: Duration::from_millis(500),
            session: Duration::from_secs(10),
            stranger_lease: Duration::from_secs(60),
            durability: None,
            replicas: 0,
            partitions: 12,
            prefix: "mq".to_owned(),
            max_message_bytes: 16 * 1024 * 1024,
            name: "mq".to_owned(),
        }
    }
}

impl RedisConfig {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.connect_timeout.is_zero() || self.send_timeout.is_zero() {
            return Err(Error::config("a timeout of zero would fail every call"));
        }
        if self.session < Duration::from_secs(1) || self.stranger_lease < Duration::from_secs(1) {
            return Err(Error::config("session and stranger_lease must be at least 1 s"));
        }
        if !(1..=1024).contains(&self.partitions) {
            return Err(Error::config("partitions must be 1 to 1024"));
        }
        if self.max_message_bytes == 0 {
            return Err(Error::config("max_message_bytes must be at least 1"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(plain) {
            return Err(Error::config("the prefix is not 1 to 64 ASCII letters, digits, `.`, `_` or `-`"));
        }
        if self.host.is_empty() || self.host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::config("the host is empty or has blanks"));
        }
        if (self.deployment == Deployment::Sentinel) == self.master.is_empty() {
            return Err(Error::config("Sentinels must be asked for a master by its name, and nobody else")
                .with_hint("redis-sentinel://HOST:26379,HOST:26379/NAME, as in their `sentinel monitor NAME …`"));
        }
        let addresses = self.seeds.iter().chain(self.address_map.keys()).chain(self.address_map.values());
        for address in addresses {
            if Address::parse(address).is_none_or(|address| address.0.is_empty()) {
                return Err(Error::config("an address of seeds or address_map is not HOST:PORT"));
            }
        }
        if self.deployment == Deployment::Single && !(self.seeds.is_empty() && self.address_map.is_empty()) {
            return Err(Error::config("several hosts are given for a single server")
                .with_hint("a cluster is redis-cluster://host:6379,host:6379; of a single server name the one host"));
        }
        if self.deployment == Deployment::Cluster && self.database != 0 {
            return Err(Error::config("a Redis Cluster has no database but 0").with_hint("leave the number out"));
        }
        if self.name.is_empty() || !self.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::config("the name of the connection is empty or has blanks"));
        }
        if self.tls.server_name.is_some() {
            return Err(Error::config("the client cannot expect another name than the host in the certificate")
                .with_hint("connect by the name that is in the certificate"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::config("a client certificate needs both `certificate` and `key`"));
        }
        if !self.tls.enabled && (self.tls.ca.is_some() || self.tls.certificate.is_some()) {
            return Err(Error::config("certificates are given, but the connection is not encrypted")
                .with_hint("use rediss:// or tls.enabled = true"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_default() {
        #[derive(Deserialize)]
        struct File {
            broker: Broker,
        }
        #[derive(Deserialize)]
        struct Broker {
            #[serde(rename = "redis-stream")]
            redis: RedisConfig,
        }
        let file: File = toml::from_str(include_str!("../reference.toml")).unwrap();
        assert_eq!(file.broker.redis, RedisConfig::default());
        assert!(include_str!("../docs.md").contains(include_str!("../reference.toml")), "docs.md shows another file");
    }
}
