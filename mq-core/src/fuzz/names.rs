//! Names of topics, groups and what is derived from them.

use mq_conformance::hostile::{cases, texts};
use proptest::prelude::*;

use crate::name::{Group, Topic, derived};

const NAMES: &[&str] = &[
    "order.events",
    "queue:a b",
    "exchange:x",
    "stream:k",
    "a--b",
    "",
    ".",
    "..",
    "queue:",
    "é",
    "a/b",
    "A_1-2.x",
    "mq-x",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn topics(text in texts(NAMES)) {
        match Topic::parse(text.as_str()) {
            Ok(topic) => {
                prop_assert_eq!(topic.as_str(), text.as_str());
                prop_assert_eq!(&Topic::parse(topic.to_string()).unwrap(), &topic);
                prop_assert!(!topic.name().is_empty());
                let _ = topic.check_declarable();
            }
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error),
        }
    }

    #[test]
    fn groups(text in texts(NAMES)) {
        match Group::parse(text.as_str()) {
            Ok(group) => prop_assert_eq!(group.as_str(), text.as_str()),
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error),
        }
    }

    #[test]
    fn derived_names(topic in texts(NAMES), group in texts(NAMES), max in 60..250_usize) {
        let name = derived(&topic, &group, "r5000", max);
        prop_assert!(name.len() <= max, "{} bytes: {}", name.len(), name);
        prop_assert_eq!(derived(&topic, &group, "r5000", max), name);
    }
}
