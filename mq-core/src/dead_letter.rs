//! Dead letters: why a message was set aside, and how that travels with it.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;

use crate::message::{Headers, Message, Position, control};
use crate::name::{Group, Topic};

/// The longest error text kept in a dead letter, in bytes.
pub const MAX_ERROR: usize = 1024;

/// Why a message was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// The retry budget is used up.
    MaxAttempts,
    /// The handler called it hopeless.
    Rejected,
    /// The process died (or was killed) while handling it, too often.
    CrashLimit,
    /// The body could not be decoded.
    Decode,
    /// An error the classification does not know.
    Unknown,
    /// The broker itself set it aside.
    Broker,
}

impl DeadLetterReason {
    /// The value of the header `mq-dlq-reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max-attempts",
            Self::Rejected => "rejected",
            Self::CrashLimit => "crash-limit",
            Self::Decode => "decode",
            Self::Unknown => "unknown-error",
            Self::Broker => "broker",
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadLetterReason {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::MaxAttempts, Self::Rejected, Self::CrashLimit, Self::Decode, Self::Unknown, Self::Broker]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or(())
    }
}

/// What is recorded beside a message that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRecord {
    /// Why.
    pub reason: DeadLetterReason,
    /// The last error, at most [`MAX_ERROR`] bytes.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it first failed, where known.
    pub first_failed: Option<SystemTime>,
    /// When it was set aside.
    pub failed: SystemTime,
    /// The topic it failed on.
    pub topic: Topic,
    /// The group it failed in.
    pub group: Group,
    /// Where it stood in the topic.
    pub position: Position,
    /// How often it had been redriven before.
    pub redrives: u32,
}

impl DeadLetterRecord {
    /// The record as headers, to be set on the republished message.
    ///
    /// `room` is how many bytes these headers may take; the error text is shortened first to fit.
    pub fn to_headers(&self, message: &Message, room: usize) -> Headers {
        let mut headers = Headers::with_capacity(12);
        headers.append(control::DLQ_REASON, Bytes::from_static(self.reason.as_str().as_bytes()));
        headers.append(control::DLQ_ATTEMPTS, self.attempts.to_string());
        headers.append(control::DLQ_FAILED, control::from_time(self.failed));
        if let Some(first) = self.first_failed {
            headers.append(control::DLQ_FIRST_FAILED, control::from_time(first));
        }
        headers.append(control::DLQ_TOPIC, self.topic.text().clone().into_bytes());
        headers.append(control::DLQ_GROUP, self.group.as_str().to_owned());
        if self.position.is_stable() {
            headers.append(control::DLQ_POSITION, self.position.to_string());
        }
        if let Some(made) = message.made_at() {
            headers.append(control::DLQ_ORIGINAL_TIMESTAMP, control::from_time(made));
        }
        headers.append(control::REDRIVES, self.redrives.to_string());
        let left = room.saturating_sub(headers.size() + control::DLQ_ERROR.len()).min(MAX_ERROR);
        headers.append(control::DLQ_ERROR, cut(&self.error, left).to_owned());
        headers
    }

    /// Reads the record of a dead letter written by the SDK; `None` when the headers are not those of one.
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        let topic = Topic::parse(control::text(headers, control::DLQ_TOPIC)?).ok()?;
        let group = Group::parse(control::text(headers, control::DLQ_GROUP)?).ok()?;
        Some(Self {
            reason: headers.get_str(control::DLQ_REASON)?.parse().ok()?,
            error: headers.get(control::DLQ_ERROR).map(|text| String::from_utf8_lossy(text).into_owned())?,
            attempts: control::number(headers, control::DLQ_ATTEMPTS).and_then(|n| u32::try_from(n).ok())?,
            first_failed: control::millis(headers, control::DLQ_FIRST_FAILED),
            failed: control::millis(headers, control::DLQ_FAILED)?,
            topic,
            group,
            position: parse_position(control::text(headers, control::DLQ_POSITION).as_ref()),
            redrives: control::number(headers, control::REDRIVES).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        })
    }
}

fn parse_position(text: Option<&ByteString>) -> Position {
    let parsed = text.and_then(|text| {
        let (partition, rest) = text.split_once(':')?;
        let partition = partition.parse().ok()?;
        Some(match rest.parse() {
            Ok(offset) => Position::Log { partition, offset },
            Err(_) => Position::Entry { partition, id: rest.into() },
        })
    });
    parsed.unwrap_or_default()
}

/// A dead letter as listed: the message as it was, and the record.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The message: bytes, key and headers unchanged, control headers removed.
    pub message: Message,
    /// Why it is here; `None` when the broker set it aside without the SDK.
    pub record: Option<DeadLetterRecord>,
    /// Where it stands among the dead letters, where the broker has positions.
    pub position: Position,
}

/// The longest prefix of `text` of at most `max` bytes that ends between characters.
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_the_headers() {
        let message = Message::new("order.events").unwrap().timestamp(SystemTime::UNIX_EPOCH);
        let record = DeadLetterRecord {
            reason: DeadLetterReason::MaxAttempts,
            error: "é".repeat(2000),
            attempts: 4,
            first_failed: None,
            failed: SystemTime::UNIX_EPOCH,
            topic: Topic::parse("order.events").unwrap(),
            group: Group::parse("billing").unwrap(),
            position: Position::Log { partition: 3, offset: 42 },
            redrives: 1,
        };
        let headers = record.to_headers(&message, 512);
        assert!(headers.size() <= 512, "{}", headers.size());
        let read = DeadLetterRecord::from_headers(&headers).unwrap();
        assert!(record.error.starts_with(&read.error));
        assert_eq!(DeadLetterRecord { error: record.error.clone(), ..read }, record);
    }
}
