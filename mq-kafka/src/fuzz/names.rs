//! Names of topics and groups as other programs may have made them.

use std::time::Duration;

use mq_conformance::hostile::{cases, texts};
use mq_core::name::{Group, Topic};
use proptest::prelude::*;

use crate::names;

const NAMES: &[&str] = &[
    "order.events--billing--r5000",
    "order.events--billing--dlq",
    "order.events",
    "mq--delay--0",
    "--r",
    "--",
    "a--r18446744073709551616",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn of_strangers(name in texts(NAMES)) {
        let topic = Topic::parse("order.events").unwrap();
        let group = Group::parse("billing").unwrap();
        let _ = (names::retry_delay(&name), names::group_of(&name, &topic), names::is_derived_from(&name, &topic));
        let _ = names::belongs_to(&name, &topic, &group);
    }

    #[test]
    fn of_ours(topic in "[a-zA-Z0-9._]{1,249}", group in "[a-zA-Z0-9._]{1,249}", delay in any::<u32>()) {
        let (Ok(topic), Ok(group)) = (Topic::parse(topic), Group::parse(group)) else { return Ok(()) };
        let delay = Duration::from_millis(delay.into());
        let retry = names::retry(&topic, &group, delay);
        for name in [&retry, &names::inbox(&topic, &group), &names::dead_letters(&topic, &group)] {
            prop_assert!(name.len() <= 249, "{}", name);
        }
        prop_assert_eq!(names::retry_delay(&retry), Some(delay));
        prop_assert!(names::tier_for(delay) <= u64::try_from(delay.as_millis()).unwrap());
    }
}
