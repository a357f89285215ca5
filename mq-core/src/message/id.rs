//! Message ids: made by the producer, stable over retries, redrive and re-sends.

use std::fmt;
use std::time::SystemTime;

use bytestring::ByteString;
use uuid::{Builder, Uuid};

/// Identifies a message for idempotency guards and for re-sending after an ambiguous outcome. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(ByteString);

impl MessageId {
    /// A new id: a version 7 UUID (RFC 9562), so ids sort by the time they were made.
    ///
    /// The random part comes from a fast generator seeded per thread: unique, but no secret.
    pub fn generate(now: SystemTime) -> Self {
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        let uuid = Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or(u64::MAX), &random).into_uuid();
        let mut buffer = Uuid::encode_buffer();
        let text: &str = uuid.hyphenated().encode_lower(&mut buffer);
        Self(ByteString::from(text))
    }

    /// An id of the caller's choosing, such as an order number.
    pub fn new(text: impl Into<ByteString>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id, for keeping without copying.
    pub fn text(&self) -> &ByteString {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.0)
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ByteString> for MessageId {
    fn from(text: ByteString) -> Self {
        Self(text)
    }
}
