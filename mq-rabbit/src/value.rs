//! AMQP's typed header values as bytes, for those who see headers as bytes.

use bytes::Bytes;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

/// Strings and byte arrays as they are, numbers and times in decimal, tables and lists as JSON, nothing as no bytes.
pub(crate) fn to_bytes(value: &AMQPValue) -> Bytes {
    match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()),
        AMQPValue::ShortString(text) => Bytes::copy_from_slice(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::Void => Bytes::new(),
        other => match to_json(other) {
            Value::String(text) => Bytes::from(text),
            json => Bytes::from(json.to_string()),
        },
    }
}

/// A whole number, whatever width the sender chose; digits in a string count too.
pub(crate) fn to_number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortShortUInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortUInt(n) => Some(i64::from(*n)),
        AMQPValue::LongInt(n) => Some(i64::from(*n)),
        AMQPValue::LongUInt(n) => Some(i64::from(*n)),
        AMQPValue::LongLongInt(n) => Some(*n),
        AMQPValue::Timestamp(n) => i64::try_from(*n).ok(),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
        _ => None,
    }
}

/// The text of a string value.
pub(crate) fn to_text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// About how many bytes a value takes on the wire, never fewer than it does.
pub(crate) fn size(value: &AMQPValue) -> usize {
    let inner = match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::ShortString(text) => text.as_str().len(),
        AMQPValue::ByteArray(bytes) => bytes.len(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(size).sum(),
        AMQPValue::FieldTable(table) => {
            table.into_iter().map(|(name, value)| name.as_str().len() + 1 + size(value)).sum()
        }
        _ => 8,
    };
    inner + 5
}

fn to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(flag) => json!(flag),
        AMQPValue::Float(number) => json!(number),
        AMQPValue::Double(number) => json!(number),
        AMQPValue::DecimalValue(decimal) => {
            json!(f64::from(decimal.value) / 10f64.powi(i32::from(decimal.scale)))
        }
        AMQPValue::FieldArray(items) => Value::Array(items.as_slice().iter().map(to_json).collect()),
        AMQPValue::FieldTable(table) => {
            Value::Object(table.into_iter().map(|(name, value)| (name.to_string(), to_json(value))).collect())
        }
        AMQPValue::Void => Value::Null,
        AMQPValue::LongString(text) => json!(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ShortString(text) => json!(text.as_str()),
        AMQPValue::ByteArray(bytes) => json!(String::from_utf8_lossy(bytes.as_slice())),
        number => to_number(number).map_or(Value::Null, |number| json!(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{FieldArray, FieldTable};

    #[test]
    fn every_type_becomes_bytes() {
        let mut table = FieldTable::default();
        table.insert("a".into(), AMQPValue::LongInt(-1));
        let cases = [
            (AMQPValue::LongString(vec![0xff, 0].into()), &[0xff, 0][..]),
            (AMQPValue::LongLongInt(42), b"42"),
            (AMQPValue::Boolean(true), b"true"),
            (AMQPValue::Timestamp(7), b"7"),
            (AMQPValue::Void, b""),
            (AMQPValue::Double(f64::NAN), b"null"),
            (AMQPValue::FieldTable(table), br#"{"a":-1}"#),
            (AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void])), b"[null]"),
        ];
        for (value, bytes) in cases {
            assert_eq!(to_bytes(&value), bytes, "{value:?}");
        }
    }
}
