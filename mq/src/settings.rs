//! Which broker, and how: from a URL, a TOML file, any other format of serde, or the environment.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use mq_core::config::Url;
use mq_core::{Broker, Error, Result};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::backend::{Backend, NAMES, Source, choose};

const EXAMPLES: &str = "for example memory:, kafka://127.0.0.1:9092, amqp://user:password@127.0.0.1:5672";

/// Which broker to connect to, and its settings.
///
/// In a file, one table below `broker` names the broker; a string is a URL. Settings left out have their defaults,
/// unknown ones are an error, durations are written `500ms`, `30s`, `5m`.
///
/// ```toml
/// [broker.kafka]
/// brokers = ["10.0.0.1:9092"]
/// send_timeout = "10s"
/// ```
///
/// `Debug` prints no secret.
#[derive(Clone)]
pub struct Config {
    backend: Arc<dyn Backend>,
}

impl Config {
    /// Reads a broker URL.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the URL or one of its parameters cannot be understood.
    pub fn from_url(url: &str) -> Result<Self> {
        let url = url.trim();
        let parsed = Url::parse(url)?;
        let name = match parsed.scheme.as_str() {
            "kafkas" => "kafka",
            "amqp" | "amqps" => "rabbit",
            "redis" | "rediss" | "redis-cluster" | "rediss-cluster" | "redis-sentinel" | "rediss-sentinel" => {
                "redis-stream"
            }
            "rocketmq" | "rocketmqs" => "rocket",
            "postgresql" => "postgres",
            scheme => scheme,
        };
        Ok(Self { backend: choose(name, url)? })
    }

    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the line and what is wrong with it, but never a value.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| crate::redact::toml_error(&error, text))
    }

    /// Takes the URL from the environment variable `variable` (by convention `MQ_URL`), or else reads the file that
    /// `MQ_CONFIG` names (with the cargo feature `toml`).
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when neither is set or what is set cannot be understood.
    pub fn from_env(variable: &str) -> Result<Self> {
        let url = std::env::var_os(variable).filter(|value| !value.is_empty());
        if let Some(url) = url {
            let url = url.to_str().ok_or_else(|| Error::config(format!("the value of {variable} is not UTF-8")))?;
            return Self::from_url(url).map_err(|error| error.with_context("variable", variable));
        }
        match std::env::var_os(FILE).filter(|value| !value.is_empty()) {
            Some(path) => from_file(std::path::Path::new(&path)),
            None => Err(Error::config(format!("no broker is named: neither {variable} nor {FILE} is set"))
                .with_hint(format!("set {variable}, {EXAMPLES}"))),
        }
    }

    pub(crate) async fn connect(&self) -> Result<Broker> {
        self.backend.connect().await.map_err(|error| error.with_operation("connect"))
    }
}

/// The environment variable that names the configuration file.
const FILE: &str = "MQ_CONFIG";

#[cfg(feature = "toml")]
fn from_file(path: &std::path::Path) -> Result<Config> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::config(format!("cannot read {}", path.display())).with_source(error))?;
    Config::from_toml(&text).map_err(|error| error.with_context("file", path.display()))
}

#[cfg(not(feature = "toml"))]
fn from_file(_: &std::path::Path) -> Result<Config> {
    Err(Error::new(mq_core::ErrorKind::FeatureDisabled, format!("{FILE} is set, but reading files is not compiled in"))
        .with_hint("enable the cargo feature `toml` of the crate `mq`, or set MQ_URL"))
}

impl TryFrom<&str> for Config {
    type Error = Error;
    fn try_from(url: &str) -> Result<Self> {
        Self::from_url(url)
    }
}

impl TryFrom<String> for Config {
    type Error = Error;
    fn try_from(url: String) -> Result<Self> {
        Self::from_url(&url)
    }
}

impl TryFrom<&String> for Config {
    type Error = Error;
    fn try_from(url: &String) -> Result<Self> {
        Self::from_url(url)
    }
}

impl TryFrom<&Config> for Config {
    type Error = Error;
    fn try_from(config: &Config) -> Result<Self> {
        Ok(config.clone())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("broker", &self.backend).finish()
    }
}

impl Source for &str {
    type Error = Error;

    fn read<C: DeserializeOwned>(self, from_url: impl FnOnce(&str) -> Result<C>) -> Result<C> {
        from_url(self)
    }

    fn unknown(self, name: &str) -> Error {
        let name: String = name.chars().take(40).collect();
        Error::config(format!("no broker has the URL scheme `{name}:`")).with_hint(EXAMPLES)
    }
}

/// The value of the table `[broker.NAME]`.
struct Table<'a, 'de, A>(&'a mut A, PhantomData<&'de ()>);

impl<'de, A: MapAccess<'de>> Source for Table<'_, 'de, A> {
    type Error = A::Error;

    fn read<C: DeserializeOwned>(self, _: impl FnOnce(&str) -> Result<C>) -> Result<C, A::Error> {
        self.0.next_value()
    }

    fn unknown(self, name: &str) -> A::Error {
        serde::de::Error::unknown_variant(name, NAMES)
    }
}

impl<'de> serde::Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            broker: Chosen,
        }
        File::deserialize(deserializer).map(|file| Self { backend: file.broker.0 })
    }
}

/// The value of `broker`: a URL, or a table with one table in it.
struct Chosen(Arc<dyn Backend>);

impl<'de> serde::Deserialize<'de> for Chosen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChosenVisitor).map(Self)
    }
}

struct ChosenVisitor;

impl<'de> Visitor<'de> for ChosenVisitor {
    type Value = Arc<dyn Backend>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a broker URL or one table out of {}", NAMES.join(", "))
    }

    fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Self::Value, E> {
        Config::from_url(url).map(|config| config.backend).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error as _;
        let name: String = map.next_key()?.ok_or_else(|| A::Error::custom(format!("no broker out of {NAMES:?}")))?;
        let backend = choose(&name, Table(&mut map, PhantomData))?;
        match map.next_key::<String>()? {
            None => Ok(backend),
            Some(_) => Err(A::Error::custom("more than one broker: a configuration names exactly one")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::ErrorKind;

    fn url_error(url: &str) -> Error {
        Config::from_url(url).unwrap_err()
    }

    #[test]
    fn urls_name_the_broker_or_say_what_they_should_look_like() {
        assert!(Config::from_url("memory:").is_ok());
        for bad in ["", "nothing", "http://host", "kafka", "memory:?no_such_setting=1"] {
            let error = url_error(bad);
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.hint().is_some(), "{bad}: {error}");
        }
        assert!(url_error("carrier-pigeon://loft").to_string().contains("kafka://"), "the hint has examples");
    }

    #[test]
    fn bad_urls_print_no_password() {
        for bad in ["http://user:hunter2@host", "amqp://user:hunter2@host:port", "user:hunter2@host"] {
            let error = url_error(bad);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn brokers_of_later_versions_say_so() {
        for url in ["postgres://host", "sqlite:file"] {
            let error = Config::from_url(url).unwrap().connect().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FeatureDisabled, "{url}");
            assert!(error.to_string().contains("not part of this version"), "{error}");
        }
    }

    #[cfg(not(feature = "kafka"))]
    #[tokio::test(flavor = "current_thread")]
    async fn a_broker_that_is_not_compiled_in_names_its_feature() {
        let error = Config::from_url("kafka://host:9092").unwrap().connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FeatureDisabled);
        assert!(error.to_string().contains("cargo feature `kafka`"), "{error}");
    }

    #[test]
    fn any_format_of_serde_will_do() {
        let config: Config = serde_json::from_str(r#"{"broker": {"memory": {"partitions": 3}}}"#).unwrap();
        assert!(format!("{config:?}").contains("partitions: 3"), "{config:?}");
        let config: Config = serde_json::from_str(r#"{"broker": "memory:?partitions=5"}"#).unwrap();
        assert!(format!("{config:?}").contains("partitions: 5"), "{config:?}");
    }

    #[test]
    fn a_configuration_names_exactly_one_broker_and_nothing_else() {
        for bad in [
            r#"{}"#,
            r#"{"broker": {}}"#,
            r#"{"broker": {"memory": {}, "kafka": {}}}"#,
            r#"{"broker": {"pigeon": {}}}"#,
            r#"{"broker": {"memory": {"no_such_setting": 1}}}"#,
            r#"{"broker": {"memory": {}}, "more": 1}"#,
            r#"{"broker": 7}"#,
        ] {
            assert!(serde_json::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }
}
