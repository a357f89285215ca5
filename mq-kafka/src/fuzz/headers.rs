//! Headers of records, from strangers and through our own topics. (Names that are not UTF-8 cannot be made here: the
//! suite sends them through a real broker.)

use mq_conformance::hostile::cases;
use mq_core::message::{Headers, Message, MessageId, control};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rdkafka::message::{Header, OwnedHeaders};

use crate::decode::headers_of;
use crate::encode::{plain, with_control};

const NAMES: &[&str] = &[
    "mq-id",
    "mq-attempt",
    "mq-due-ms",
    "mq-first-ts",
    "mq-group",
    "mq-origin",
    "mq-foreign-",
    "mq-foreign-mq-id",
    "mq-foreign-mq-foreign-x",
    "mq-",
    "a",
    "",
    "traceparent",
    "mq-kafka-look-ms",
];

fn name() -> impl Strategy<Value = String> {
    // Without NUL: librdkafka's names end there, and the wire has none either.
    prop_oneof![3 => select(NAMES).prop_map(str::to_owned), 1 => "[^\u{0}]{0,20}"]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let number = any::<u64>().prop_map(|number| number.to_string().into_bytes());
    prop_oneof![vec(any::<u8>(), 0..40), number, Just(Vec::new()), Just(vec![b'x'; 300])]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn from_strangers(list in vec((name(), option::of(value())), 0..12), owned in any::<bool>()) {
        let headers = list.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
            headers.insert(Header { key: name, value: value.as_deref() })
        });
        let (shown, reserved, id) = headers_of(headers.as_borrowed(), owned);
        let _ = control::Control::read(&reserved);
        prop_assert!(owned || reserved.is_empty());
        // Nothing is lost: each header is shown, reserved, or the id.
        prop_assert!(shown.len() + reserved.len() + list.iter().filter(|(name, _)| name == "mq-id").count() >= list.len());
        prop_assert!(id.is_none_or(|id| (1..=256).contains(&id.as_str().len())));
    }

    #[test]
    fn through_our_topics(
        list in vec((name(), value()), 0..12),
        id in option::of("[^\u{0}]{1,40}"),
        attempt in 1..u32::MAX,
    ) {
        let headers: Headers = list.iter().cloned().collect();
        let headers: Headers = headers.iter().filter(|(name, _)| **name != *"mq-id").map(|(n, v)| (n.clone(), v.clone())).collect();
        let message = Message::new("t").unwrap().with_headers(headers.clone());
        let message = message.with_id(id.clone().map(MessageId::from));
        let patch: Headers = [(control::ATTEMPT, attempt.to_string())].into_iter().collect();
        let wire = with_control(&message, message.message_id(), &patch);
        let (shown, reserved, read) = headers_of(wire.as_borrowed(), true);
        prop_assert_eq!(&shown, &headers);
        prop_assert_eq!(control::Control::read(&reserved).attempt, attempt);
        prop_assert_eq!(read.as_ref().map(MessageId::as_str), id.as_deref());
        // And as a user's topic shows them.
        if let Some(wire) = plain(&message) {
            let (shown, reserved, read) = headers_of(wire.as_borrowed(), false);
            prop_assert_eq!(&shown, &headers);
            prop_assert!(reserved.is_empty());
            prop_assert_eq!(read.as_ref().map(MessageId::as_str), id.as_deref());
        }
    }
}
