//! Messages as they come: properties and bodies of strangers, and of ours.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};
use mq_conformance::hostile::cases;
use mq_core::dead_letter::DeadLetterRecord;
use mq_core::message::control::Control;
use mq_core::message::{Headers, Message, MessageId};
use mq_core::name::Topic;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::tables::{name, short, table, value};
use crate::value as values;
use crate::wire::{broker_death, decode, encode, hop};

/// What one frame takes.
const FRAME: usize = 128 * 1024;

fn properties() -> impl Strategy<Value = BasicProperties> {
    let texts = vec(option::of(short()), 9..10);
    (option::of(table()), texts, any::<(Option<u8>, Option<u8>, Option<u64>)>()).prop_map(|(table, texts, numbers)| {
        let mut properties = BasicProperties::default();
        let with: [fn(BasicProperties, ShortString) -> BasicProperties; 9] = [
            BasicProperties::with_content_type,
            BasicProperties::with_content_encoding,
            BasicProperties::with_correlation_id,
            BasicProperties::with_reply_to,
            BasicProperties::with_expiration,
            BasicProperties::with_message_id,
            BasicProperties::with_type,
            BasicProperties::with_user_id,
            BasicProperties::with_app_id,
        ];
        for (with, text) in with.into_iter().zip(texts) {
            if let Some(text) = text {
                properties = with(properties, text);
            }
        }
        let (mode, priority, timestamp) = numbers;
        properties = mode.into_iter().fold(properties, BasicProperties::with_delivery_mode);
        properties = priority.into_iter().fold(properties, BasicProperties::with_priority);
        properties = timestamp.into_iter().fold(properties, BasicProperties::with_timestamp);
        table.into_iter().fold(properties, BasicProperties::with_headers)
    })
}

fn topic(trusted: bool) -> Topic {
    Topic::parse(if trusted { "t" } else { "queue:q" }).unwrap()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn values_of_any_type(value in value()) {
        let _ = (values::to_bytes(&value), values::to_number(&value), values::to_text(&value));
        prop_assert!(values::size(&value) > 0);
    }

    #[test]
    fn of_strangers(
        properties in properties(), trusted in any::<bool>(), exchange in short(), key in short(),
        body in vec(any::<u8>(), 0..40),
    ) {
        let decoded = decode(&topic(trusted), trusted, exchange, key, properties, body.clone());
        prop_assert!(trusted || decoded.reserved.is_empty());
        prop_assert!(decoded.message.body_bytes().is_none_or(|read| *read == body));
        let _ = (Control::read(&decoded.reserved), DeadLetterRecord::from_headers(&decoded.reserved));
        let _ = broker_death(&decoded.message).map(|death| (death.at, death.queue, death.reason));
        let _ = format!("{:?}", decoded.message);
        // On to a place of its group, and on from there: what it carried stays.
        let patch: Headers = [("mq-attempt", "2")].into_iter().collect();
        let sent = hop(&decoded.message, &patch).unwrap();
        let again = decode(&topic(true), true, "".into(), "q".into(), sent, body);
        prop_assert_eq!(Control::read(&again.reserved).attempt, 2);
        prop_assert_eq!(again.message.body_bytes(), decoded.message.body_bytes());
        let third = hop(&again.message, &patch).unwrap();
        let third = decode(&topic(true), true, "".into(), "q".into(), third, Vec::new());
        prop_assert_eq!(third.message.headers(), again.message.headers(), "a second hop changes nothing");
    }

    #[test]
    fn of_ours(
        headers in vec((name(), vec(any::<u8>(), 0..40)), 0..8),
        key in option::of(vec(any::<u8>(), 0..20)),
        body in option::of(vec(any::<u8>(), 0..40)),
        id in option::of("\\PC{1,80}"),
    ) {
        let mut message = Message::new("t").unwrap();
        for (name, value) in headers {
            // Reserved names are refused by the core. One with a meaning for RabbitMQ itself travels under another name,
            // where a list can no longer be told from a header that repeats.
            let means_something = name.starts_with("x-") || name == "CC" || name == "BCC";
            let repeats = means_something && message.headers().get(&name).is_some();
            if !name.starts_with("mq-") && !repeats {
                message = message.header(name, value);
            }
        }
        let message = message
            .with_key(key.map(Into::into))
            .with_body(body.clone().map(Into::into))
            .with_id(id.map(MessageId::from));
        let properties = encode(&message).unwrap();
        let read = decode(&topic(true), true, "t".into(), "".into(), properties, body.unwrap_or_default()).message;
        prop_assert_eq!(read.key_bytes(), message.key_bytes());
        prop_assert_eq!(read.body_bytes(), message.body_bytes());
        prop_assert_eq!(read.message_id(), message.message_id());
        // A table keeps no order among different names.
        for (name, _) in message.headers().iter() {
            let sent: Vec<_> = message.headers().get_all(name).collect();
            prop_assert_eq!(read.headers().get_all(name).collect::<Vec<_>>(), sent, "{}", name);
        }
        prop_assert_eq!(read.headers().len(), message.headers().len());
    }

    #[test]
    fn never_more_than_a_frame(sizes in vec(0..60_000_usize, 1..4), error in 0..2_000_usize) {
        let mut properties = BasicProperties::default();
        let mut table = lapin::types::FieldTable::default();
        for (number, size) in sizes.iter().enumerate() {
            let name = ShortString::try_new(number.to_string()).unwrap();
            table.insert(name, AMQPValue::LongString(vec![b'x'; *size].into()));
        }
        properties = properties.with_headers(table);
        let decoded = decode(&topic(false), false, "".into(), "q".into(), properties, Vec::new());
        let patch: Headers = [("mq-dlq-error", "e".repeat(error))].into_iter().collect();
        if hop(&decoded.message, &patch).is_ok() {
            prop_assert!(sizes.iter().sum::<usize>() + error < FRAME);
        }
    }
}
