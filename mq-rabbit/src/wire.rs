//! Messages as AMQP properties and back.
//!
//! The id is the property `message-id`; key and control headers are header fields that start with `mq-`. What a message
//! had before a retry or dead letter stays as it was: the native properties are republished with a patch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Headers, Message, MessageId, control};
use mq_core::name::Topic;

use crate::error::{BACKEND, error};
use crate::names::short;
use crate::value;

/// Header fields travel in one frame, by default 128 KiB; what is above this is room for the record of a dead letter.
const MAX_HEADERS: usize = 96 * 1024;
/// The most that fits into that frame beside the properties.
const MAX_FRAME: usize = 124 * 1024;
/// Reserved names a foreign message carried, set aside while it is in places of ours.
const FOREIGN: &str = "mq-f-";
/// The routing key a message was sent with, kept while it is elsewhere.
const ROUTING_KEY: &str = "mq-rabbit-routing-key";
/// Sender-selected distribution: on republishing it would send copies to the queues named.
const COPIES: [&str; 2] = ["CC", "BCC"];
const PERSISTENT: u8 = 2;

type Table = BTreeMap<ShortString, AMQPValue>;

/// What a received message was, for republishing it whole.
pub(crate) struct Native {
    properties: BasicProperties,
    exchange: ShortString,
    routing_key: ShortString,
    /// It came from a destination of ours: its control headers are true.
    trusted: bool,
}

/// A received message, taken apart.
pub(crate) struct Decoded {
    pub(crate) message: Message,
    /// The reserved headers; empty when they cannot be trusted.
    pub(crate) reserved: Headers,
    /// `x-delivery-count`.
    pub(crate) redeliveries: u32,
}

/// The properties of a message to be sent.
pub(crate) fn encode(message: &Message) -> Result<BasicProperties> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let mut table = Table::new();
    let mut size = 0;
    for (name, content) in message.headers().iter() {
        size += name.len() + content.len() + 8;
        if let Some(with) = property(name)
            && let Ok(text) = std::str::from_utf8(content)
            && let Ok(text) = ShortString::try_new(text)
            && message.headers().get_all(name).count() == 1
            && text.as_str() != "amq.rabbitmq.reply-to"
        {
            properties = with(properties, text);
            continue;
        }
        let content = AMQPValue::LongString(Vec::from(&content[..]).into());
        if COPIES.contains(&&**name) || is_brokers_own(name) {
            // To the broker such a header would mean something; on our topics it travels under another name.
            if message.topic().is_foreign() {
                return Err(Error::config(format!("the header `{name}` has a meaning for RabbitMQ itself"))
                    .with_backend(BACKEND)
                    .with_hint("choose another name for the header"));
            }
            append(&mut table, short(&format!("{FOREIGN}{name}"))?, content);
            continue;
        }
        append(&mut table, short(name)?, content);
    }
    if let Some(id) = message.message_id() {
        match ShortString::try_new(id.as_str()) {
            Ok(id) => properties = properties.with_message_id(id),
            Err(_) => insert(&mut table, control::ID, id.as_str().as_bytes()),
        }
    }
    if let Some(key) = message.key_bytes() {
        size += key.len();
        insert(&mut table, control::KEY, key);
    }
    if message.body_bytes().is_none() {
        insert(&mut table, control::TOMBSTONE, b"1");
    }
    let made = message.made_at().unwrap_or_else(SystemTime::now);
    let since = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    properties = properties.with_timestamp(since.as_secs());
    // The property counts seconds: a time the sender gave more exactly goes along.
    if message.made_at().is_some() && since.subsec_nanos() != 0 {
        insert(&mut table, control::FIRST_SENT, &control::from_time(made));
    }
    if size > MAX_HEADERS {
        return Err(error(ErrorKind::TooLarge, format!("the headers take {size} B"))
            .with_context("limit", MAX_HEADERS)
            .with_hint("put large things into the body"));
    }
    if !table.is_empty() {
        properties = properties.with_headers(FieldTable::from(table));
    }
    Ok(properties)
}

/// The properties of a received message that goes to a place of its group, with `patch` for control headers.
pub(crate) fn hop(message: &Message, patch: &Headers) -> Result<BasicProperties> {
    let native = message.native().and_then(|native| native.downcast_ref::<Native>());
    let (properties, mut table) = match native {
        Some(native) => (portable(&native.properties), kept(native)),
        None => {
            let properties = encode(message)?;
            let table = properties.headers().as_ref().map(|table| table.inner().clone()).unwrap_or_default();
            (properties, table)
        }
    };
    for (name, content) in patch.iter() {
        table.insert(short(name)?, AMQPValue::LongString(Vec::from(&content[..]).into()));
    }
    let size = table.iter().map(|(name, content)| name.as_str().len() + value::size(content) + 8).sum::<usize>();
    if size > MAX_FRAME {
        // Sent all the same, it would end the connection for everybody.
        return Err(error(ErrorKind::TooLarge, format!("with what must be recorded the headers take {size} B"))
            .with_context("limit", MAX_FRAME));
    }
    Ok(properties.with_delivery_mode(PERSISTENT).with_headers(FieldTable::from(table)))
}

/// Takes a received message apart. `trusted`: it comes from a destination of ours.
pub(crate) fn decode(
    topic: &Topic,
    trusted: bool,
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
) -> Decoded {
    let mut headers = Headers::new();
    let mut reserved = Headers::new();
    let mut redeliveries = 0;
    let mut first_sent = None;
    property_headers(&properties, &mut headers);
    if let Some(table) = properties.headers() {
        for (name, content) in table {
            let name = name.as_str();
            if name == "x-delivery-count" {
                let count = value::to_number(content).unwrap_or(0);
                redeliveries = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
            } else if !control::is_reserved(name) {
                if !(trusted && is_brokers_own(name)) {
                    push(&mut headers, name, content, trusted);
                }
            } else if !trusted {
                headers.append(name, value::to_bytes(content));
            } else if name == control::FIRST_SENT {
                // On every message of ours, and only ever read here: kept as a number.
                first_sent = value::to_number(content).and_then(|millis| u64::try_from(millis).ok());
            } else if let Some(original) = name.strip_prefix(FOREIGN) {
                push(&mut headers, original, content, false);
            } else {
                reserved.append(name, value::to_bytes(content));
            }
        }
    }
    let id = properties.message_id().as_ref().filter(|id| !id.as_str().is_empty());
    let id = match id {
        Some(id) => Some(MessageId::new(id.as_str())),
        None if trusted => control::take_id(&mut reserved),
        None => control::take_id(&mut headers),
    };
    let body = Bytes::from(body);
    let tombstone = body.is_empty() && reserved.get(control::TOMBSTONE).is_some();
    let stamp = first_sent.map(Duration::from_millis).or_else(|| (*properties.timestamp()).map(Duration::from_secs));
    let stamp = stamp.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let mut message = Message::to(topic.clone())
        .with_key(reserved.get(control::KEY).cloned())
        .with_body((!tombstone).then_some(body))
        .with_headers(headers)
        .with_id(id)
        .with_timestamp(stamp);
    if let Some(original) = control::text(&reserved, ROUTING_KEY) {
        message = message.routing_key(original);
    } else if !exchange.as_str().is_empty() && !routing_key.as_str().is_empty() && reserved.get(control::DUE).is_none()
    {
        // (A delayed message arrives under the routing key that steered its delay.)
        message = message.routing_key(ByteString::from(routing_key.as_str()));
    }
    let native = Native { properties, exchange, routing_key, trusted };
    Decoded { message: message.with_native(Some(Arc::new(native))), reserved, redeliveries }
}

/// Why, where and when the broker itself set a message aside last.
pub(crate) struct Death {
    pub(crate) reason: String,
    pub(crate) queue: String,
    pub(crate) at: Option<SystemTime>,
}

/// What the broker noted when it set a message aside by itself, if it did.
pub(crate) fn broker_death(message: &Message) -> Option<Death> {
    let native = message.native()?.downcast_ref::<Native>()?;
    let table = native.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = table.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
    let field = |name: &str| last.inner().get(name);
    let at = field("time").and_then(value::to_number).and_then(|seconds| u64::try_from(seconds).ok());
    Some(Death {
        reason: value::to_text(field("reason")?)?.to_owned(),
        queue: field("queue").and_then(value::to_text).unwrap_or_default().to_owned(),
        at: at.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
    })
}

/// `true` for headers the broker adds: copied onto a republished message they would be read as true again, and a
/// `x-death` that shows a cycle makes the broker drop the message.
fn is_brokers_own(name: &str) -> bool {
    name == "x-death"
        || name == "x-delivery-count"
        || name == "x-acquired-count"
        || name == "x-opt-delivery-time"
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// Control headers the core writes anew at each hop.
fn is_rewritten(name: &str) -> bool {
    [control::ATTEMPT, control::DUE, control::GROUP, control::ORIGIN, control::REDRIVES].contains(&name)
        || name.starts_with("mq-dlq-")
}

/// The header fields of a received message that go along to its next place.
fn kept(native: &Native) -> Table {
    let mut table = Table::new();
    for (name, content) in native.properties.headers().iter().flatten() {
        let text = name.as_str();
        if is_brokers_own(text) || (native.trusted && is_rewritten(text)) {
            continue;
        }
        let untrusted = !native.trusted && control::is_reserved(text) && text != control::ID;
        if untrusted || COPIES.contains(&text) {
            if let Ok(renamed) = ShortString::try_new(format!("{FOREIGN}{text}")) {
                table.insert(renamed, content.clone());
            }
            continue;
        }
        table.insert(name.clone(), content.clone());
    }
    if !native.exchange.as_str().is_empty() && !native.routing_key.as_str().is_empty() {
        insert(&mut table, ROUTING_KEY, native.routing_key.as_str().as_bytes());
    }
    if let Some(expiration) = native.properties.expiration() {
        insert(&mut table, "mq-f-amqp-expiration", expiration.as_str().as_bytes());
    }
    if let Some(user) = native.properties.user_id() {
        insert(&mut table, "mq-f-amqp-user-id", user.as_str().as_bytes());
    }
    table
}

/// The properties without those that would change what happens to the copy: an expiration would cut a retry short or
/// empty the dead letters, and a user id that is not ours closes the channel.
fn portable(from: &BasicProperties) -> BasicProperties {
    let mut to = BasicProperties::default();
    macro_rules! copy {
        ($($name:ident => $with:ident),+) => {
            $(if let Some(text) = from.$name() { to = to.$with(text.clone()); })+
        };
    }
    copy!(
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        app_id => with_app_id
    );
    if let Some(priority) = from.priority() {
        to = to.with_priority(*priority);
    }
    to
}

type With = fn(BasicProperties, ShortString) -> BasicProperties;

/// Headers that AMQP has a property for.
fn property(name: &str) -> Option<With> {
    Some(match name {
        "content-type" => BasicProperties::with_content_type,
        "content-encoding" => BasicProperties::with_content_encoding,
        "correlation-id" => BasicProperties::with_correlation_id,
        "reply-to" => BasicProperties::with_reply_to,
        "amqp-type" => BasicProperties::with_type,
        "amqp-app-id" => BasicProperties::with_app_id,
        _ => return None,
    })
}

fn property_headers(properties: &BasicProperties, headers: &mut Headers) {
    let texts = [
        ("content-type", properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("reply-to", properties.reply_to()),
        ("amqp-type", properties.kind()),
        ("amqp-app-id", properties.app_id()),
        ("amqp-user-id", properties.user_id()),
        ("amqp-expiration", properties.expiration()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            headers.append(ByteString::from_static(name), Bytes::copy_from_slice(text.as_str().as_bytes()));
        }
    }
    if let Some(priority) = properties.priority() {
        headers.append(ByteString::from_static("amqp-priority"), priority.to_string());
    }
}

/// Adds a received field; from places of ours a list of strings is a header that repeats.
fn push(headers: &mut Headers, name: &str, content: &AMQPValue, ours: bool) {
    if let AMQPValue::FieldArray(items) = content
        && ours
        && !items.as_slice().is_empty()
        && items.as_slice().iter().all(|item| matches!(item, AMQPValue::LongString(_)))
    {
        for item in items.as_slice() {
            headers.append(name, value::to_bytes(item));
        }
        return;
    }
    headers.append(name, value::to_bytes(content));
}

/// Adds a field to be sent; a name that repeats becomes a list, since a table has each name once.
fn append(table: &mut Table, name: ShortString, content: AMQPValue) {
    let content = match table.remove(name.as_str()) {
        None => content,
        Some(AMQPValue::FieldArray(mut items)) => {
            items.push(content);
            AMQPValue::FieldArray(items)
        }
        Some(first) => AMQPValue::FieldArray(FieldArray::from(vec![first, content])),
    };
    table.insert(name, content);
}

fn insert(table: &mut Table, name: &'static str, content: &[u8]) {
    if let Ok(name) = ShortString::try_new(name) {
        table.insert(name, AMQPValue::LongString(content.to_vec().into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(message: &Message, trusted: bool) -> Decoded {
        let properties = encode(message).unwrap();
        let body = message.body_bytes().map(|body| body.to_vec()).unwrap_or_default();
        decode(message.topic(), trusted, "t".into(), "".into(), properties, body)
    }

    fn again(decoded: &Decoded, patch: &Headers, trusted: bool) -> Decoded {
        let properties = hop(&decoded.message, patch).unwrap();
        let body = decoded.message.body_bytes().map(|body| body.to_vec()).unwrap_or_default();
        decode(decoded.message.topic(), trusted, "".into(), "q".into(), properties, body)
    }

    #[test]
    fn a_message_survives_the_wire() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        let message = Message::new("t")
            .unwrap()
            .key([0xff, 0])
            .body("b")
            .id("i")
            .timestamp(made)
            .header("content-type", "text/plain")
            .header("repeats", "1")
            .header("repeats", "2")
            .header("CC", "mine")
            .header("x-death", "mine")
            .header("bytes", Bytes::from_static(&[0, 0xff]));
        let back = round(&message, true).message;
        assert_eq!(back.key_bytes(), message.key_bytes());
        assert_eq!(back.body_bytes(), message.body_bytes());
        assert_eq!(back.message_id(), message.message_id());
        assert_eq!(back.made_at(), Some(made));
        assert_eq!(back.headers().get_all("repeats").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(back.headers().get("bytes"), message.headers().get("bytes"));
        assert_eq!(back.headers().get_str("CC"), Some("mine"));
        assert_eq!(back.headers().get_str("x-death"), Some("mine"));
        assert_eq!(back.headers().len(), 6);
        let tombstone = round(&Message::new("t").unwrap(), true).message;
        assert_eq!(tombstone.body_bytes(), None);
        let empty = round(&Message::new("t").unwrap().body(""), true).message;
        assert_eq!(empty.body_bytes().map(Bytes::len), Some(0));
        let long = "x".repeat(256);
        assert_eq!(
            round(&Message::new("t").unwrap().id(long.as_str()), true).message.message_id().unwrap().as_str(),
            long
        );
    }

    #[test]
    fn forged_headers_are_data_and_survive_a_hop() {
        let mut forged = Message::new("queue:q").unwrap().body("b");
        forged.headers_mut().append(control::ATTEMPT, "99");
        forged.headers_mut().append("mq-id", "own");
        let first = round(&forged, false);
        assert_eq!(first.message.headers().get_str(control::ATTEMPT), Some("99"));
        assert_eq!(first.message.message_id().map(MessageId::as_str), Some("own"));
        assert!(first.reserved.is_empty());
        let patch: Headers = [(control::ATTEMPT, "2")].into_iter().collect();
        let second = again(&first, &patch, true);
        assert_eq!(control::Control::read(&second.reserved).attempt, 2);
        assert_eq!(second.message.headers().get_str(control::ATTEMPT), Some("99"));
        assert_eq!(second.message.message_id().map(MessageId::as_str), Some("own"));
        let third = again(&second, &patch, true);
        assert_eq!(third.message.headers().get_str(control::ATTEMPT), Some("99"));
    }

    #[test]
    fn a_hop_keeps_types_and_drops_what_would_bite() {
        let mut table = FieldTable::default();
        table.insert("typed".into(), AMQPValue::LongLongInt(7));
        table.insert("CC".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongString("q".into())])));
        table.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_expiration("100".into())
            .with_user_id("other".into())
            .with_type("order".into());
        let topic = Topic::parse("queue:q").unwrap();
        let first = decode(&topic, false, "e".into(), "rk".into(), properties, Vec::new());
        let properties = hop(&first.message, &Headers::new()).unwrap();
        assert!(properties.expiration().is_none() && properties.user_id().is_none());
        assert_eq!(properties.kind().as_ref().map(ShortString::as_str), Some("order"));
        let table = properties.headers().as_ref().unwrap().inner();
        assert_eq!(table.get("typed"), Some(&AMQPValue::LongLongInt(7)));
        assert!(!table.contains_key("CC") && !table.contains_key("x-death"));
        let second = again(&first, &Headers::new(), true);
        assert_eq!(second.message.routing().map(|key| key.to_string()).as_deref(), Some("rk"));
        assert_eq!(second.message.headers().get_str("amqp-expiration"), Some("100"));
    }

    #[test]
    fn a_hop_never_outgrows_a_frame() {
        let mut table = FieldTable::default();
        table.insert("h".into(), AMQPValue::LongString(vec![b'x'; MAX_FRAME - 100].into()));
        let properties = BasicProperties::default().with_headers(table);
        let topic = Topic::parse("queue:q").unwrap();
        let large = decode(&topic, false, "".into(), "q".into(), properties, Vec::new());
        assert!(hop(&large.message, &Headers::new()).is_ok());
        let patch: Headers = [(control::DLQ_ERROR, "e".repeat(200))].into_iter().collect();
        assert_eq!(hop(&large.message, &patch).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn refuses_what_amqp_cannot_carry() {
        let copies = Message::new("queue:q").unwrap().header("CC", "q");
        assert_eq!(encode(&copies).unwrap_err().kind(), ErrorKind::Config);
        let large = Message::new("t").unwrap().header("h", vec![0u8; MAX_HEADERS]);
        assert_eq!(encode(&large).unwrap_err().kind(), ErrorKind::TooLarge);
        let name = Message::new("t").unwrap().header("n".repeat(256), "v");
        assert_eq!(encode(&name).unwrap_err().kind(), ErrorKind::Config);
    }
}
