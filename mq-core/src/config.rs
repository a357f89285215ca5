//! Pieces every adapter's configuration is made of: secrets that never print, TLS, topology, durations, URLs.

pub mod duration;

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::name::printable;

/// A password or key. Prints as `[redacted]`, also when serialized.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for handing it to a client.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Who creates topics, groups and what belongs to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// The SDK declares what a consumer's group needs when it is opened. Topics are declared only when asked for.
    #[default]
    Declare,
    /// The SDK checks that everything is there as it would declare it, and refuses to start otherwise.
    Verify,
    /// The SDK neither declares nor checks.
    Off,
}

/// Encryption of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Connect with TLS. Set by URL schemes such as `amqps`.
    pub enabled: bool,
    /// PEM file of the certificate authority, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key: Option<PathBuf>,
    /// The name expected in the server's certificate, instead of the host connected to.
    pub server_name: Option<String>,
}

/// A broker URL taken apart: `scheme://user:password@host:port,host:port/path?name=value`.
///
/// Kafka and clusters need several hosts, which the URL standard does not know; hence a parser of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `kafka`, `amqp`, `memory` …
    pub scheme: String,
    /// The user, percent-decoded.
    pub user: Option<String>,
    /// The password, percent-decoded.
    pub password: Option<Secret>,
    /// Hosts with their ports, in order. IPv6 addresses without brackets.
    pub hosts: Vec<(String, Option<u16>)>,
    /// What follows the first `/`, percent-decoded; `None` without a slash.
    pub path: Option<String>,
    /// Parameters, percent-decoded, in order.
    pub query: Vec<(String, String)>,
}

impl Url {
    /// Takes a URL apart. Errors never print the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::config(format!("the broker URL {what}")).with_hint(URL_HINT);
        let (scheme, rest) = text.split_once(':').ok_or_else(|| bad("has no scheme"))?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(letters) {
            return Err(bad("has no valid scheme"));
        }
        // An unencoded `/` or `?` cuts a password in two, and its second half would be taken for a path or a parameter,
        // which errors may print.
        let cut = rest.strip_prefix("//").unwrap_or(rest).split_once(['/', '?']);
        if cut.is_some_and(|(before, after)| !before.contains('@') && after.contains('@')) {
            return Err(bad("has an `@` behind a `/` or `?`")
                .with_hint("write `/` `?` `@` in user and password as %2F %3F %40, and `@` elsewhere as %40"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(left, path)| (left, Some(path)));
        // The last `@` ends the credentials: passwords pasted without encoding often hold one.
        let (credentials, hosts) = authority.rsplit_once('@').map_or((None, authority), |(c, h)| (Some(c), h));
        let (user, password) = match credentials {
            None => (None, None),
            Some(credentials) => match credentials.split_once(':') {
                None => (Some(decode(credentials)?), None),
                Some((user, password)) => (Some(decode(user)?), Some(Secret::new(decode(password)?))),
            },
        };
        let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(parse_host).collect::<Result<Vec<_>>>()?;
        let query = query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let query = query
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let path = path.map(decode).transpose()?;
        Ok(Self { scheme: scheme.to_ascii_lowercase(), user, password, hosts, path, query })
    }

    /// Fails, naming the parameter and those there are, when the URL has one that is not in `known`.
    pub fn check_parameters(&self, known: &[&str]) -> Result<()> {
        match self.query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => Err(Error::config(format!("unknown parameter `{}` in the broker URL", printable(name)))
                .with_hint(format!("known are: {}", known.join(", ")))),
        }
    }
}

const URL_HINT: &str = "for example kafka://127.0.0.1:9092, amqp://user:password@host:5672/vhost, memory:";

fn parse_host(text: &str) -> Result<(String, Option<u16>)> {
    let bad = || Error::config("a host of the broker URL has no valid port").with_hint(URL_HINT);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::config("a host of the broker URL is empty or has blanks").with_hint(URL_HINT));
    }
    let port = port.map(|port| port.parse::<u16>().map_err(|_| bad())).transpose()?;
    Ok((decode(host)?, port))
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Error::config("the broker URL has a percent-encoded part that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_apart() {
        let url = Url::parse("amqp://al%40ice:p%2Fss@[::1]:5672,b/%2f?topology=verify&x").unwrap();
        assert_eq!(url.user.as_deref(), Some("al@ice"));
        assert_eq!(url.password, Some(Secret::new("p/ss")));
        assert_eq!(url.hosts, [("::1".to_owned(), Some(5672)), ("b".to_owned(), None)]);
        assert_eq!(url.path.as_deref(), Some("/"));
        assert_eq!(url.query, [("topology".into(), "verify".into()), ("x".into(), "true".into())]);
        assert_eq!(Url::parse("memory:").unwrap().scheme, "memory");
        for bad in ["", "nothing", "://x", "kafka://h:port", "kafka://h:99999", "amqp://%ff@h"] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let url = Url::parse("amqp://user:hunter2@h").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&url.password).unwrap().contains("hunter2"));
        let error = Url::parse("amqp://user:hunter2@h:bad").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        for cut in ["amqp://user:1/hunter2@h", "amqp://user:1?hunter2@h", "amqp://user:a/b?hunter2@h/v"] {
            let error = Url::parse(cut).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("%2F")), "{error}");
        }
        assert!(Url::parse("amqp://user:pass@h/v@host?x=a@b").is_ok());
    }
}
