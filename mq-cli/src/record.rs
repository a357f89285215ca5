//! A message as JSON: what `mq receive` and `mq dlq` print, and `mq send --ndjson` reads back.

use std::str;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mq::{Headers, Message, MessageId, Position};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// A message. Bytes that are no UTF-8 text stand in a field `…_base64` of their own; a message without a body (not the
/// same as an empty one) has `"body": null`.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    id: Option<String>,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    headers: HeaderMap<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    timestamp_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// `message`, under `id` (which may be derived from where it stands).
    pub(crate) fn new(message: &'a Message, id: Option<&MessageId>) -> Self {
        let (key, key_base64) = text_or_base64(message.key_bytes().map(|key| &key[..]));
        let (body, body_base64) = text_or_base64(message.body_bytes().map(|body| &body[..]));
        Self {
            id: id.map(ToString::to_string),
            topic: message.topic().as_str(),
            key,
            key_base64,
            headers: HeaderMap(message.headers()),
            body,
            body_base64,
            timestamp_ms: message.made_at().map(millis),
            routing_key: message.routing().map(|key| &**key),
        }
    }
}

type Text<'a> = Option<Option<&'a str>>;

fn text_or_base64(bytes: Option<&[u8]>) -> (Text<'_>, Option<String>) {
    match bytes.map(|bytes| (bytes, str::from_utf8(bytes))) {
        None => (Some(None), None),
        Some((_, Ok(text))) => (Some(Some(text)), None),
        Some((bytes, Err(_))) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// Headers in order: a text as a string, other bytes as `{"base64": …}`, a name that repeats as an array.
#[derive(Debug)]
pub(crate) struct HeaderMap<'a>(pub(crate) &'a Headers);

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut done: Vec<&str> = Vec::with_capacity(self.0.len());
        for (name, value) in self.0.iter() {
            if done.contains(&&**name) {
                continue;
            }
            done.push(name);
            let all: Vec<HeaderValue<'_>> = self.0.get_all(name).map(|value| HeaderValue(value)).collect();
            match all.len() {
                1 => map.serialize_entry(&**name, &HeaderValue(value))?,
                _ => map.serialize_entry(&**name, &all)?,
            }
        }
        map.end()
    }
}

struct HeaderValue<'a>(&'a [u8]);

impl Serialize for HeaderValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.0))?;
                map.end()
            }
        }
    }
}

/// A time as milliseconds since the Unix epoch.
pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A position as `mq seek` reads it, where there is one.
pub(crate) fn place(position: &Position) -> Option<String> {
    position.is_stable().then(|| position.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: &Message) -> serde_json::Value {
        serde_json::to_value(Record::new(message, message.message_id())).unwrap()
    }

    #[test]
    fn any_bytes_have_a_form() {
        let message = Message::new("t").unwrap().key([0xff]).body("text").id("7");
        let message = message.header("a", "1").header("b", vec![0xfe]).header("a", "2");
        let value = json(&message);
        assert_eq!(value["key_base64"], "/w==");
        assert_eq!(value["body"], "text");
        assert_eq!(value["headers"], serde_json::json!({"a": ["1", "2"], "b": {"base64": "/g=="}}));
        assert!(value.get("key").is_none() && value.get("body_base64").is_none());
    }

    #[test]
    fn no_body_is_null_and_an_empty_one_is_empty() {
        assert!(json(&Message::new("t").unwrap())["body"].is_null());
        assert_eq!(json(&Message::new("t").unwrap().body(""))["body"], "");
    }
}
