//! From Kafka records to messages of the contract. Nothing on the wire may panic or be lost.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mq_core::message::{Control, Headers, Message, MessageId, control};
use mq_core::name::Topic;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message as _, Timestamp};

use crate::encode::FOREIGN;
use crate::native::Odd;

/// The longest id believed.
const MAX_ID: usize = 256;
/// Small values share a buffer of this size, so that a message costs no allocation of its own for each of them.
const CHUNK: usize = 64 * 1024;
/// Chunks kept for reuse.
const KEPT: usize = 32;

/// Copies records out of the client's memory.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    chunk: BytesMut,
    /// Full ones, oldest first. Once all its messages are gone a chunk is filled again, while it is still in the
    /// processor's cache; giving it to the allocator from one thread and asking for another from the next costs more
    /// than everything else done with a message.
    full: VecDeque<BytesMut>,
}

/// A decoded record.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) control: Control,
    /// Every control header, for dead letters; empty on foreign topics.
    pub(crate) reserved: Headers,
}

impl Decoder {
    /// Reads a record. `owned`: it comes from a topic of ours, so its control headers are believed and removed;
    /// otherwise only the id is.
    pub(crate) fn decode(&mut self, record: &BorrowedMessage<'_>, topic: &Topic, owned: bool) -> Decoded {
        let mut parts = Parts::default();
        // The body first: it is before the headers in the client's memory, which another core has just written, and
        // reading on from it has the headers in the cache when their turn comes.
        let body = record.payload().map(|body| self.keep(body));
        let key = record.key().map(|key| self.keep(key));
        if let Some(headers) = record.headers() {
            self.headers(headers, owned, &mut parts);
        }
        let control = if owned { Control::read(&parts.reserved) } else { Control::default() };
        let made = if owned { control::millis(&parts.reserved, control::FIRST_SENT) } else { None };
        let made = made.or_else(|| timestamp(record.timestamp()));
        let odd = (!parts.nulls.is_empty() || parts.unnamed).then(|| Odd {
            nulls: parts.nulls,
            raw: parts.unnamed.then(|| record.headers().map(BorrowedHeaders::detach)).flatten(),
        });
        let message = Message::to(topic.clone())
            .with_key(key)
            .with_body(body)
            .with_headers(parts.headers)
            .with_id(parts.id)
            .with_timestamp(made)
            .with_native(odd.map(Odd::into_native));
        Decoded { message, control, reserved: parts.reserved }
    }

    fn headers(&mut self, list: &BorrowedHeaders, owned: bool, parts: &mut Parts) {
        for index in 0..list.count() {
            // The client's wrapper panics on a name that is not UTF-8; such a header is kept whole, but not shown.
            let Ok(header) = catch_unwind(AssertUnwindSafe(|| list.try_get(index))) else {
                parts.unnamed = true;
                continue;
            };
            let Some(header) = header else { continue };
            let value = header.value.map(|value| self.keep(value));
            if !header.key.starts_with(control::PREFIX) {
                self.user_header(header.key, value, parts);
            } else if header.key == control::ID
                && let Some(id) = value.as_ref().and_then(believed)
            {
                parts.id = Some(id);
            } else if !owned {
                self.user_header(header.key, value, parts);
            } else if let Some(name) = header.key.strip_prefix(FOREIGN) {
                self.user_header(name, value, parts);
            } else {
                parts.reserved.append(header.key, value.unwrap_or_default());
            }
        }
    }

    fn user_header(&mut self, name: &str, value: Option<Bytes>, parts: &mut Parts) {
        if value.is_none() {
            parts.nulls.push(parts.headers.len());
        }
        let name = ByteString::try_from(self.keep(name.as_bytes())).unwrap_or_default();
        parts.headers.append(name, value.unwrap_or_default());
    }

    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > CHUNK / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.next_chunk();
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }

    fn next_chunk(&mut self) {
        let reusable = self.full.front_mut().is_some_and(|oldest| oldest.try_reclaim(CHUNK));
        // Too many in use: the oldest belongs to its messages alone from now on.
        let oldest = if reusable || self.full.len() >= KEPT { self.full.pop_front() } else { None };
        let next = oldest.filter(|_| reusable).unwrap_or_else(|| BytesMut::with_capacity(CHUNK));
        self.full.push_back(std::mem::replace(&mut self.chunk, next));
    }
}

/// What is shown, what is reserved, and the id.
#[cfg(test)]
pub(crate) fn headers_of(list: &BorrowedHeaders, owned: bool) -> (Headers, Headers, Option<MessageId>) {
    let mut parts = Parts::default();
    Decoder::default().headers(list, owned, &mut parts);
    (parts.headers, parts.reserved, parts.id)
}

#[derive(Default)]
struct Parts {
    headers: Headers,
    reserved: Headers,
    id: Option<MessageId>,
    nulls: Vec<usize>,
    unnamed: bool,
}

/// The value as an id, if it can be one.
fn believed(value: &Bytes) -> Option<MessageId> {
    if value.is_empty() || value.len() > MAX_ID {
        return None;
    }
    ByteString::try_from(value.clone()).ok().map(MessageId::new)
}

fn timestamp(timestamp: Timestamp) -> Option<SystemTime> {
    let millis = u64::try_from(timestamp.to_millis()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}
