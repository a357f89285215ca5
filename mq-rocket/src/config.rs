//! Settings of a connection to RocketMQ: from a URL, or from the table `[broker.rocket]`.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::config::{Secret, Tls, Topology, Url};
use mq_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The port of a name server.
const PORT: u16 = 9876;

const PARAMETERS: &[&str] = &[
    "ca",
    "certificate",
    "key",
    "server_name",
    "topology",
    "connect_timeout",
    "send_timeout",
    "max_reconnect_delay",
    "lease",
    "poll_wait",
    "max_in_flight",
    "max_message_bytes",
    "partitions",
];

/// How to reach RocketMQ, and how the SDK behaves there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RocketConfig {
    /// Name servers with or without a port (9876); all of them are asked, and one that is dead is passed over.
    pub hosts: Vec<String>,
    /// The access key of the broker's ACL; empty: none.
    pub user: String,
    /// The secret key of the broker's ACL.
    pub password: Secret,
    /// Encryption, of connections to name servers and brokers alike.
    pub tls: Tls,
    /// Who creates groups and their places.
    pub topology: Topology,
    /// How long connecting, declaring and asking may take. Default 10 s.
    #[serde(with = "mq_core::config::duration")]
    pub connect_timeout: Duration,
    /// How long a confirmed send may take, waiting for room included. Default 30 s.
    #[serde(with = "mq_core::config::duration")]
    pub send_timeout: Duration,
    /// The longest pause between two attempts to reconnect. Default 500 ms.
    #[serde(with = "mq_core::config::duration")]
    pub max_reconnect_delay: Duration,
    /// How long a delivery stays a consumer's own; it is renewed while the consumer lives. After a crash its messages
    /// come back that much later. Default 30 s.
    #[serde(with = "mq_core::config::duration")]
    pub lease: Duration,
    /// How long the broker holds a question whether there are messages when there are none. Default 5 s.
    #[serde(with = "mq_core::config::duration")]
    pub poll_wait: Duration,
    /// Messages in flight of one producer; a message of more than 32 KiB counts once for each 32 KiB. Default 1,024.
    pub max_in_flight: usize,
    /// The largest message sent: body, key and headers, in bytes. Keep it 64 KiB below the broker's `maxMessageSize`: its
    /// timer loses delayed messages and retries which are larger as they are stored. Default 4 MiB less 64 KiB.
    pub max_message_bytes: usize,
    /// Queues of a topic that is declared without saying how many. Default 8.
    pub partitions: u32,
    /// Where to go instead of an address the name server gives: for tunnels and address translation. Both as
    /// `HOST:PORT`.
    pub addresses: BTreeMap<String, String>,
}

impl Default for RocketConfig {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1".to_owned()],
            user: String::new(),
            password: Secret::default(),
            tls: Tls::default(),
            topology: Topology::default(),
            connect_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            max_reconnect_delay: Duration::from_millis(500),
            lease: Duration::from_secs(30),
            poll_wait: Duration::from_secs(5),
            max_in_flight: 1024,
            max_message_bytes: 4 * 1024 * 1024 - 64 * 1024,
            partitions: 8,
            addresses: BTreeMap::new(),
        }
    }
}

impl RocketConfig {
    /// Reads `rocketmq://access:secret@host:port,host:port?name=value`, where the hosts are name servers.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), never printing the URL.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        match url.scheme.as_str() {
            "rocketmq" => {}
            "rocketmqs" => config.tls.enabled = true,
            other => {
                return Err(Error::config(format!("`{other}:` is not a RocketMQ URL"))
                    .with_hint("use rocketmq://host:9876 or rocketmqs://host:9876, where the host is a name server"));
            }
        }
        url.check_parameters(PARAMETERS)?;
        if url.path.as_ref().is_some_and(|path| !path.is_empty()) {
            return Err(Error::config("a RocketMQ URL has no path"));
        }
        if !url.hosts.is_empty() {
            let address = |(host, port): &(String, Option<u16>)| match port {
                Some(port) if host.contains(':') => format!("[{host}]:{port}"),
                Some(port) => format!("{host}:{port}"),
                None => host.clone(),
            };
            config.hosts = url.hosts.iter().map(address).collect();
        }
        if let Some(user) = &url.user {
            config.user.clone_from(user);
            config.password = url.password.clone().unwrap_or_default();
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
            "ca" => self.tls.ca = Some(value.into()),
            "certificate" => self.tls.certificate = Some(value.into()),
            "key" => self.tls.key = Some(value.into()),
            "server_name" => self.tls.server_name = Some(value.to_owned()),
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
            "lease" => self.lease = duration()?,
            "poll_wait" => self.poll_wait = duration()?,
            "max_in_flight" => self.max_in_flight = value.parse().map_err(|_| bad("a number"))?,
            "max_message_bytes" => self.max_message_bytes = value.parse().map_err(|_| bad("a number"))?,
            "partitions" => self.partitions = value.parse().map_err(|_| bad("a number"))?,
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
            return Err(Error::config("RocketMQ needs a name server").with_hint("hosts = [\"127.0.0.1:9876\"]"));
        }
        if self.connect_timeout.is_zero() || self.send_timeout.is_zero() {
            return Err(Error::config("a timeout of zero would fail every call"));
        }
        if self.lease < Duration::from_secs(3) {
            return Err(Error::config("a lease shorter than 3 s would lapse between two renewals"));
        }
        if self.poll_wait < Duration::from_millis(100) || self.poll_wait > Duration::from_secs(60) {
            return Err(Error::config("poll_wait must be between 100 ms and 60 s"));
        }
        if self.max_in_flight == 0 || self.partitions == 0 || self.partitions > 1024 {
            return Err(Error::config("max_in_flight must be at least 1, partitions 1 to 1024"));
        }
        if self.user.is_empty() != self.password.reveal().is_empty() {
            return Err(Error::config("an access key needs a secret key, and the other way round")
                .with_hint("rocketmq://ACCESS:SECRET@host:9876"));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::config("a client certificate needs its private key, and the other way round")
                .with_hint("set both tls.certificate and tls.key"));
        }
        let unused = self.tls.ca.is_some() || self.tls.certificate.is_some() || self.tls.server_name.is_some();
        if !self.tls.enabled && unused {
            return Err(Error::config("certificates are given, but the connection is not encrypted")
                .with_hint("use rocketmqs:// or tls.enabled = true"));
        }
        for host in &self.hosts {
            address(host)?;
        }
        Ok(())
    }

    /// The name servers as `HOST:PORT`, in the order to be asked.
    pub(crate) fn name_servers(&self) -> Vec<String> {
        self.hosts.iter().filter_map(|host| address(host).ok()).collect()
    }
}

fn address(text: &str) -> Result<String> {
    let bad = || Error::config("a name server has no valid port").with_hint("HOST, HOST:PORT or [IPv6]:PORT");
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
        // More than one colon without brackets is an IPv6 address without a port.
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port: u16 = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| bad()))?;
    if host.is_empty() {
        return Err(bad());
    }
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_default() {
        #[derive(Deserialize)]
        struct File {
            broker: std::collections::BTreeMap<String, RocketConfig>,
        }
        let text = include_str!("../reference.toml");
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.broker.get("rocket"), Some(&RocketConfig::default()));
        // Every setting is in it.
        let known = serde_json::to_value(RocketConfig::default()).unwrap();
        for name in known.as_object().unwrap().keys() {
            assert!(text.contains(&format!("\n{name} =")) || text.contains(&format!(".{name}]")), "{name}");
        }
    }

    #[test]
    fn urls_are_read_and_secrets_kept() {
        let url = Url::parse("rocketmq://key:hunter2@a,b:1234?lease=10s&partitions=4").unwrap();
        let config = RocketConfig::from_url(&url).unwrap();
        assert_eq!(config.name_servers(), ["a:9876", "b:1234"]);
        assert_eq!((config.lease, config.partitions), (Duration::from_secs(10), 4));
        assert!(!format!("{config:?}").contains("hunter2"));
        for bad in ["rocketmq://h?lease=1s", "rocketmq://h?nope=1", "rocketmq://user@h", "kafka://h", "rocketmq://h/x"]
        {
            assert!(RocketConfig::from_url(&Url::parse(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
