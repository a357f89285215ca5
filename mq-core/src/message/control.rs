//! The headers the SDK reserves, and what they mean.
//!
//! Everything that must survive a crash travels with the message: attempts, due time, failure record. These headers are
//! trusted only on destinations the SDK owns; on foreign ones they are plain data, except [`ID`].

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;

use crate::message::{Headers, MessageId};

/// Every reserved name starts with this.
pub const PREFIX: &str = "mq-";
/// The message id; believed from everybody.
pub const ID: &str = "mq-id";
/// The key, on brokers that have no place for one.
pub const KEY: &str = "mq-key";
/// The attempt this delivery is, counted from 1.
pub const ATTEMPT: &str = "mq-attempt";
/// When the message may be handled, in milliseconds since the Unix epoch.
pub const DUE: &str = "mq-due-ms";
/// When the message was first sent, in milliseconds since the Unix epoch.
pub const FIRST_SENT: &str = "mq-first-ts";
/// The only group the message is for: retries and redriven messages.
pub const GROUP: &str = "mq-group";
/// The topic the message came from before it was set aside.
pub const ORIGIN: &str = "mq-origin";
/// How often it was brought back from the dead letters.
pub const REDRIVES: &str = "mq-redrives";
/// Present on a message that has a key or body of no bytes or none at all, on brokers that cannot tell them apart.
pub const TOMBSTONE: &str = "mq-tombstone";
/// Why it is a dead letter: see [`DeadLetterReason`](crate::dead_letter::DeadLetterReason).
pub const DLQ_REASON: &str = "mq-dlq-reason";
/// The last error, cut to 1 KiB.
pub const DLQ_ERROR: &str = "mq-dlq-error";
/// The attempts made.
pub const DLQ_ATTEMPTS: &str = "mq-dlq-attempts";
/// When it first failed, in milliseconds since the Unix epoch.
pub const DLQ_FIRST_FAILED: &str = "mq-dlq-first-failed-ms";
/// When it was set aside, in milliseconds since the Unix epoch.
pub const DLQ_FAILED: &str = "mq-dlq-failed-ms";
/// The topic it failed on.
pub const DLQ_TOPIC: &str = "mq-dlq-topic";
/// The group it failed in.
pub const DLQ_GROUP: &str = "mq-dlq-group";
/// Where it stood in the topic.
pub const DLQ_POSITION: &str = "mq-dlq-position";
/// When it was made, in milliseconds since the Unix epoch.
pub const DLQ_ORIGINAL_TIMESTAMP: &str = "mq-dlq-orig-ts-ms";

/// True for a name the SDK reserves.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// What trusted control headers say of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// The attempt this delivery is, from 1.
    pub attempt: u32,
    /// How often it was redriven.
    pub redrives: u32,
    /// When it may be handled.
    pub due: Option<SystemTime>,
    /// The only group it is for.
    pub group: Option<ByteString>,
    /// The topic it came from first.
    pub origin: Option<ByteString>,
    /// When it first failed.
    pub first_failed: Option<SystemTime>,
}

impl Default for Control {
    fn default() -> Self {
        Self { attempt: 1, redrives: 0, due: None, group: None, origin: None, first_failed: None }
    }
}

impl Control {
    /// Reads the control headers of a message from a destination the SDK owns. Values that do not parse count as
    /// absent: the wire is hostile, and a bad number must not stop a subscription.
    pub fn read(headers: &Headers) -> Self {
        Self {
            attempt: number(headers, ATTEMPT).and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1),
            redrives: number(headers, REDRIVES).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            due: millis(headers, DUE),
            group: text(headers, GROUP),
            origin: text(headers, ORIGIN),
            first_failed: millis(headers, DLQ_FIRST_FAILED),
        }
    }
}

/// Takes the id out of the headers, if there is one that is UTF-8, not empty and at most 256 bytes.
pub fn take_id(headers: &mut Headers) -> Option<MessageId> {
    let value = headers.get(ID)?;
    if value.is_empty() || value.len() > 256 {
        return None;
    }
    let id = ByteString::try_from(value.clone()).ok()?;
    headers.retain(|name, _| name != ID);
    Some(MessageId::new(id))
}

/// Removes every reserved header: what a user sees of a message from a destination the SDK owns.
pub fn strip(headers: &mut Headers) {
    if headers.iter().any(|(name, _)| is_reserved(name)) {
        headers.retain(|name, _| !is_reserved(name));
    }
}

/// A header's value as a decimal number.
pub fn number(headers: &Headers, name: &str) -> Option<u64> {
    headers.get_str(name)?.trim().parse().ok()
}

/// A header's value as UTF-8 text of at most 1 KiB.
pub fn text(headers: &Headers, name: &str) -> Option<ByteString> {
    headers.get(name).filter(|value| value.len() <= 1024).and_then(|value| ByteString::try_from(value.clone()).ok())
}

/// A header's value as milliseconds since the Unix epoch.
pub fn millis(headers: &Headers, name: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(number(headers, name)?))
}

/// A time as the value of a header: milliseconds since the Unix epoch, rounded up so that nothing due is early.
pub fn from_time(at: SystemTime) -> Bytes {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = since.as_nanos().div_ceil(1_000_000);
    Bytes::from(millis.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_counts_as_absent() {
        let headers: Headers =
            [(ATTEMPT, "99999999999999999999"), (DUE, "soon"), (REDRIVES, "-1")].into_iter().collect();
        assert_eq!(Control::read(&headers), Control::default());
        let overflow: Headers = [(DUE, u64::MAX.to_string())].into_iter().collect();
        let _ = Control::read(&overflow).due;
    }

    #[test]
    fn due_is_never_rounded_down() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_001);
        assert_eq!(from_time(at), "2");
    }
}
