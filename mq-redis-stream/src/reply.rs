//! Answers of the broker taken apart, believing nothing of their shape.

use bytes::Bytes;
use redis::Value;

/// Bytes of a string of any kind.
pub(crate) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        Value::Okay => Some(Bytes::from_static(b"OK")),
        Value::Int(number) => Some(Bytes::from(number.to_string())),
        _ => None,
    }
}

/// Text of a string of any kind.
pub(crate) fn text(value: Value) -> Option<String> {
    String::from_utf8(Vec::from(bytes(value)?)).ok()
}

/// A number, also one written as text.
pub(crate) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// The items of a list; none of anything else.
pub(crate) fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        _ => Vec::new(),
    }
}

/// Names and values of a flat list.
pub(crate) fn pairs(value: Value) -> Vec<(String, Value)> {
    let mut items = items(value).into_iter();
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        if let Some(name) = text(name) {
            pairs.push((name, value));
        }
    }
    pairs
}

/// The value of a name in a flat list.
pub(crate) fn field(pairs: &[(String, Value)], name: &str) -> Option<Value> {
    pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
}

/// An entry of a stream: its id and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) fields: Vec<(Bytes, Bytes)>,
}

/// Milliseconds and a number within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(pub(crate) u64, pub(crate) u64);

impl EntryId {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (millis, number) = text.split_once('-').unwrap_or((text, "0"));
        Some(Self(millis.parse().ok()?, number.parse().ok()?))
    }

    /// The id just before this one.
    pub(crate) fn before(self) -> Self {
        match self {
            Self(0, 0) => self,
            Self(millis, 0) => Self(millis - 1, u64::MAX),
            Self(millis, number) => Self(millis, number - 1),
        }
    }
}

/// In one piece: every delivery has its id written twice, and a text that grows is moved each time.
impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Twice the digits of the largest number, and the dash.
        let mut buffer = [0; 41];
        let from = digits(&mut buffer, 41, self.1);
        let from = from.saturating_sub(1);
        if let Some(dash) = buffer.get_mut(from) {
            *dash = b'-';
        }
        let from = digits(&mut buffer, from, self.0);
        f.write_str(buffer.get(from..).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default())
    }
}

/// Writes a number so that it ends before `end`; where it begins.
fn digits(buffer: &mut [u8], end: usize, mut number: u64) -> usize {
    let mut at = end;
    loop {
        at = at.saturating_sub(1);
        if let (Some(place), Ok(digit)) = (buffer.get_mut(at), u8::try_from(number % 10)) {
            *place = b'0' + digit;
        }
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

/// Fields of an entry; a name without a value is left out.
pub(crate) fn fields(value: Value) -> Vec<(Bytes, Bytes)> {
    let mut items = items(value).into_iter();
    let mut fields = Vec::with_capacity(items.len() / 2);
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        if let (Some(name), Some(value)) = (bytes(name), bytes(value)) {
            fields.push((name, value));
        }
    }
    fields
}

/// One entry of `XRANGE` or `XREADGROUP`; `None` for what is none, or was deleted.
pub(crate) fn entry(value: Value) -> Option<Entry> {
    let mut parts = items(value).into_iter();
    let id = EntryId::parse(&bytes(parts.next()?)?)?;
    Some(Entry { id, fields: fields(parts.next()?) })
}

/// Entries of `XRANGE`.
pub(crate) fn entries(value: Value) -> Vec<Entry> {
    items(value).into_iter().filter_map(entry).collect()
}

/// What `XREADGROUP` answers: streams with their entries.
pub(crate) fn streams(value: Value) -> Vec<(Bytes, Vec<Entry>)> {
    let pair = |name: Value, list: Value| Some((bytes(name)?, entries(list)));
    match value {
        Value::Map(streams) => streams.into_iter().filter_map(|(name, list)| pair(name, list)).collect(),
        other => {
            let stream = |item: Value| {
                let mut parts = items(item).into_iter();
                pair(parts.next()?, parts.next()?)
            };
            items(other).into_iter().filter_map(stream).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_ordered() {
        assert_eq!(EntryId::parse(b"5-7"), Some(EntryId(5, 7)));
        assert_eq!(EntryId::parse(b"5"), Some(EntryId(5, 0)));
        for bad in ["", "-", "x-1", "1-x", "1-2-3", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(EntryId(5, 0).before(), EntryId(4, u64::MAX));
        assert_eq!(EntryId(5, 3).before(), EntryId(5, 2));
        assert_eq!(EntryId(0, 0).before(), EntryId(0, 0));
        assert!(EntryId(9, 0) < EntryId(10, 0));
        for id in [EntryId(0, 0), EntryId(1_795_448_392_441, 10), EntryId(u64::MAX, u64::MAX)] {
            assert_eq!(id.to_string(), format!("{}-{}", id.0, id.1));
        }
    }

    #[test]
    fn other_shapes_are_nothing() {
        assert!(streams(Value::Nil).is_empty());
        assert!(entries(Value::Int(3)).is_empty());
        assert_eq!(entry(Value::Array(vec![Value::BulkString(b"1-1".to_vec()), Value::Nil])).unwrap().fields, []);
    }
}
