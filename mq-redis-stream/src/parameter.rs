//! A parameter of a broker's URL, read as what it is to be. Knows nothing of Redis.

use std::str::FromStr;
use std::time::Duration;

use mq_core::config::duration;
use mq_core::error::{Error, Result};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as Bad, StrDeserializer};

/// A name and its value, both percent-decoded. Errors name it and never print the value: it may be a secret.
#[derive(Clone, Copy)]
pub(crate) struct Parameter<'u> {
    pub(crate) name: &'u str,
    pub(crate) value: &'u str,
}

impl<'u> Parameter<'u> {
    /// That it is not `what`.
    pub(crate) fn is_not(self, what: &str) -> Error {
        Error::config(format!("the URL parameter `{}` is not {what}", self.name))
    }

    pub(crate) fn number<T: FromStr>(self) -> Result<T> {
        self.value.parse().map_err(|_| self.is_not("a number"))
    }

    /// `500ms`, `30s`, `5m`.
    pub(crate) fn duration(self) -> Result<Duration> {
        duration::parse(self.value).map_err(|why| Error::config(format!("the URL parameter `{}`: {why}", self.name)))
    }

    /// One of the names that a configuration file has for it.
    pub(crate) fn one_of<T: Deserialize<'u>>(self, names: &str) -> Result<T> {
        let text: StrDeserializer<'u, Bad> = self.value.into_deserializer();
        T::deserialize(text).map_err(|_| self.is_not(names))
    }

    /// `A=B,C=D`.
    pub(crate) fn pairs<C: FromIterator<(String, String)>>(self, what: &str) -> Result<C> {
        let pairs = self.value.split(',').map(|pair| pair.split_once('='));
        let pairs = pairs.map(|pair| pair.map(|(from, to)| (from.to_owned(), to.to_owned())));
        pairs.collect::<Option<C>>().ok_or_else(|| self.is_not(what))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mq_core::config::Topology;

    use super::*;

    fn of(value: &str) -> Parameter<'_> {
        Parameter { name: "some", value }
    }

    #[test]
    fn each_kind_is_read() {
        assert_eq!(of("7").number::<u32>().unwrap(), 7);
        assert_eq!(of("1m 5s").duration().unwrap(), Duration::from_secs(65));
        assert_eq!(of("verify").one_of::<Topology>("x").unwrap(), Topology::Verify);
        let pairs: BTreeMap<String, String> = of("a=b,c=d").pairs("pairs").unwrap();
        assert_eq!(pairs.get("c").map(String::as_str), Some("d"));
    }

    #[test]
    fn errors_name_it_and_hide_its_value() {
        let errors = [
            of("s3cret").number::<u32>().unwrap_err(),
            of("s3cret").duration().unwrap_err(),
            of("s3cret").one_of::<Topology>("declare, verify or off").unwrap_err(),
            of("s3cret").pairs::<BTreeMap<String, String>>("a list").unwrap_err(),
        ];
        for error in errors {
            let text = format!("{error} {error:?}");
            assert!(text.contains("some") && !text.contains("s3cret"), "{text}");
        }
    }
}
