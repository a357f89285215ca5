//! How a memory broker behaves.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Topology, Url, duration};
use crate::error::{Error, Result};
use crate::memory::NAME;

/// How a memory broker behaves. Start from the default and change what a test is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Brokers of one name in one process are the same broker, as long as one handle on it lives. Without a name: a
    /// broker of its own.
    pub name: Option<String>,
    /// Partitions of a topic declared without a number.
    pub partitions: u32,
    /// Sending to or reading from an unknown topic declares it. Off by default, as real brokers are strict too.
    pub auto_create: bool,
    /// Who declares the group when a consumer opens.
    pub topology: Topology,
    /// The largest message in bytes: body, key and headers together.
    pub max_message_bytes: usize,
    /// The most messages a topic keeps: sent, waiting for a retry, dead. Settled ones make room for new ones; when
    /// there are none left, sends wait, at most [`MemoryConfig::send_timeout`].
    pub capacity: usize,
    /// As `capacity`, in bytes.
    pub capacity_bytes: usize,
    /// How many settlements of a group are remembered for [`MemoryBroker::settled`](super::MemoryBroker::settled); the
    /// oldest are forgotten first.
    pub history: usize,
    /// How long a send waits for room.
    #[serde(with = "crate::config::duration")]
    pub send_timeout: Duration,
    /// When a half message nobody decided is asked back about: this long after it was prepared, and each time it was not
    /// decided then. Default 6 s.
    #[serde(with = "crate::config::duration")]
    pub check_back: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            name: None,
            partitions: 4,
            auto_create: false,
            topology: Topology::Declare,
            max_message_bytes: 1024 * 1024,
            capacity: 1_000_000,
            capacity_bytes: 256 * 1024 * 1024,
            history: 10_000,
            send_timeout: Duration::from_secs(30),
            check_back: Duration::from_secs(6),
        }
    }
}

/// More partitions than any test needs: bounds what a typing error allocates.
const MAX_PARTITIONS: u32 = 4096;

/// Longer waits are typing errors, and would overflow timers.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

impl MemoryConfig {
    /// Reads `memory:` or `memory:NAME`, with the fields of this type but `name` as parameters:
    /// `memory:orders?auto_create=true&partitions=1`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::error::ErrorKind::Config), naming what is wrong.
    pub fn from_url(url: &Url) -> Result<Self> {
        url.check_parameters(&PARAMETERS)?;
        let mut config = Self { name: name_of(url)?, ..Self::default() };
        for (name, value) in &url.query {
            match name.as_str() {
                "partitions" => config.partitions = parse(name, value)?,
                "auto_create" => config.auto_create = parse(name, value)?,
                "topology" => config.topology = topology(value)?,
                "max_message_bytes" => config.max_message_bytes = parse(name, value)?,
                "capacity" => config.capacity = parse(name, value)?,
                "capacity_bytes" => config.capacity_bytes = parse(name, value)?,
                "history" => config.history = parse(name, value)?,
                "check_back" => config.check_back = duration::parse(value).map_err(|_| bad(name))?,
                _ => config.send_timeout = duration::parse(value).map_err(|_| bad(name))?,
            }
        }
        config.check()?;
        Ok(config)
    }

    pub(super) fn check(&self) -> Result<()> {
        check_partitions(self.partitions)?;
        if self.send_timeout > MAX_TIMEOUT {
            return Err(Error::config("send_timeout is at most a day").with_backend(NAME));
        }
        if self.check_back.is_zero() || self.check_back > MAX_TIMEOUT {
            return Err(Error::config("check_back is more than nothing and at most a day").with_backend(NAME));
        }
        if self.capacity == 0 || self.capacity_bytes == 0 || self.max_message_bytes == 0 {
            return Err(
                Error::config("capacity, capacity_bytes and max_message_bytes must be at least 1").with_backend(NAME)
            );
        }
        Ok(())
    }

    /// True when both describe the same broker; who declares groups is each connection's own.
    pub(super) fn same_broker(&self, other: &Self) -> bool {
        Self { topology: other.topology, ..self.clone() } == *other
    }
}

pub(super) fn check_partitions(partitions: u32) -> Result<()> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(Error::config(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")).with_backend(NAME))
}

const PARAMETERS: [&str; 9] = [
    "partitions",
    "auto_create",
    "topology",
    "max_message_bytes",
    "capacity",
    "capacity_bytes",
    "history",
    "send_timeout",
    "check_back",
];

fn name_of(url: &Url) -> Result<Option<String>> {
    let plain = url.user.is_none() && url.path.as_deref().is_none_or(str::is_empty);
    match url.hosts.as_slice() {
        [] if plain => Ok(None),
        [(name, None)] if plain => Ok(Some(name.clone())),
        _ => {
            Err(Error::config("a memory broker has only a name").with_backend(NAME).with_hint("memory: or memory:NAME"))
        }
    }
}

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| bad(name))
}

fn topology(value: &str) -> Result<Topology> {
    match value {
        "declare" => Ok(Topology::Declare),
        "verify" => Ok(Topology::Verify),
        "off" => Ok(Topology::Off),
        _ => Err(bad("topology").with_hint("declare, verify or off")),
    }
}

fn bad(name: &str) -> Error {
    Error::config(format!("the parameter `{name}` has no valid value")).with_backend(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<MemoryConfig> {
        MemoryConfig::from_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn reads_urls() {
        assert_eq!(read("memory:").unwrap(), MemoryConfig::default());
        let config = read("memory:orders?partitions=1&auto_create&send_timeout=2s&topology=verify").unwrap();
        assert_eq!((config.name.as_deref(), config.partitions, config.auto_create), (Some("orders"), 1, true));
        assert_eq!((config.send_timeout, config.topology), (Duration::from_secs(2), Topology::Verify));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for bad in [
            "memory:a?x=1",
            "memory:a/b",
            "memory:a:1",
            "memory:a,b",
            "memory:u@a",
            "memory:?partitions=0",
            "memory:?partitions=many",
            "memory:?capacity=0",
            "memory:?send_timeout=soon",
            "memory:?send_timeout=1year",
            "memory:?check_back=0s",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_for_people() {
        let json = serde_json::to_string(&MemoryConfig::default()).unwrap();
        assert!(json.contains("\"send_timeout\":\"30s\""), "{json}");
        assert_eq!(serde_json::from_str::<MemoryConfig>(&json).unwrap(), MemoryConfig::default());
        assert!(serde_json::from_str::<MemoryConfig>("{\"colour\":1}").is_err());
    }
}
