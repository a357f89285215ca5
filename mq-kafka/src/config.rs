//! Configuration, from a URL, TOML or the environment.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::config::{Secret, Tls, Topology, Url};
use mq_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a Kafka cluster is reached and used. `[broker.kafka]` in TOML; every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// Addresses to start from, `host:port`. Default: `127.0.0.1:9092`.
    pub brokers: Vec<String>,
    /// What topics are declared like: `production` (default) or `development`.
    pub profile: Profile,
    /// Who creates topics. Default: `declare`.
    pub topology: Topology,
    /// The name shown in the broker's logs and quotas. Default: `mq`.
    pub client_id: String,
    /// Log in with this; `None` (default) does not.
    pub sasl: Option<Sasl>,
    /// Encrypt the connection.
    pub tls: Tls,
    /// How long connecting, opening and every administrative call may take. Default: 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub connect_timeout: Duration,
    /// How long a send may take, retries of the client included. Default: 30 s.
    #[serde(with = "mq_core::config::duration")]
    pub send_timeout: Duration,
    /// Sending.
    pub producer: ProducerConfig,
    /// Receiving.
    pub consumer: ConsumerConfig,
    /// Topics declared without properties of their own.
    pub topic: TopicConfig,
    /// Settings of librdkafka, by its own names; they win, except where a guarantee rests on them.
    pub native: BTreeMap<String, Secret>,
}

/// What topics are declared like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As `[broker.kafka.topic]` says: 3 copies, 2 of them in sync.
    #[default]
    Production,
    /// One copy: for a single node on a desk.
    Development,
}

/// Credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is proven. Default: `plain`.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How the password is proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Sent as it is: only sensible inside TLS.
    #[default]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// Sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// `none`, `lz4` (default), `snappy`, `gzip` or `zstd`.
    pub compression: String,
    /// Bytes a batch of one partition may have. Default: 16 KiB.
    pub batch_bytes: u32,
    /// Bytes waiting in the client; then sends wait. Default: 32 MiB.
    pub buffer_bytes: u32,
    /// Body, key and headers of one message; a larger one is refused at once. Default: 1,000,000.
    pub max_message_bytes: u32,
    /// The lasting name of this process for atomic sends: one started under the same name ends what an earlier one left
    /// unfinished, and closes it. Default: a new one each time.
    pub transactional_id: Option<String>,
}

/// Receiving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// A member not heard of for this long is dead. Default: 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub session_timeout: Duration,
    /// How often a member is heard of. It also learns by that of others that come and go: until then the partitions that
    /// move to them stand still. Default: 1 s.
    #[serde(with = "mq_core::config::duration")]
    pub heartbeat_interval: Duration,
    /// Acks are committed at least this often. Default: 1 s.
    #[serde(with = "mq_core::config::duration")]
    pub commit_interval: Duration,
    /// Acks are committed when there are this many, but not more than a hundred times a second. Default: 50.
    pub commit_acks: u32,
    /// The most acks without a commit, however fast the consumer is: beyond it waits. A slow consumer has far fewer: at
    /// most `commit_acks`, or twice what the last commit covered. Default: 10,000.
    pub duplicate_window: u32,
    /// Bytes fetched ahead. Default: 16 MiB.
    pub fetch_ahead_bytes: u32,
    /// A lasting name of this process: a restart within the session timeout causes no rebalance.
    pub instance_id: Option<String>,
}

/// Topics declared without properties of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TopicConfig {
    /// Partitions. Default: 12.
    pub partitions: u32,
    /// Copies. Default: 3; 1 in the development profile.
    pub replicas: u32,
    /// Copies that must have a message before it counts as stored. Default: 2; 1 in the development profile.
    pub min_in_sync: u32,
    /// How long messages are kept. Default: 7 days.
    #[serde(with = "mq_core::config::duration")]
    pub retention: Duration,
    /// How long retries and dead letters are kept. Default: 14 days.
    #[serde(with = "mq_core::config::duration")]
    pub dead_letter_retention: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            profile: Profile::default(),
            topology: Topology::default(),
            client_id: "mq".to_owned(),
            sasl: None,
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            producer: ProducerConfig::default(),
            consumer: ConsumerConfig::default(),
            topic: TopicConfig::default(),
            native: BTreeMap::new(),
        }
    }
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            compression: "lz4".to_owned(),
            batch_bytes: 16 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            max_message_bytes: 1_000_000,
            transactional_id: None,
        }
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            commit_interval: Duration::from_secs(1),
            commit_acks: 50,
            duplicate_window: 10_000,
            fetch_ahead_bytes: 16 * 1024 * 1024,
            instance_id: None,
        }
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            partitions: 12,
            replicas: 3,
            min_in_sync: 2,
            retention: Duration::from_secs(7 * DAY),
            dead_letter_retention: Duration::from_secs(14 * DAY),
        }
    }
}

/// The parameters a URL may have.
const PARAMETERS: &[&str] = &[
    "profile",
    "topology",
    "sasl",
    "tls",
    "ca",
    "certificate",
    "key",
    "client_id",
    "instance_id",
    "connect_timeout",
    "send_timeout",
];

impl Config {
    /// Reads `kafka://user:password@host:port,host:port?profile=development&topology=verify&sasl=scram-sha-256&tls&ca=F`.
    /// The scheme `kafkas` is `kafka` with TLS.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), never printing the URL.
    pub fn from_url(text: &str) -> Result<Self> {
        let url = Url::parse(text)?;
        if !matches!(url.scheme.as_str(), "kafka" | "kafkas") {
            return Err(Error::config("not a Kafka URL").with_hint("for example kafka://127.0.0.1:9092"));
        }
        if url.path.as_deref().is_some_and(|path| !path.is_empty()) {
            return Err(Error::config("a Kafka URL has no path").with_hint("for example kafka://127.0.0.1:9092"));
        }
        url.check_parameters(PARAMETERS)?;
        let mut config = Self::default();
        if !url.hosts.is_empty() {
            config.brokers = url.hosts.iter().map(|(host, port)| address(host, port.unwrap_or(9092))).collect();
        }
        config.tls.enabled = url.scheme == "kafkas";
        let mut mechanism = Mechanism::default();
        for (name, value) in &url.query {
            match name.as_str() {
                "profile" => config.profile = parse(name, value)?,
                "topology" => config.topology = parse(name, value)?,
                "sasl" => mechanism = parse(name, value)?,
                "tls" => config.tls.enabled = parse(name, value)?,
                "ca" => config.tls.ca = Some(value.into()),
                "certificate" => config.tls.certificate = Some(value.into()),
                "key" => config.tls.key = Some(value.into()),
                "client_id" => config.client_id.clone_from(value),
                "instance_id" => config.consumer.instance_id = Some(value.clone()),
                "connect_timeout" => config.connect_timeout = duration(name, value)?,
                "send_timeout" => config.send_timeout = duration(name, value)?,
                _ => {}
            }
        }
        config.sasl = match (url.user, url.password) {
            (Some(username), Some(password)) => Some(Sasl { mechanism, username, password }),
            (None, None) => None,
            _ => return Err(Error::config("the broker URL needs both user and password, or neither")),
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.brokers.is_empty() {
            return Err(Error::config("`brokers` is empty").with_hint("name at least one host:port"));
        }
        let fixed = self.native.keys().find(|name| FIXED.contains(&name.as_str()));
        if let Some(name) = fixed {
            return Err(Error::config(format!("`native.{name}` cannot be set: a guarantee of mq rests on it")));
        }
        if self.tls.server_name.is_some() {
            return Err(Error::config(
                "`tls.server_name` cannot be set: the Kafka client checks the host it connects to",
            )
            .with_hint("connect by the name in the server's certificate"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::config("a client certificate needs both `certificate` and `key`"));
        }
        if !self.tls.enabled && (self.tls.ca.is_some() || self.tls.certificate.is_some()) {
            return Err(Error::config("certificates are given, but the connection is not encrypted")
                .with_hint("use kafkas:// or tls.enabled = true"));
        }
        let bad = |what: &str| Err(Error::config(format!("`{what}` is out of range")));
        if self.consumer.heartbeat_interval.as_millis() * 3 > self.consumer.session_timeout.as_millis() {
            return Err(Error::config(
                "`consumer.heartbeat_interval` is more than a third of `consumer.session_timeout`",
            ));
        }
        if self.connect_timeout.is_zero() || self.connect_timeout > Duration::from_secs(3600) {
            return bad("connect_timeout");
        }
        if self.send_timeout < Duration::from_millis(100) || self.send_timeout > Duration::from_secs(3600) {
            return bad("send_timeout");
        }
        if self.consumer.commit_acks == 0 || self.consumer.fetch_ahead_bytes < 1024 {
            return bad("consumer.commit_acks or consumer.fetch_ahead_bytes");
        }
        if self.consumer.duplicate_window < self.consumer.commit_acks {
            return Err(Error::config("`consumer.duplicate_window` is less than `consumer.commit_acks`"));
        }
        if self.producer.buffer_bytes < 1024 || self.producer.max_message_bytes < 1024 {
            return bad("producer.buffer_bytes or producer.max_message_bytes");
        }
        Ok(())
    }

    /// Opens the files of certificates: the client's own error names none.
    pub(crate) fn check_files(&self) -> Result<()> {
        let tls = &self.tls;
        for (name, path) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
            let Some(path) = path.as_ref().filter(|_| tls.enabled) else { continue };
            std::fs::File::open(path).map_err(|cause| {
                Error::config(format!("the file of `tls.{name}` cannot be read: {cause}"))
                    .with_context("path", path.display())
            })?;
        }
        Ok(())
    }

    /// Copies and in-sync copies of a new topic.
    pub(crate) fn replication(&self) -> (u32, u32) {
        match self.profile {
            Profile::Production => (self.topic.replicas, self.topic.min_in_sync),
            Profile::Development => (1, 1),
        }
    }
}

/// Settings a guarantee rests on.
const FIXED: &[&str] = &[
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "allow.auto.create.topics",
    "group.id",
    "group.protocol",
    "partition.assignment.strategy",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "partitioner",
    "transactional.id",
];

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, value: &str) -> Result<T> {
    // Through TOML, so that a URL accepts the same words as a file.
    #[derive(Deserialize)]
    struct Holder<T> {
        value: T,
    }
    let literal = match value {
        "true" | "false" => format!("value = {value}"),
        _ => format!("value = {:?}", value),
    };
    toml::from_str::<Holder<T>>(&literal)
        .map(|holder| holder.value)
        .map_err(|_| Error::config(format!("the parameter `{name}` of the broker URL has a value that is not known")))
}

fn duration(name: &str, value: &str) -> Result<Duration> {
    mq_core::config::duration::parse(value)
        .map_err(|why| Error::config(format!("the parameter `{name}` of the broker URL: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let config = Config::from_url(
            "kafkas://mq:p%40ss@a:1,[::1]?profile=development&topology=off&sasl=scram-sha-512&connect_timeout=3s",
        )
        .unwrap();
        assert_eq!(config.brokers, ["a:1", "[::1]:9092"]);
        assert!(config.tls.enabled);
        assert_eq!((config.profile, config.topology), (Profile::Development, Topology::Off));
        let sasl = config.sasl.as_ref().unwrap();
        assert_eq!((sasl.mechanism, sasl.password.reveal()), (Mechanism::ScramSha512, "p@ss"));
        assert!(!format!("{config:?}").contains("p@ss"));
        for bad in ["amqp://h", "kafka://h/path", "kafka://h?x=1", "kafka://h?profile=big", "kafka://user@h"] {
            assert!(Config::from_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guarantees_cannot_be_switched_off() {
        let mut config = Config::default();
        config.native.insert("acks".into(), Secret::new("0"));
        assert!(config.check().is_err());
    }

    /// The reference shows every setting with its default.
    #[test]
    fn reference_is_the_default() {
        let reference: Config = toml::from_str(include_str!("../reference.toml")).unwrap();
        let expected = Config {
            sasl: Some(Sasl { mechanism: Mechanism::Plain, username: "mq".into(), password: Secret::new("secret") }),
            native: [("statistics.interval.ms".to_owned(), Secret::new("0"))].into(),
            ..Config::default()
        };
        assert_eq!(reference, expected);
    }
}
