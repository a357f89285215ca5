//! What the server is configured for, read when connecting.

use mq_core::error::{ErrorKind, Result};

use crate::config::{Durability, RedisConfig};
use crate::error::error;
use crate::link::Link;
use crate::reply;

/// What matters of a server's settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) version: String,
    /// `None`: the user may not ask.
    pub(crate) durability: Option<Durability>,
    pub(crate) eviction: Option<String>,
}

impl Server {
    /// Asks the server, or each node of a cluster, and refuses one that does not keep what it confirms.
    pub(crate) async fn read(link: &Link, config: &RedisConfig) -> Result<Self> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let limit = config.connect_timeout;
        let info = link.ask_each(&info, limit).await.unwrap_or_default();
        let info: Vec<String> = info.into_iter().filter_map(|(_, info)| reply::text(info)).collect();
        let version = info.iter().flat_map(|info| info.lines()).find_map(|line| line.strip_prefix("redis_version:"));
        let clustered = info.iter().flat_map(|info| info.lines()).any(|line| line.trim() == "redis_mode:cluster");
        if clustered && !link.is_cluster() {
            return Err(error(ErrorKind::Config, "this is a node of a Redis Cluster, and not a server by itself")
                .with_hint("use redis-cluster:// or rediss-cluster://, or set deployment = \"cluster\""));
        }
        let mut server = Self { version: version.unwrap_or("of unknown version").trim().to_owned(), ..Self::default() };
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("append*").arg("maxmemory*");
        match link.ask_each(&ask, limit).await {
            Ok(answers) => {
                // As little as the least of them.
                let all = answers.into_iter().map(|(_, value)| {
                    let mut one = Self::default();
                    one.settings(&reply::pairs(value));
                    one
                });
                let all: Vec<Self> = all.collect();
                server.durability = all.iter().filter_map(|one| one.durability).min();
                let evicts = |one: &&Self| one.eviction.as_deref().is_some_and(|policy| policy.starts_with("allkeys"));
                server.eviction = all.iter().find(evicts).or(all.first()).and_then(|one| one.eviction.clone());
            }
            Err(cause) if matches!(cause.kind(), ErrorKind::Auth | ErrorKind::Rejected) => {}
            Err(cause) => return Err(cause),
        }
        server.check(config)?;
        Ok(server)
    }

    fn settings(&mut self, settings: &[(String, redis::Value)]) {
        let get = |name| reply::field(settings, name).and_then(reply::text);
        self.durability = Some(match (get("appendonly").as_deref(), get("appendfsync").as_deref()) {
            (Some("yes"), Some("always")) => Durability::Always,
            (Some("yes"), Some("everysec")) => Durability::EverySec,
            _ => Durability::Memory,
        });
        if get("maxmemory").is_some_and(|limit| limit != "0") {
            self.eviction = get("maxmemory-policy");
        }
    }

    fn check(&self, config: &RedisConfig) -> Result<()> {
        if let Some(policy) = self.eviction.as_deref().filter(|policy| policy.starts_with("allkeys")) {
            return Err(error(
                ErrorKind::Config,
                format!("the server evicts streams when its memory is full: {policy}"),
            )
            .with_hint("set maxmemory-policy noeviction: then sends fail with backpressure, and nothing is lost"));
        }
        let Some(wanted) = config.durability else { return Ok(()) };
        match self.durability {
            Some(has) if has >= wanted => Ok(()),
            Some(has) => Err(error(
                ErrorKind::Config,
                format!("the durability `{wanted:?}` is demanded, and the server is configured for `{has:?}`"),
            )
            .with_hint("set `appendonly yes` and `appendfsync always` (or everysec) in the server's configuration")),
            None => Err(error(
                ErrorKind::Config,
                "a durability is demanded, and the user may not read the server's settings",
            )
            .with_hint("allow CONFIG GET (ACL SETUSER … +config|get), or demand no durability")),
        }
    }

    /// True when what was confirmed survives the death of the server's process and machine.
    pub(crate) fn keeps_everything(&self) -> bool {
        self.durability == Some(Durability::Always)
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn server(pairs: &[(&str, &str)]) -> Server {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let mut server = Server::default();
        server.settings(&pairs.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect::<Vec<_>>());
        server
    }

    #[test]
    fn durability_is_read_and_demanded() {
        let always = server(&[("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory", "0")]);
        let second = server(&[("appendonly", "yes"), ("appendfsync", "everysec")]);
        let memory = server(&[("appendonly", "no"), ("appendfsync", "always")]);
        let demand = |durability| RedisConfig { durability, ..RedisConfig::default() };
        let all = demand(Some(Durability::Always));
        assert!(always.check(&all).is_ok() && second.check(&all).is_err() && memory.check(&all).is_err());
        assert!(second.check(&demand(Some(Durability::EverySec))).is_ok() && memory.check(&demand(None)).is_ok());
        assert!(Server::default().check(&all).is_err(), "not allowed to ask");
    }

    #[test]
    fn eviction_of_streams_is_refused() {
        let evicts =
            |policy| server(&[("maxmemory", "1000"), ("maxmemory-policy", policy)]).check(&RedisConfig::default());
        assert!(evicts("allkeys-lru").is_err() && evicts("allkeys-random").is_err());
        assert!(evicts("noeviction").is_ok() && evicts("volatile-lru").is_ok());
        let unbounded = server(&[("maxmemory", "0"), ("maxmemory-policy", "allkeys-lru")]);
        assert!(unbounded.check(&RedisConfig::default()).is_ok());
    }
}
