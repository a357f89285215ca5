//! The message itself.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::message::{Headers, MessageId};
use crate::name::Topic;

/// What only the adapter understands of a message it received: typed AMQP tables, null header values and the like.
///
/// Kept so that retry, dead letter and redrive republish the message as it came. Opaque to everybody else.
pub type Native = Arc<dyn Any + Send + Sync>;

/// A message, to be sent or received. Cloning copies no body.
#[derive(Clone)]
pub struct Message {
    topic: Topic,
    key: Option<Bytes>,
    body: Option<Bytes>,
    headers: Headers,
    id: Option<MessageId>,
    timestamp: Option<SystemTime>,
    routing_key: Option<ByteString>,
    native: Option<Native>,
}

impl Message {
    /// A message without key, body or headers.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topic's name is not valid; see [`Topic::parse`].
    pub fn new<T>(topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Ok(Self::to(topic.try_into()?))
    }

    /// A message for a topic already parsed; cannot fail.
    #[inline]
    pub fn to(topic: Topic) -> Self {
        Self {
            topic,
            key: None,
            body: None,
            headers: Headers::new(),
            id: None,
            timestamp: None,
            routing_key: None,
            native: None,
        }
    }

    /// A message with `value` as JSON, and the header `content-type: application/json`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a bad topic name, [`ErrorKind::Codec`] when `value` cannot be written as JSON.
    pub fn json<T, V: Serialize + ?Sized>(topic: T, value: &V) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let body = serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::Codec, "cannot write the body as JSON").with_source(error))?;
        Ok(Self::new(topic)?.body(body).header("content-type", "application/json"))
    }

    /// Sets the key: messages of one key keep their order.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// Sets or clears the key without copying it.
    #[inline]
    #[must_use]
    pub fn with_key(mut self, key: Option<Bytes>) -> Self {
        self.key = key;
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets or clears the body. A message without one (a tombstone) is not one with an empty body.
    #[inline]
    #[must_use]
    pub fn with_body(mut self, body: Option<Bytes>) -> Self {
        self.body = body;
        self
    }

    /// Adds a header behind those that are there.
    ///
    /// Names that start with `mq-` are the SDK's own: sending such a message is an error.
    #[must_use]
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Replaces all headers.
    #[inline]
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the id; without one the producer makes one.
    #[must_use]
    pub fn id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets or clears the id.
    #[inline]
    #[must_use]
    pub fn with_id(mut self, id: Option<MessageId>) -> Self {
        self.id = id;
        self
    }

    /// Sets when the message was made, by the producer's clock; without it the time of sending.
    #[must_use]
    pub fn timestamp(mut self, at: SystemTime) -> Self {
        self.timestamp = Some(at);
        self
    }

    /// Sets or clears the timestamp.
    #[inline]
    #[must_use]
    pub fn with_timestamp(mut self, at: Option<SystemTime>) -> Self {
        self.timestamp = at;
        self
    }

    /// Sets the routing key, where the broker routes by pattern (capability `RoutingPattern`).
    #[must_use]
    pub fn routing_key(mut self, key: impl Into<ByteString>) -> Self {
        self.routing_key = Some(key.into());
        self
    }

    /// For adapters: keeps what only they understand.
    #[inline]
    #[must_use]
    pub fn with_native(mut self, native: Option<Native>) -> Self {
        self.native = native;
        self
    }

    /// For adapters and relays: the same message for another topic.
    #[inline]
    #[must_use]
    pub fn with_topic(mut self, topic: Topic) -> Self {
        self.topic = topic;
        self
    }

    /// The topic it is sent to or came from.
    #[inline]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The key, if it has one.
    #[inline]
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The body; `None` for a tombstone.
    #[inline]
    pub fn body_bytes(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// The headers, without those the SDK reserves (except on foreign destinations, where they are plain data).
    #[inline]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, to be changed in place.
    #[inline]
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The id, as the producer gave it.
    #[inline]
    pub fn message_id(&self) -> Option<&MessageId> {
        self.id.as_ref()
    }

    /// When it was made.
    #[inline]
    pub fn made_at(&self) -> Option<SystemTime> {
        self.timestamp
    }

    /// The routing key, if it has one.
    pub fn routing(&self) -> Option<&ByteString> {
        self.routing_key.as_ref()
    }

    /// For adapters: what they kept.
    #[inline]
    pub fn native(&self) -> Option<&Native> {
        self.native.as_ref()
    }

    /// Moves topic and id out: for a message that is done with.
    pub(crate) fn take_identity(&mut self) -> (Topic, Option<MessageId>) {
        (std::mem::replace(&mut self.topic, Topic::unnamed()), self.id.take())
    }

    /// Lets go of key, body, headers, id and native part.
    pub(crate) fn clear(&mut self) {
        self.key = None;
        self.body = None;
        self.headers = Headers::new();
        self.id = None;
        self.routing_key = None;
        self.native = None;
    }

    /// Bytes of body, key and headers together: what bounds and limits count.
    #[inline]
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.body.as_ref().map_or(0, Bytes::len) + self.headers.size()
    }
}

/// Sizes instead of contents: bodies and headers may carry anything, a token included.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("id", &self.id)
            .field("key", &self.key.as_ref().map(|key| format!("{} B", key.len())))
            .field("body", &self.body.as_ref().map(|body| format!("{} B", body.len())))
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_contents() {
        let message = Message::new("t").unwrap().key("user-7").body("card 4111").header("authorization", "Bearer x");
        let text = format!("{message:?}");
        assert!(!text.contains("4111") && !text.contains("Bearer") && !text.contains("user-7"), "{text}");
    }
}
