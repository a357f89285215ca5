//! AMQP's typed values: of any type, nested, with the names that mean something.

use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const NAMES: &[&str] = &[
    "mq-id",
    "mq-key",
    "mq-attempt",
    "mq-due-ms",
    "mq-tombstone",
    "mq-f-",
    "mq-f-mq-id",
    "mq-rabbit-routing-key",
    "mq-dlq-reason",
    "mq-dlq-error",
    "mq-first-ts",
    "x-death",
    "x-delivery-count",
    "x-first-death-queue",
    "x-last-death-reason",
    "x-acquired-count",
    "x-opt-delivery-time",
    "CC",
    "BCC",
    "a",
    "",
    "reason",
    "queue",
    "time",
    "count",
];

pub(super) fn name() -> impl Strategy<Value = String> {
    let any_name = "\\PC{0,20}".prop_filter("AMQP's names have at most 255 bytes", |name| name.len() < 256);
    prop_oneof![4 => select(NAMES).prop_map(str::to_owned), 1 => any_name]
}

pub(super) fn short() -> impl Strategy<Value = ShortString> {
    name().prop_map(|name| ShortString::try_new(name).unwrap())
}

fn leaf() -> impl Strategy<Value = AMQPValue> {
    prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<(u8, u32)>()
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value: value as _ })),
        name().prop_map(|text| AMQPValue::LongString(text.into_bytes().into())),
        any::<u64>().prop_map(|number| AMQPValue::LongString(number.to_string().into_bytes().into())),
        vec(any::<u8>(), 0..30).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        vec(any::<u8>(), 0..30).prop_map(|bytes| AMQPValue::ByteArray(ByteArray::from(bytes))),
        short().prop_map(AMQPValue::ShortString),
        Just(AMQPValue::Void),
    ]
}

pub(super) fn value() -> impl Strategy<Value = AMQPValue> {
    leaf().prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|items| AMQPValue::FieldArray(FieldArray::from(items))),
            vec((short(), inner), 0..5).prop_map(|pairs| AMQPValue::FieldTable(collect(pairs))),
        ]
    })
}

pub(super) fn table() -> impl Strategy<Value = FieldTable> {
    vec((short(), value()), 0..10).prop_map(collect)
}

fn collect(pairs: Vec<(ShortString, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name, value);
    }
    table
}

/// As on the wire.
pub(super) fn written(table: &FieldTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in table {
        bytes.push(u8::try_from(name.as_str().len()).unwrap());
        bytes.extend(name.as_str().as_bytes());
        write(&mut bytes, value);
    }
    with_length(bytes)
}

fn with_length(bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [length.to_be_bytes().to_vec(), bytes].concat()
}

fn write(bytes: &mut Vec<u8>, value: &AMQPValue) {
    let (kind, content) = match value {
        AMQPValue::Boolean(flag) => (b't', vec![u8::from(*flag)]),
        AMQPValue::ShortShortInt(n) => (b'b', n.to_be_bytes().to_vec()),
        AMQPValue::ShortShortUInt(n) => (b'B', vec![*n]),
        AMQPValue::ShortInt(n) => (b's', n.to_be_bytes().to_vec()),
        AMQPValue::ShortUInt(n) => (b'u', n.to_be_bytes().to_vec()),
        AMQPValue::LongInt(n) => (b'I', n.to_be_bytes().to_vec()),
        AMQPValue::LongUInt(n) => (b'i', n.to_be_bytes().to_vec()),
        AMQPValue::LongLongInt(n) => (b'l', n.to_be_bytes().to_vec()),
        AMQPValue::Float(n) => (b'f', n.to_be_bytes().to_vec()),
        AMQPValue::Double(n) => (b'd', n.to_be_bytes().to_vec()),
        AMQPValue::DecimalValue(n) => (b'D', [vec![n.scale], n.value.to_be_bytes().to_vec()].concat()),
        AMQPValue::ShortString(text) => (b'S', with_length(text.as_str().as_bytes().to_vec())),
        AMQPValue::LongString(text) => (b'S', with_length(text.as_bytes().to_vec())),
        AMQPValue::ByteArray(content) => (b'x', with_length(content.as_slice().to_vec())),
        AMQPValue::Timestamp(n) => (b'T', n.to_be_bytes().to_vec()),
        AMQPValue::FieldTable(table) => (b'F', written(table)),
        AMQPValue::FieldArray(items) => {
            let mut content = Vec::new();
            items.as_slice().iter().for_each(|item| write(&mut content, item));
            (b'A', with_length(content))
        }
        AMQPValue::Void => (b'V', Vec::new()),
    };
    bytes.push(kind);
    bytes.extend(content);
}
