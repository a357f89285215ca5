//! Entries of streams and answers of servers, against anything they could be. `MQ_FUZZ_CASES` is how many inputs each of
//! these tests tries.

use bytes::Bytes;
use mq_conformance::hostile::cases;
use mq_core::message::{Control, Headers, Message};
use mq_core::name::Topic;
use proptest::collection::vec;
use proptest::prelude::*;
use redis::{Arg, Cmd, Value};

use crate::reply::{self, Entry, EntryId};
use crate::state::INBOX;
use crate::wire::{Place, Told, attempt_record, count, decode, encode, incoming, read_attempts};

/// Names that mean something, and any others.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let known =
        ["body", "data", "payload", "mq-id", "mq-key", "mq-record", "mq-tombstone", "mq-first-ts", "mq-attempt"];
    prop_oneof![
        proptest::sample::select(known.to_vec()).prop_map(|name| name.as_bytes().to_vec()),
        vec(any::<u8>(), 0..12)
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), "[0-9]{0,24}".prop_map(String::into_bytes)]
}

fn fields() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    vec((name(), value()).prop_map(|(name, value)| (Bytes::from(name), Bytes::from(value))), 0..12)
}

fn answer() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<i64>().prop_map(Value::Int),
        vec(any::<u8>(), 0..20).prop_map(Value::BulkString),
        "[0-9]{1,20}-[0-9]{0,20}".prop_map(|id| Value::BulkString(id.into_bytes())),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_entry_is_a_message(fields in fields(), attempts in value(), inbox: bool, foreign: bool, millis: u64, number in 0..INBOX) {
        let topic = Topic::parse(if foreign { "stream:x" } else { "x" }).unwrap();
        let place = Place { topic: &topic, partition: 0, inbox };
        let entry = Entry { id: EntryId(millis, number), fields };
        let told = Told { epoch: 1, lane: 0, deliveries: 1, attempts: Bytes::from(attempts), group: "g" };
        let incoming = incoming(place, entry, &told);
        prop_assert!(incoming.control.attempt >= 1);
        prop_assert_eq!((incoming.token.major, incoming.token.minor & !INBOX), (millis, number));
    }

    #[test]
    fn what_is_written_is_read(
        body in proptest::option::of(vec(any::<u8>(), 0..60)),
        key in proptest::option::of(vec(any::<u8>(), 0..20)),
        headers in vec(("[a-z]{1,8}|body|data|payload", vec(any::<u8>(), 0..20)), 0..6),
    ) {
        let topic = Topic::parse("x").unwrap();
        let mut all = Headers::new();
        for (name, value) in headers {
            all.append(name, value);
        }
        let message = Message::to(topic.clone())
            .with_body(body.map(Bytes::from))
            .with_key(key.map(Bytes::from))
            .with_headers(all)
            .id("an-id");
        let mut command = Cmd::new();
        encode(&message, &mut command).unwrap();
        let words: Vec<Bytes> = command.args_iter().map(|word| match word {
            Arg::Simple(bytes) => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        }).collect();
        prop_assert_eq!(words.len(), 2 * count(&message));
        let fields = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let entry = Entry { id: EntryId(1, 0), fields };
        let (read, _) = decode(Place { topic: &topic, partition: 0, inbox: false }, entry);
        prop_assert_eq!(read.body_bytes(), message.body_bytes());
        prop_assert_eq!(read.key_bytes(), message.key_bytes());
        prop_assert_eq!(read.message_id(), message.message_id());
        let pairs = |message: &Message| {
            message.headers().iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect::<Vec<_>>()
        };
        prop_assert_eq!(pairs(&read), pairs(&message));
    }

    #[test]
    fn any_answer_is_taken_apart(answer in answer()) {
        drop(reply::streams(answer.clone()));
        drop(reply::entries(answer.clone()));
        drop(reply::pairs(answer));
    }

    #[test]
    fn attempts_are_read_back(attempt in 1u32.., record in value()) {
        let mut control = Control::default();
        prop_assert!(read_attempts(attempt_record(attempt, None, None).as_bytes(), &mut control));
        prop_assert_eq!(control.attempt, attempt);
        let _ = read_attempts(&record, &mut control);
        prop_assert!(control.attempt >= 1);
    }
}
