//! From messages of the contract to Kafka records.

use std::time::SystemTime;

use bytes::Bytes;
use mq_core::message::{Headers, Message, MessageId, control};
use rdkafka::message::{Header, OwnedHeaders};

use crate::native::Odd;

/// A header of a foreign message that has a name we reserve travels under this prefix through our own topics.
pub(crate) const FOREIGN: &str = "mq-foreign-";

/// Milliseconds since the Unix epoch, as Kafka's timestamps count.
pub(crate) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The headers of a message for a user's topic: its own and its id.
pub(crate) fn plain(message: &Message) -> Option<OwnedHeaders> {
    let headers = message.headers();
    let id = message.message_id();
    if headers.is_empty() && id.is_none() {
        return None;
    }
    let odd = Odd::of(message);
    let mut list = OwnedHeaders::new_with_capacity(headers.len() + 1);
    if let Some(id) = id {
        list = add(list, control::ID, Some(id.as_str().as_bytes()));
    }
    Some(append(list, headers, odd, false))
}

/// The headers of a message for a topic of ours: as it came, its id, its timestamp, and `patch`.
pub(crate) fn with_control(message: &Message, id: Option<&MessageId>, patch: &Headers) -> OwnedHeaders {
    let headers = message.headers();
    let odd = Odd::of(message);
    let mut list = match odd.and_then(|odd| odd.raw.clone()) {
        Some(raw) => raw,
        None => append(OwnedHeaders::new_with_capacity(headers.len() + patch.len() + 2), headers, odd, true),
    };
    if let Some(id) = id {
        list = add(list, control::ID, Some(id.as_str().as_bytes()));
    }
    if let Some(made) = message.made_at() {
        // The copy has a timestamp of its own, or the retention of the old one would delete it.
        list = add(list, control::FIRST_SENT, Some(&control::from_time(made)));
    }
    for (name, value) in patch.iter() {
        list = add(list, name, Some(value));
    }
    list
}

fn append(mut list: OwnedHeaders, headers: &Headers, odd: Option<&Odd>, escape: bool) -> OwnedHeaders {
    for (place, (name, value)) in headers.iter().enumerate() {
        let null = value.is_empty() && odd.is_some_and(|odd| odd.nulls.contains(&place));
        let value: Option<&[u8]> = if null { None } else { Some(value) };
        list = if escape && control::is_reserved(name) {
            add(list, &format!("{FOREIGN}{name}"), value)
        } else {
            add(list, name, value)
        };
    }
    list
}

fn add(list: OwnedHeaders, key: &str, value: Option<&[u8]>) -> OwnedHeaders {
    list.insert(Header { key, value })
}

/// A number as the value of a header.
pub(crate) fn number(n: u32) -> Bytes {
    Bytes::from(n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers as _;

    #[test]
    fn foreign_headers_of_our_names_are_set_apart() {
        let message = Message::new("t").unwrap().header("mq-attempt", "99").header("a", "");
        let message = message.with_native(Some(Odd { nulls: vec![1], raw: None }.into_native()));
        let patch: Headers = [(control::ATTEMPT, "2")].into_iter().collect();
        let list = with_control(&message, None, &patch);
        let names: Vec<_> =
            list.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(names[0], ("mq-foreign-mq-attempt".to_owned(), Some(b"99".to_vec())));
        assert_eq!(names[1], ("a".to_owned(), None));
        assert_eq!(names[2], (control::ATTEMPT.to_owned(), Some(b"2".to_vec())));
    }
}
