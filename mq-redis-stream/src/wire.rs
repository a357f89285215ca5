//! Messages as fields of a stream's entry, readable by every program: the body is the field `body`, a header is a field
//! of its own name.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;
use mq_core::driver::{Incoming, Origin, Token};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Control, Headers, Message, MessageId, Position, control};
use mq_core::name::Topic;
use redis::Cmd;

use crate::error::error;
use crate::reply::{Entry, EntryId};
use crate::state::INBOX;

/// The field of the body. Those of other programs are looked for under more names.
const BODY: &[u8] = b"body";
const BODIES: [&[u8]; 3] = [BODY, b"data", b"payload"];
/// Begins the fields that a script or a dead letter adds, and says how many pairs follow.
pub(crate) const RECORD: &[u8] = b"mq-record";
/// A script's `unpack` takes some thousands of values.
const MAX_HEADERS: usize = 1_500;

/// How many fields a message has.
pub(crate) fn count(message: &Message) -> usize {
    let known = [message.message_id().is_some(), message.key_bytes().is_some(), message.made_at().is_some()];
    1 + message.headers().len() + known.into_iter().filter(|known| *known).count()
}

/// Adds the fields of a message to an `XADD`.
pub(crate) fn encode(message: &Message, command: &mut Cmd) -> Result<()> {
    let headers = message.headers();
    if headers.len() > MAX_HEADERS {
        return Err(error(ErrorKind::TooLarge, format!("the message has {} headers", headers.len()))
            .with_context("limit", MAX_HEADERS)
            .with_hint("put large things into the body"));
    }
    // First, so that a header of that name is not taken for it.
    match message.body_bytes() {
        Some(body) => command.arg(BODY).arg(&body[..]),
        None => command.arg(control::TOMBSTONE).arg(1),
    };
    if let Some(id) = message.message_id() {
        command.arg(control::ID).arg(id.as_str());
    }
    if let Some(key) = message.key_bytes() {
        command.arg(control::KEY).arg(&key[..]);
    }
    if let Some(made) = message.made_at() {
        command.arg(control::FIRST_SENT).arg(&control::from_time(made)[..]);
    }
    for (name, value) in headers.iter() {
        command.arg(&name[..]).arg(&value[..]);
    }
    Ok(())
}

/// Where an entry was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) partition: u32,
    /// The entry is of a stream only the SDK writes to, and may begin with a record.
    pub(crate) inbox: bool,
}

/// An entry as a message, and what a record at its beginning says.
pub(crate) fn decode(place: Place<'_>, entry: Entry) -> (Message, Headers) {
    let Entry { id, mut fields } = entry;
    let mut record = Headers::new();
    if place.inbox {
        take_record(&mut fields, &mut record);
    }
    let ours = !place.topic.is_foreign();
    let tombstone = fields.first().is_some_and(|(name, _)| name == control::TOMBSTONE.as_bytes());
    let body_at: Option<usize> =
        if tombstone { None } else { BODIES.iter().find_map(|body| fields.iter().position(|(name, _)| name == *body)) };
    let mut body = if body_at.is_none() && !tombstone { Some(as_json(&fields)) } else { None };
    let mut headers = Headers::new();
    // The last of each counts.
    let (mut id_field, mut key, mut first_sent) = (None, None, None);
    for (at, (name, value)) in fields.into_iter().enumerate() {
        // A field named `data` is the body and may be meant as a field too; `body` is what we write ourselves.
        if Some(at) == body_at {
            if name == BODY {
                body = Some(value);
                continue;
            }
            body = Some(value.clone());
        }
        let Ok(name) = ByteString::try_from(name) else {
            // A name that is no text cannot be a header; the body as JSON shows it.
            continue;
        };
        match &*name {
            control::ID => id_field = Some(value),
            control::FIRST_SENT => first_sent = Some(value),
            control::KEY if ours => key = Some(value),
            name if control::is_reserved(name) && (ours || tombstone && at == 0) => {}
            _ => headers.append(name, value),
        }
    }
    let mut message_id = None;
    if let Some(field) = id_field {
        match usable_id(field) {
            Ok(id) => message_id = Some(id),
            // Not usable as an id: plain data after all.
            Err(field) if !ours => headers.append(control::ID, field),
            Err(_) => {}
        }
    }
    if message_id.is_none() {
        message_id = control::take_id(&mut record);
    }
    let millis = first_sent.and_then(|field| std::str::from_utf8(&field).ok()?.trim().parse().ok()).unwrap_or(id.0);
    let made = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    let message = Message::to(place.topic.clone())
        .with_key(key)
        .with_body(body)
        .with_headers(headers)
        .with_id(message_id)
        .with_timestamp(made);
    (message, record)
}

/// As [`control::take_id`] judges it.
fn usable_id(field: Bytes) -> std::result::Result<MessageId, Bytes> {
    if field.is_empty() || field.len() > 256 || std::str::from_utf8(&field).is_err() {
        return Err(field);
    }
    ByteString::try_from(field).map(MessageId::new).map_err(|_| Bytes::new())
}

/// Takes the record off the beginning of an entry's fields.
pub(crate) fn take_record(fields: &mut Vec<(Bytes, Bytes)>, record: &mut Headers) {
    let count = match fields.first() {
        Some((name, count)) if name == RECORD => std::str::from_utf8(count).ok().and_then(|count| count.parse().ok()),
        _ => None,
    };
    let Some(count): Option<usize> = count else { return };
    let end = count.saturating_add(1).min(fields.len());
    for (name, value) in fields.drain(..end).skip(1) {
        if let Ok(name) = ByteString::try_from(name) {
            record.append(name, value);
        }
    }
}

/// All fields as one JSON object: what another program wrote without a body of its own.
fn as_json(fields: &[(Bytes, Bytes)]) -> Bytes {
    let text = |bytes: &Bytes| serde_json::Value::from(String::from_utf8_lossy(bytes).into_owned());
    let name = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let object: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(field, value)| (name(field), text(value))).collect();
    Bytes::from(serde_json::Value::Object(object).to_string())
}

/// What is recorded beside a pending message: `attempt:due:first failed`, the times in milliseconds or empty.
pub(crate) fn attempt_record(attempt: u32, due: Option<SystemTime>, first_failed: Option<SystemTime>) -> String {
    let millis = |at: Option<SystemTime>| at.map(control::from_time).unwrap_or_default();
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    format!("{attempt}:{}:{}", text(millis(due)), text(millis(first_failed)))
}

/// Adds what is recorded to what is known of a message. Nonsense counts as absent.
pub(crate) fn read_attempts(record: &[u8], control: &mut Control) -> bool {
    let Ok(text) = std::str::from_utf8(record) else { return false };
    let mut parts = text.split(':');
    let Some(attempt) = parts.next().and_then(|attempt| attempt.parse::<u32>().ok()) else { return false };
    let mut time = || {
        let millis = parts.next()?.parse().ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    };
    control.attempt = attempt.max(1);
    control.due = time();
    control.first_failed = time().or(control.first_failed);
    true
}

/// What a delivery is told by beside its entry.
#[derive(Debug, Clone)]
pub(crate) struct Told<'a> {
    pub(crate) epoch: u32,
    pub(crate) lane: u32,
    /// How often it was delivered, this time included.
    pub(crate) deliveries: u32,
    /// Its record of attempts, empty for none.
    pub(crate) attempts: Bytes,
    pub(crate) group: &'a str,
}

/// A delivery for the core.
pub(crate) fn incoming(place: Place<'_>, entry: Entry, told: &Told<'_>) -> Incoming {
    let id = entry.id;
    let position = Position::Entry { partition: place.partition, id: id.to_string().into() };
    let (message, record) = decode(place, entry);
    let mut control = if record.is_empty() { Control::default() } else { Control::read(&record) };
    control.attempt = 1;
    let retried = !told.attempts.is_empty() && read_attempts(&told.attempts, &mut control);
    let origin = match (retried, place.inbox) {
        (true, _) => Origin::Retry,
        (false, true) => Origin::Redrive,
        (false, false) => Origin::Topic,
    };
    if origin != Origin::Topic {
        control.group = Some(told.group.into());
    }
    let redeliveries = told.deliveries.saturating_sub(1);
    let mut incoming = Incoming {
        token: Token { epoch: told.epoch, lane: told.lane, major: id.0, minor: id.1 },
        message,
        position,
        control,
        redeliveries,
        redelivered: redeliveries > 0,
        origin,
    };
    if origin != Origin::Topic && incoming.message.message_id().is_none() {
        // The core derives an id for what comes from the topic; it stays the same for what comes again.
        let derived = incoming.id();
        incoming.message = incoming.message.with_id(derived);
    }
    incoming
}

/// An id as the token carries it.
pub(crate) fn entry_id(token: Token) -> EntryId {
    EntryId(token.major, token.minor & !INBOX)
}
