//! Messages as properties and bodies.
//!
//! A header is a property where the broker can carry it: a name that does not repeat and is not one of its own, a value
//! that is UTF-8. Others travel together in one property of ours, so that nothing is lost.

use std::collections::HashMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Control, Headers, Message, MessageId, control};
use mq_core::name::Topic;

use crate::error::error;
use crate::names;
use crate::stored::{Properties, Stored, is_plain, write_properties};

/// The broker keeps the length of all properties in 15 bits, and adds some of its own.
const MAX_PROPERTIES: usize = 32_767 - 2_048;
/// What a user's message leaves free for the record of a retry or a dead letter.
const RECORD: usize = 6 * 1_024;

/// Headers that are no properties of their own: repeated or odd names, values that are not text.
const MORE: &str = "mq-headers";
const KEYS: &str = "KEYS";
const UNIQUE: &str = "UNIQ_KEY";
const SHARDING: &str = "__SHARDINGKEY";
/// When the broker is to make the message visible, in milliseconds since the Unix epoch.
pub(crate) const DELIVER_AT: &str = "TIMER_DELIVER_MS";
/// Names a delivery to the broker.
pub(crate) const RECEIPT: &str = "POP_CK";

/// A half message's own topic; the broker keeps it in one of its own until it is committed.
pub(crate) const REAL_TOPIC: &str = "REAL_TOPIC";
/// The name of a half message's topic, where the broker has cut it.
pub(crate) const HALF_TOPIC: &str = "mq-topic";
const PREPARED: &str = "TRAN_MSG";
const PRODUCER_GROUP: &str = "PGROUP";

/// Before a key in base64.
const ENCODED: &str = "b64:";
const NONE: &str = "none";
const EMPTY: &str = "empty";
/// The broker knows no bodies of no bytes.
const PLACEHOLDER: &[u8] = &[0];

/// What the broker, its clients and its tools write, but for `TAGS`, which is a header here. A user's header of such a name travels in [`MORE`].
const OWN: &[&str] = &[
    "TRACE_ON",
    "MSG_REGION",
    KEYS,
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    REAL_TOPIC,
    "REAL_QID",
    PREPARED,
    PRODUCER_GROUP,
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    UNIQUE,
    "EXTEND_UNIQ_INFO",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    RECEIPT,
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRANSACTION_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "TRANSACTION_CHECK_TIMES",
    "TRANSACTION_ID",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "INNER_MULTI_DISPATCH",
    "INNER_NUM",
    "INNER_BASE",
    "_tagCRC32",
    "__CRC32#",
    "CRC32",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    DELIVER_AT,
    "__STARTDELIVERTIME",
    SHARDING,
    "DELAY_TIME",
    "RETRY_TIMES",
    "SEND_TIME",
    "BORN_HOST",
    "BORN_TIMESTAMP",
    "STORE_HOST",
    "STORE_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "TRACE_CONTEXT",
    "namespace",
    "LMQ_QUEUE_ID",
    "UNIQ_CLIENT_MESSAGE_ID_KEYIDX",
    "_rmq_retry",
    "__transactionId__",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "TRANS_OFFSET",
    "REDIRECT",
    "PROPERTY_FORWARD_QUEUE_ID",
    "TIMER_ROLL_LABEL",
    "_SYS_MSG_PRIORITY_",
    "__BORNHOST",
    "__RMQ.TRANSIENT.",
    "__RMQ.TRANSIENT.GROUP_SYS_FLAG",
    "__RMQ.TRANSIENT.TOPIC_SYS_FLAG",
    "ORIGIN_GROUP",
];

/// A message ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
    /// Milliseconds since the Unix epoch.
    pub(crate) born: u128,
}

impl Encoded {
    /// The properties as one text.
    pub(crate) fn text(&self) -> String {
        write_properties(&self.properties)
    }
}

/// Encodes a user's message.
pub(crate) fn encode(message: &Message) -> Result<Encoded> {
    build(message, &Headers::new(), MAX_PROPERTIES - RECORD)
}

/// Encodes a copy for a place of ours: `patch` is what the copy says beyond the message.
pub(crate) fn hop(message: &Message, patch: &Headers) -> Result<Encoded> {
    build(message, patch, MAX_PROPERTIES)
}

/// Makes it a half message of a group of producers; the id by which the broker asks about it.
pub(crate) fn half(encoded: &mut Encoded, topic: &Topic, name: &str, group: &str) -> String {
    encoded.properties.insert(PREPARED.to_owned(), "true".to_owned());
    encoded.properties.insert(PRODUCER_GROUP.to_owned(), group.to_owned());
    if names::portable(name).as_ref() != Some(topic) {
        encoded.properties.insert(HALF_TOPIC.to_owned(), topic.as_str().to_owned());
    }
    let id = encoded.properties.entry(UNIQUE.to_owned());
    id.or_insert_with(|| MessageId::generate(SystemTime::now()).to_string()).clone()
}

fn build(message: &Message, patch: &Headers, limit: usize) -> Result<Encoded> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for (name, _) in message.headers().iter().chain(patch.iter()) {
        *count.entry(name).or_default() += 1;
    }
    let mut properties = Properties::new();
    let mut more = BytesMut::new();
    for (name, value) in message.headers().iter().chain(patch.iter()) {
        let text = std::str::from_utf8(value).ok().filter(|text| is_plain(text) && is_plain(name));
        match text {
            Some(text) if count.get(&**name) == Some(&1) && name != MORE && !OWN.contains(&&**name) => {
                properties.insert(name.to_string(), text.to_owned());
            }
            _ => append(&mut more, name, value)?,
        }
    }
    if !more.is_empty() {
        properties.insert(MORE.to_owned(), STANDARD.encode(&more));
    }
    if let Some(id) = message.message_id() {
        let text = id.as_str();
        if is_plain(text) {
            properties.insert(control::ID.to_owned(), text.to_owned());
            // The broker finds messages by it, and its tools show it.
            if text.bytes().all(|byte| byte.is_ascii_graphic()) {
                properties.insert(UNIQUE.to_owned(), text.to_owned());
            }
        }
    }
    if let Some(key) = message.key_bytes() {
        match std::str::from_utf8(key) {
            Ok(text) if is_plain(text) => properties.insert(KEYS.to_owned(), text.to_owned()),
            _ => properties.insert(control::KEY.to_owned(), format!("{ENCODED}{}", STANDARD.encode(key))),
        };
    }
    let body = match message.body_bytes() {
        Some(body) if !body.is_empty() => body.clone(),
        other => {
            let mark = if other.is_some() { EMPTY } else { NONE };
            properties.insert(control::TOMBSTONE.to_owned(), mark.to_owned());
            Bytes::from_static(PLACEHOLDER)
        }
    };
    let size: usize = properties.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if size > limit {
        return Err(error(ErrorKind::TooLarge, "key and headers are larger than RocketMQ's properties can be")
            .with_context("bytes", size)
            .with_context("limit", limit)
            .with_hint("move the largest header into the body"));
    }
    let made = message.made_at().unwrap_or_else(SystemTime::now);
    let born = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(Encoded { properties, body, born })
}

fn append(more: &mut BytesMut, name: &str, value: &[u8]) -> Result<()> {
    let (Ok(name_length), Ok(length)) = (u16::try_from(name.len()), u32::try_from(value.len())) else {
        return Err(error(ErrorKind::TooLarge, "a header is larger than RocketMQ's properties can be"));
    };
    more.put_u16(name_length);
    more.put_slice(name.as_bytes());
    more.put_u32(length);
    more.put_slice(value);
    Ok(())
}

/// What [`append`] wrote; nothing when it is not that.
fn read_more(text: &str) -> Vec<(ByteString, Bytes)> {
    let Ok(bytes) = STANDARD.decode(text) else { return Vec::new() };
    let mut bytes = Bytes::from(bytes);
    let mut headers = Vec::new();
    while bytes.has_remaining() {
        let mut next = || {
            let length = usize::from(bytes.try_get_u16().ok()?);
            let name = (length <= bytes.len()).then(|| bytes.split_to(length))?;
            let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
            let value = (length <= bytes.len()).then(|| bytes.split_to(length))?;
            Some((ByteString::try_from(name).ok()?, value))
        };
        let Some(header) = next() else { return Vec::new() };
        headers.push(header);
    }
    headers
}

/// A message as it came, and what its control headers say.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    /// Every header the SDK reserves; true only on a place of ours.
    pub(crate) reserved: Headers,
}

pub(crate) fn decode(topic: &Topic, stored: Stored) -> Decoded {
    let Stored { mut properties, body, born, .. } = stored;
    let more = properties.remove(MORE);
    let unique = properties.remove(UNIQUE);
    let keys = properties.remove(KEYS);
    let sharding = properties.remove(SHARDING);
    let mut headers = Headers::with_capacity(properties.len());
    let mut reserved = Headers::new();
    let natives = properties
        .into_iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .map(|(name, value)| (ByteString::from(name), Bytes::from(value)));
    for (name, value) in natives.chain(more.iter().flat_map(|text| read_more(text))) {
        if control::is_reserved(&name) { reserved.append(name, value) } else { headers.append(name, value) }
    }
    let id = control::take_id(&mut reserved);
    let id = id.or_else(|| unique.filter(|id| id.len() <= 256).map(MessageId::from));
    let key = encoded_key(&reserved).or_else(|| keys.or(sharding).map(Bytes::from));
    let body = match reserved.get_str(control::TOMBSTONE) {
        Some(NONE) if body == PLACEHOLDER => None,
        Some(EMPTY) if body == PLACEHOLDER => Some(Bytes::new()),
        _ => Some(body),
    };
    let message = Message::to(topic.clone())
        .with_key(key)
        .with_body(body)
        .with_headers(headers)
        .with_id(id)
        .with_timestamp(Some(born));
    Decoded { message, reserved }
}

fn encoded_key(reserved: &Headers) -> Option<Bytes> {
    let text = reserved.get_str(control::KEY)?.strip_prefix(ENCODED)?;
    STANDARD.decode(text).ok().map(Bytes::from)
}

impl Decoded {
    /// The control headers of a message from a place of ours.
    pub(crate) fn control(&self) -> Control {
        Control::read(&self.reserved)
    }
}

/// For the harness of the suite and tools: the tags of a message are the header `TAGS`.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stored::read_properties;

    fn came(encoded: &Encoded) -> Stored {
        Stored {
            queue: 0,
            offset: 0,
            born: SystemTime::UNIX_EPOCH,
            redeliveries: 0,
            body: encoded.body.clone(),
            properties: read_properties(&encoded.text()),
        }
    }

    #[test]
    fn every_message_comes_back() {
        let topic = Topic::parse("t").unwrap();
        let base = || Message::to(topic.clone()).id("m1");
        let messages = [
            base().body("x").key("k").header("TAGS", "red").header("ü", "ö"),
            base().body("").key(""),
            base().key([0xff, 0]).header("a", "1").header("b", vec![0xff]).header("a", "").header("KEYS", "mine"),
            base().body(vec![0]).header("", "x").header("sep", "a\u{1}b\u{2}"),
        ];
        for message in messages {
            let decoded = decode(&topic, came(&encode(&message).unwrap()));
            let sort = |message: &Message| {
                let mut all: Vec<_> = message.headers().iter().map(|(n, v)| (n.to_string(), v.clone())).collect();
                all.sort_by(|one, other| one.0.cmp(&other.0));
                all
            };
            assert_eq!(sort(&decoded.message), sort(&message));
            assert_eq!(decoded.message.key_bytes(), message.key_bytes());
            assert_eq!(decoded.message.body_bytes(), message.body_bytes());
            assert_eq!(decoded.message.message_id(), message.message_id());
        }
    }

    #[test]
    fn too_many_headers_are_refused_and_records_fit() {
        let topic = Topic::parse("t").unwrap();
        let large = Message::to(topic.clone()).header("x", "y".repeat(MAX_PROPERTIES - RECORD));
        assert_eq!(encode(&large).unwrap_err().kind(), ErrorKind::TooLarge);
        let fits = Message::to(topic).header("x", "y".repeat(MAX_PROPERTIES - RECORD - 200));
        assert!(encode(&fits).is_ok());
        let record: Headers = [("mq-dlq-error", "e".repeat(4096))].into_iter().collect();
        assert!(hop(&fits, &record).is_ok());
    }

    proptest! {
        #[test]
        fn any_property_is_read(text in ".{0,80}", value in ".{0,80}") {
            let topic = Topic::parse("t").unwrap();
            let mut stored = came(&encode(&Message::to(topic.clone()).body("x")).unwrap());
            for name in [MORE, control::KEY, control::TOMBSTONE, control::ID, &text] {
                stored.properties.insert(name.to_owned(), value.clone());
            }
            let _ = decode(&topic, stored).control();
        }
    }
}
