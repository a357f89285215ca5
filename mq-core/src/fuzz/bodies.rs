//! Bodies as the arguments of handlers.

use std::collections::BTreeMap;

use bytes::Bytes;
use mq_conformance::hostile::{cases, texts};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::message::{Body, FromMessage, Json, Message, Text};
use crate::name::Topic;

const JSON: &[&str] = &[
    r#"{"id": "o1", "amount": 12, "lines": [{"sku": "a", "count": 1}], "note": null}"#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "1e999",
    "\"\\ud800\"",
    "-",
    "null",
    "{\"id\":\"\\u0000\"}",
    "123456789012345678901234567890",
];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    amount: u32,
    lines: Vec<BTreeMap<String, serde_json::Value>>,
    note: Option<String>,
}

fn with(body: Bytes) -> Message {
    Message::to(Topic::unnamed()).body(body)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_text(body in texts(JSON)) {
        let message = with(Bytes::from(body.clone()));
        prop_assert_eq!(&Text::from_message(&message).unwrap().0, &body);
        let _ = Json::<serde_json::Value>::from_message(&message);
        if let Err(error) = Json::<Order>::from_message(&message) {
            // It says where, and prints nothing of the body.
            prop_assert!(error.to_string().contains("column"), "{}", error);
        }
    }

    #[test]
    fn bytes(body in vec(any::<u8>(), 0..200)) {
        let message = with(Bytes::from(body.clone()));
        let _ = (Text::from_message(&message), Json::<Order>::from_message(&message));
        prop_assert_eq!(Body::from_message(&message).unwrap().0, body);
    }

    #[test]
    fn values_come_back(id in any::<String>(), amount in any::<u32>(), note in proptest::option::of(any::<String>())) {
        let order = Order { id, amount, lines: Vec::new(), note };
        let message = Message::json("t", &order).unwrap();
        prop_assert_eq!(Json::<Order>::from_message(&message).unwrap().0, order);
    }
}
