//! Messages from standard input: a body a line, or a JSON object a line.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mq::{Headers, Message, Topic};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};

use crate::failure::Failure;

/// The longest line or file read into memory: far beyond what any broker takes.
pub(crate) const MAX_BYTES: u64 = 256 << 20;

/// Lines of standard input. Cancel safe: what was read stays for the next call.
#[derive(Debug)]
pub(crate) struct Lines {
    from: BufReader<Stdin>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self { from: BufReader::with_capacity(64 << 10, tokio::io::stdin()), line: Vec::new(), number: 0 }
    }

    /// The next line with its number, from 1, without its end; `None` at the end of the input.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Failure> {
        let room = MAX_BYTES.saturating_sub(u64::try_from(self.line.len()).unwrap_or(u64::MAX));
        let read = (&mut self.from).take(room).read_until(b'\n', &mut self.line).await;
        read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if u64::try_from(self.line.len()).unwrap_or(u64::MAX) >= MAX_BYTES {
            return Err(Failure::Usage(format!("line {} is longer than 256 MiB", self.number)));
        }
        Ok(Some((self.number, Bytes::from(std::mem::take(&mut self.line)))))
    }
}

/// One message as `mq receive` prints it; what only a received message has is read over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: HeaderList,
    id: Option<String>,
    /// Present and `null` is a message without a body, as is an absent one.
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(rename = "attempt")]
    _attempt: Option<IgnoredAny>,
    #[serde(rename = "position")]
    _position: Option<IgnoredAny>,
    #[serde(rename = "redeliveries")]
    _redeliveries: Option<IgnoredAny>,
    #[serde(rename = "redelivered")]
    _redelivered: Option<IgnoredAny>,
    #[serde(rename = "timestamp_ms")]
    _timestamp: Option<IgnoredAny>,
    #[serde(rename = "routing_key")]
    _routing_key: Option<IgnoredAny>,
}

/// The message that a line of JSON describes.
pub(crate) fn message(topic: &Topic, line: &[u8]) -> Result<Message, String> {
    let object: Object = serde_json::from_slice(line).map_err(|error| format!("not a message in JSON: {error}"))?;
    let bytes = |name: &str, text: Option<String>, base64: Option<String>| match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64`")),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(text)) => Ok(Some(decode(&text).map_err(|error| format!("`{name}_base64` is {error}"))?)),
        (None, None) => Ok(None),
    };
    let mut message = Message::to(topic.clone())
        .with_key(bytes("key", object.key, object.key_base64)?)
        .with_body(bytes("body", object.body, object.body_base64)?)
        .with_headers(object.headers.0);
    if let Some(id) = object.id {
        message = message.id(id);
    }
    Ok(message)
}

fn decode(text: &str) -> Result<Bytes, &'static str> {
    STANDARD.decode(text).map(Bytes::from).map_err(|_| "no base64 (RFC 4648, with padding)")
}

/// Headers as `mq receive` prints them: a string, `{"base64": …}`, or an array of these.
#[derive(Default)]
struct HeaderList(Headers);

impl<'de> Deserialize<'de> for HeaderList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderListVisitor)
    }
}

struct HeaderListVisitor;

impl<'de> Visitor<'de> for HeaderListVisitor {
    type Value = HeaderList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of header names and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderList, A::Error> {
        let mut headers = Headers::new();
        while let Some((name, Values(values))) = map.next_entry::<String, Values>()? {
            for value in values {
                headers.append(name.clone(), value);
            }
        }
        Ok(HeaderList(headers))
    }
}

/// The values of one header name.
struct Values(Vec<Bytes>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, {"base64": …} or an array of these"#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Values, E> {
        Ok(Values(vec![Bytes::copy_from_slice(text.as_bytes())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Values, A::Error> {
        let mut all = Vec::new();
        while let Some(One(value)) = items.next_element()? {
            all.push(value);
        }
        Ok(Values(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Values, A::Error> {
        Ok(Values(vec![encoded(map)?]))
    }
}

/// One value of a header.
struct One(Bytes);

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneVisitor)
    }
}

struct OneVisitor;

impl<'de> Visitor<'de> for OneVisitor {
    type Value = One;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string or {"base64": …}"#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<One, E> {
        Ok(One(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<One, A::Error> {
        encoded(map).map(One)
    }
}

fn encoded<'de, A: MapAccess<'de>>(mut map: A) -> Result<Bytes, A::Error> {
    use serde::de::Error as _;
    let (Some((name, text)), None) = (map.next_entry::<String, String>()?, map.next_key::<String>()?) else {
        return Err(A::Error::custom(r#"a header is written {"base64": …}"#));
    };
    if name != "base64" {
        return Err(A::Error::unknown_field(&name, &["base64"]));
    }
    decode(&text).map_err(|error| A::Error::custom(format_args!("the header is {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn read(line: &str) -> Result<Message, String> {
        message(&Topic::parse("t").unwrap(), line.as_bytes())
    }

    #[test]
    fn what_receive_prints_send_reads() {
        let sent = Message::new("t")
            .unwrap()
            .key([0xff, 0])
            .body(vec![0xfe])
            .id("7")
            .header("a", "1")
            .header("b", [0x80].to_vec());
        let sent = sent.header("a", [0x81].to_vec()).timestamp(std::time::SystemTime::now());
        let line = serde_json::to_string(&Record::new(&sent, sent.message_id())).unwrap();
        let read = read(&line).unwrap();
        assert_eq!(read.key_bytes(), sent.key_bytes());
        assert_eq!(read.body_bytes(), sent.body_bytes());
        assert_eq!(read.message_id(), sent.message_id());
        assert_eq!(read.headers().get_all("a").collect::<Vec<_>>(), sent.headers().get_all("a").collect::<Vec<_>>());
        assert_eq!(read.headers().get("b"), sent.headers().get("b"));
    }

    #[test]
    fn no_body_is_not_an_empty_body() {
        assert!(read(r#"{"key":"k"}"#).unwrap().body_bytes().is_none());
        assert!(read(r#"{"body":null}"#).unwrap().body_bytes().is_none());
        assert_eq!(read(r#"{"body":""}"#).unwrap().body_bytes().map(|body| body.len()), Some(0));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, said) in [
            ("", "JSON"),
            ("[]", "JSON"),
            (r#"{"bdy":"x"}"#, "bdy"),
            (r#"{"body":"x","body_base64":"eA=="}"#, "both"),
            (r#"{"body_base64":"x"}"#, "base64"),
            (r#"{"body":{"a":1}}"#, "string"),
            (r#"{"headers":{"a":1}}"#, "string"),
            (r#"{"headers":{"a":{"b":"eA=="}}}"#, "base64"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
