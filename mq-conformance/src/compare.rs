//! Whether a message arrived as it was sent.

use bytes::Bytes;
use mq_core::message::Message;

use crate::failure::{Failure, Verdict};

/// Fails unless id, key, body and headers (names, values, order of repeated ones) are those sent.
pub(crate) fn same(sent: &Message, got: &Message) -> Verdict {
    let mut wrong = Vec::new();
    if sent.topic() != got.topic() {
        wrong.push(format!("topic {} instead of {}", got.topic(), sent.topic()));
    }
    if sent.message_id() != got.message_id() {
        wrong.push(format!("id {:?} instead of {:?}", got.message_id(), sent.message_id()));
    }
    if sent.key_bytes() != got.key_bytes() {
        wrong.push(format!("key {} instead of {}", bytes(got.key_bytes()), bytes(sent.key_bytes())));
    }
    if sent.body_bytes() != got.body_bytes() {
        wrong.push(format!("body {} instead of {}", bytes(got.body_bytes()), bytes(sent.body_bytes())));
    }
    let (expected, headers) = (pairs(sent), pairs(got));
    if expected != headers {
        wrong.push(format!("headers {headers:?} instead of {expected:?}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(format!("the message changed: {}", wrong.join("; ")))) }
}

/// Headers by name; repeated ones keep their order. Some brokers keep the order of names, some do not.
fn pairs(message: &Message) -> Vec<(String, String)> {
    let headers = message.headers().iter();
    let mut pairs: Vec<(String, String)> =
        headers.map(|(name, value)| (name.to_string(), value.escape_ascii().to_string())).collect();
    pairs.sort_by(|left, right| left.0.cmp(&right.0));
    pairs
}

fn bytes(value: Option<&Bytes>) -> String {
    match value {
        None => "none".into(),
        Some(value) if value.len() > 60 => {
            format!("{} B beginning with {}", value.len(), value.get(..24).unwrap_or_default().escape_ascii())
        }
        Some(value) => format!("`{}`", value.escape_ascii()),
    }
}
