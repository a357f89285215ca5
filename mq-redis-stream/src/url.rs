//! Settings of a connection to Redis, from a URL.

use mq_core::config::Url;
use mq_core::error::{Error, Result};

use crate::config::{Deployment, RedisConfig};
use crate::parameter::Parameter;
use crate::slots::Address;

const PARAMETERS: &[&str] = &[
    "topology",
    "connect_timeout",
    "send_timeout",
    "session",
    "stranger_lease",
    "durability",
    "replicas",
    "partitions",
    "prefix",
    "max_message_bytes",
    "max_reconnect_delay",
    "name",
    "ca",
    "certificate",
    "key",
    "address_map",
];

/// Where Sentinels listen unless told otherwise.
const SENTINEL_PORT: u16 = 26_379;

impl RedisConfig {
    /// Reads `redis://user:password@host:port/database?name=value` of a single server, or of a cluster
    /// `redis-cluster://user:password@host:port,host:port?name=value`, or by Sentinels
    /// `redis-sentinel://user:password@host:port,host:port/master/database?name=value`; with TLS `rediss…`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](mq_core::error::ErrorKind::Config), never printing the URL.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        let (security, deployment) = match url.scheme.split_once('-') {
            None => (url.scheme.as_str(), Deployment::Single),
            Some((security, "cluster")) => (security, Deployment::Cluster),
            Some((security, "sentinel")) => (security, Deployment::Sentinel),
            Some(_) => ("", Deployment::Single),
        };
        config.deployment = deployment;
        config.tls.enabled = match security {
            "redis" => false,
            "rediss" => true,
            _ => {
                return Err(Error::config(format!("`{}:` is not a Redis URL", url.scheme)).with_hint(
                    "use redis://user:password@host:6379/0, redis-cluster://host,host, redis-sentinel://host,host/master, or rediss…",
                ));
            }
        };
        url.check_parameters(PARAMETERS)?;
        let default_port = if deployment == Deployment::Sentinel { SENTINEL_PORT } else { config.port };
        let mut hosts = url.hosts.iter().map(|(host, port)| (host.clone(), port.unwrap_or(default_port)));
        if let Some((host, port)) = hosts.next() {
            (config.host, config.port) = (host, port);
        }
        config.seeds = hosts.map(|(host, port)| Address(host, port).to_string()).collect();
        config.user = url.user.clone().filter(|user| !user.is_empty());
        config.password = url.password.clone().unwrap_or_default();
        let mut path = url.path.clone().filter(|path| !path.is_empty());
        if deployment == Deployment::Sentinel {
            let text = path.take().unwrap_or_default();
            let (master, database) = text.split_once('/').map_or((text.as_str(), None), |(m, d)| (m, Some(d)));
            master.clone_into(&mut config.master);
            path = database.map(str::to_owned);
        }
        if let Some(path) = path {
            config.database = path.parse().map_err(|_| {
                Error::config("the path of a Redis URL is the number of a database").with_hint("redis://host:6379/0")
            })?;
        }
        for (name, value) in &url.query {
            set(&mut config, Parameter { name, value })?;
        }
        config.check()?;
        Ok(config)
    }
}

/// Takes one parameter.
fn set(config: &mut RedisConfig, parameter: Parameter<'_>) -> Result<()> {
    match parameter.name {
        "topology" => config.topology = parameter.one_of("declare, verify or off")?,
        "durability" => config.durability = Some(parameter.one_of("memory, everysec or always")?),
        "connect_timeout" => config.connect_timeout = parameter.duration()?,
        "send_timeout" => config.send_timeout = parameter.duration()?,
        "max_reconnect_delay" => config.max_reconnect_delay = parameter.duration()?,
        "session" => config.session = parameter.duration()?,
        "stranger_lease" => config.stranger_lease = parameter.duration()?,
        "replicas" => config.replicas = parameter.number()?,
        "partitions" => config.partitions = parameter.number()?,
        "max_message_bytes" => config.max_message_bytes = parameter.number()?,
        "prefix" => parameter.value.clone_into(&mut config.prefix),
        "name" => parameter.value.clone_into(&mut config.name),
        "ca" => config.tls.ca = Some(parameter.value.into()),
        "certificate" => config.tls.certificate = Some(parameter.value.into()),
        "key" => config.tls.key = Some(parameter.value.into()),
        "address_map" => config.address_map = parameter.pairs("a list HOST:PORT=HOST:PORT,…")?,
        _ => return Err(parameter.is_not("known")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mq_core::config::Topology;

    use super::*;
    use crate::config::Durability;

    fn from(url: &str) -> Result<RedisConfig> {
        RedisConfig::from_url(&Url::parse(url)?)
    }

    #[test]
    fn reads_urls() {
        let config = from("rediss://al:s3cret@h1:7000/2?topology=verify&send_timeout=5s&ca=/ca.pem&durability=always");
        let config = config.unwrap();
        assert_eq!((config.host.as_str(), config.port, config.database), ("h1", 7000, 2));
        assert_eq!(config.user.as_deref(), Some("al"));
        assert_eq!(config.send_timeout, Duration::from_secs(5));
        assert_eq!((config.topology, config.durability), (Topology::Verify, Some(Durability::Always)));
        assert!(!format!("{config:?}").contains("s3cret"));
        let bare = from("redis://:s3cret@h").unwrap();
        assert_eq!((bare.user, bare.port), (None, 6379));
    }

    #[test]
    fn reads_urls_of_clusters() {
        let config = from("rediss-cluster://u:p@h1:7000,h2,[::1]:7002?address_map=a:1=b:2,c:3=d:4").unwrap();
        assert_eq!((config.deployment, config.tls.enabled), (Deployment::Cluster, true));
        assert_eq!((config.host.as_str(), config.port), ("h1", 7000));
        assert_eq!(config.seeds, ["h2:6379", "[::1]:7002"]);
        assert_eq!(config.address_map.get("c:3").map(String::as_str), Some("d:4"));
        let config = from("redis-sentinel://u:p@h1,h2:7/orders/3").unwrap();
        assert_eq!((config.deployment, config.master.as_str(), config.database), (Deployment::Sentinel, "orders", 3));
        assert_eq!((config.port, config.seeds), (26_379, vec!["h2:7".to_owned()]));
        assert_eq!(from("redis-cluster://h").unwrap().deployment, Deployment::Cluster);
    }

    #[test]
    fn refuses_nonsense_without_printing_secrets() {
        for bad in [
            "kafka://h",
            "redis://u:s3cret@h?x=1",
            "redis://u:s3cret@h,i",
            "redis-x://u:s3cret@h",
            "redis-sentinel://u:s3cret@h",
            "redis-sentinel://u:s3cret@h/name/x",
            "redis-cluster://u:s3cret@h,i/1",
            "redis-cluster://u:s3cret@h?address_map=a",
            "redis-cluster://u:s3cret@h?address_map=a=b",
            "redis://u:s3cret@h?address_map=a:1=b:2",
            "redis://u:s3cret@h/zero",
            "redis://u:s3cret@h?send_timeout=soon",
            "redis://u:s3cret@h?ca=/x",
            "redis://u:s3cret@h?partitions=0",
            "redis://u:s3cret@h?session=1ms",
            "redis://u:s3cret@h?connect_timeout=0s",
            "redis://u:s3cret@h?prefix=%7b",
        ] {
            let error = from(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }
}
