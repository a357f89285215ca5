//! Arguments and lines of input as anybody may write them. `MQ_FUZZ_CASES` is how many inputs each of these tests tries.

use mq::Topic;
use mq_conformance::hostile::{cases, texts};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::input;
use crate::record::Record;

const ARGUMENTS: &[&str] = &[
    "1s,5s,30s",
    "500ms",
    "18446744073709551615s",
    "name: value",
    "a=b=c",
    "1:5",
    "1700000000000-0",
    "4294967295:9223372036854775807",
    "earliest",
    "2026-01-02T03:04:05Z",
    "1700000000000",
    "-1h",
];

const LINES: &[&str] = &[
    r#"{"key":"k","headers":{"a":"b","c":["d",{"base64":"AA=="}]},"body":"x","id":"i"}"#,
    r#"{"key_base64":"gIE=","body_base64":"/w==","delay":"5s","routing_key":"r"}"#,
    r#"{"body":null,"key":null,"headers":{}}"#,
    r#"{"body":{"a":[1,2.5,true]},"timestamp_ms":18446744073709551615}"#,
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn arguments(text in texts(ARGUMENTS)) {
        let _ = (duration::duration(&text), duration::delays(&text), header::header(&text));
        let _ = (position::position(&text), start::start(&text), start::seek(&text));
    }

    #[test]
    fn lines(text in texts(LINES)) {
        let topic = Topic::parse("t").unwrap();
        if let Ok(message) = input::message(&topic, text.as_bytes()) {
            // What can be read can be printed, and is then read as the same.
            let printed = serde_json::to_vec(&Record::new(&message, message.message_id())).unwrap();
            let again = input::message(&topic, &printed).map_err(TestCaseError::fail)?;
            prop_assert_eq!(again.body_bytes(), message.body_bytes());
            prop_assert_eq!(again.key_bytes(), message.key_bytes());
            prop_assert_eq!(again.headers().iter().count(), message.headers().iter().count());
        }
    }

    #[test]
    fn lines_of_bytes(bytes in vec(any::<u8>(), 0..60)) {
        let _ = input::message(&Topic::parse("t").unwrap(), &bytes);
    }
}
