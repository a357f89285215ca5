//! Settings of a connection to RabbitMQ: from a URL, or from the table `[broker.rabbit]`.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::config::{Secret, Tls, Topology, Url};
use mq_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The bodies a RabbitMQ 4 server accepts without further configuration.
const DEFAULT_MAX_MESSAGE: usize = 16 * 1024 * 1024;

const PARAMETERS: &[&str] = &[
    "topology",
    "connect_timeout",
    "send_timeout",
    "heartbeat",
    "max_in_flight",
    "max_message_bytes",
    "delivery_limit",
    "max_reconnect_delay",
    "name",
    "ca",
    "certificate",
    "key",
    "server_name",
];

/// How to reach RabbitMQ, and how the SDK behaves there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RabbitConfig {
    /// Hosts with or without a port (5672, with TLS 5671); tried in turn.
    pub hosts: Vec<String>,
    /// The virtual host.
    pub vhost: String,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// Encryption. With a client certificate and no user given in the URL the server's EXTERNAL mechanism is used.
    pub tls: Tls,
    /// Who creates exchanges and queues.
    pub topology: Topology,
    /// How long connecting, declaring and asking may take. Default 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub connect_timeout: Duration,
    /// How long a confirmed send may take, waiting for room included. Default 30 s.
    #[serde(with = "mq_core::config::duration")]
    pub send_timeout: Duration,
    /// The longest pause between two attempts to reconnect. Default 1 s.
    #[serde(with = "mq_core::config::duration")]
    pub max_reconnect_delay: Duration,
    /// Heartbeats in seconds; 0 switches them off. Default 30.
    pub heartbeat: u16,
    /// Messages in flight of one producer; a message of more than 32 KiB counts once for each 32 KiB. Default 1,024.
    pub max_in_flight: usize,
    /// The largest body sent, in bytes. Default 16 MiB, the limit of RabbitMQ 4.
    pub max_message_bytes: usize,
    /// After how many returns a quorum queue of a group sets a message aside by itself: the net below the worker's own
    /// crash limit, which counts the same returns. Default 10,000. Fixed when the group is created.
    pub delivery_limit: u32,
    /// The most messages a group's queue holds; then sends are refused with `Backpressure`. Default: no bound. Fixed
    /// when the group is created.
    pub max_length: Option<u64>,
    /// The name of the connection in the management pages. Default `mq`.
    pub name: String,
    /// Passed on as they are: client properties of the connection.
    pub native: BTreeMap<String, String>,
}

impl Default for RabbitConfig {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1".to_owned()],
            vhost: "/".to_owned(),
            user: "guest".to_owned(),
            password: Secret::new("guest"),
            tls: Tls::default(),
            topology: Topology::default(),
            connect_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            max_reconnect_delay: Duration::from_secs(1),
            heartbeat: 30,
            max_in_flight: 1024,
            max_message_bytes: DEFAULT_MAX_MESSAGE,
            delivery_limit: 10_000,
            max_length: None,
            name: "mq".to_owned(),
            native: BTreeMap::new(),
        }
    }
}

impl RabbitConfig {
    /// Reads `amqp://user:password@host:port,host:port/vhost?name=value` or the same with `amqps`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), never printing the URL.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        match url.scheme.as_str() {
            "amqp" => {}
            "amqps" => config.tls.enabled = true,
            other => {
                return Err(Error::config(format!("`{other}:` is not a RabbitMQ URL"))
                    .with_hint("use amqp://user:password@host:5672/vhost or amqps://…"));
            }
        }
        url.check_parameters(PARAMETERS)?;
        if !url.hosts.is_empty() {
            config.hosts = url
                .hosts
                .iter()
                .map(|(host, port)| match port {
                    Some(port) if host.contains(':') => format!("[{host}]:{port}"),
                    Some(port) => format!("{host}:{port}"),
                    None => host.clone(),
                })
                .collect();
        }
        if let Some(user) = &url.user {
            config.user.clone_from(user);
            config.password = url.password.clone().unwrap_or_default();
        }
        // `amqp://host` and `amqp://host/` both mean the default: nobody uses the virtual host without a name.
        if let Some(path) = url.path.as_ref().filter(|path| !path.is_empty()) {
            config.vhost.clone_from(path);
        }
        for (name, value) in &url.query {
            config.set(name, value)?;
        }
        config.check()?;
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let bad = |what: &str| Error::config(format!("the URL parameter `{name}` is not {what}"));
        let duration = || -> Result<Duration> {
            mq_core::config::duration::parse(value)
                .map_err(|why| Error::config(format!("the URL parameter `{name}`: {why}")))
        };
        match name {
            "topology" => {
                self.topology = match value {
                    "declare" => Topology::Declare,
                    "verify" => Topology::Verify,
                    "off" => Topology::Off,
                    _ => return Err(bad("declare, verify or off")),
                }
            }
            "connect_timeout" => self.connect_timeout = duration()?,
            "send_timeout" => self.send_timeout = duration()?,
            "max_reconnect_delay" => self.max_reconnect_delay = duration()?,
            "heartbeat" => self.heartbeat = value.parse().map_err(|_| bad("a number of seconds"))?,
            "max_in_flight" => self.max_in_flight = value.parse().map_err(|_| bad("a number"))?,
            "max_message_bytes" => self.max_message_bytes = value.parse().map_err(|_| bad("a number"))?,
            "delivery_limit" => self.delivery_limit = value.parse().map_err(|_| bad("a number"))?,
            "name" => value.clone_into(&mut self.name),
            "ca" => self.tls.ca = Some(value.into()),
            "certificate" => self.tls.certificate = Some(value.into()),
            "key" => self.tls.key = Some(value.into()),
            "server_name" => self.tls.server_name = Some(value.to_owned()),
            _ => return Err(bad("known")),
        }
        Ok(())
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(Error::config("RabbitMQ needs a host").with_hint("hosts = [\"127.0.0.1:5672\"]"));
        }
        if self.connect_timeout.is_zero() || self.send_timeout.is_zero() {
            return Err(Error::config("a timeout of zero would fail every call"));
        }
        if self.max_in_flight == 0 || self.delivery_limit == 0 {
            return Err(Error::config("max_in_flight and delivery_limit must be at least 1"));
        }
        if self.vhost.len() > 255 {
            return Err(Error::config("the virtual host's name is longer than 255 bytes"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::config("a client certificate needs both `certificate` and `key`"));
        }
        if !self.tls.enabled && (self.tls.ca.is_some() || self.tls.certificate.is_some()) {
            return Err(Error::config("certificates are given, but the connection is not encrypted")
                .with_hint("use amqps:// or tls.enabled = true"));
        }
        for host in &self.hosts {
            split_host(host, 0)?;
        }
        Ok(())
    }

    /// Hosts and ports, in the order to be tried.
    pub(crate) fn addresses(&self) -> Vec<(String, u16)> {
        let port = if self.tls.enabled { 5671 } else { 5672 };
        self.hosts.iter().filter_map(|host| split_host(host, port).ok()).collect()
    }
}

fn split_host(text: &str, default: u16) -> Result<(String, u16)> {
    let bad = || Error::config("a RabbitMQ host has no valid port").with_hint("HOST, HOST:PORT or [IPv6]:PORT");
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
        // More than one colon without brackets is an IPv6 address without a port.
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host.to_owned(), port.map_or(Ok(default), |port| port.parse().map_err(|_| bad()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(url: &str) -> Result<RabbitConfig> {
        RabbitConfig::from_url(&Url::parse(url)?)
    }

    #[test]
    fn reads_urls() {
        let config =
            from("amqps://al:s3cret@h1:5671,h2/my%2Fvhost?topology=verify&send_timeout=5s&ca=/ca.pem&max_in_flight=7")
                .unwrap();
        assert_eq!(config.addresses(), [("h1".to_owned(), 5671), ("h2".to_owned(), 5671)]);
        assert_eq!((config.vhost.as_str(), config.user.as_str()), ("my/vhost", "al"));
        assert_eq!(config.send_timeout, Duration::from_secs(5));
        assert_eq!((config.topology, config.max_in_flight), (Topology::Verify, 7));
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(from("amqp://h/").unwrap().vhost, "/");
        assert_eq!(from("amqp://[::1]:1").unwrap().addresses(), [("::1".to_owned(), 1)]);
    }

    #[test]
    fn refuses_nonsense_without_printing_secrets() {
        for bad in [
            "kafka://h",
            "amqp://u:s3cret@h?x=1",
            "amqp://u:s3cret@h?send_timeout=soon",
            "amqp://u:s3cret@h?ca=/x",
            "amqp://u:s3cret@h?max_in_flight=0",
            "amqp://u:s3cret@h?connect_timeout=0s",
        ] {
            let error = from(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_reference_is_the_default() {
        #[derive(Deserialize)]
        struct File {
            broker: Broker,
        }
        #[derive(Deserialize)]
        struct Broker {
            rabbit: RabbitConfig,
        }
        let file: File = toml::from_str(include_str!("../reference.toml")).unwrap();
        assert_eq!(file.broker.rabbit, RabbitConfig::default());
        assert!(include_str!("../docs.md").contains(include_str!("../reference.toml")), "docs.md shows another file");
    }
}
