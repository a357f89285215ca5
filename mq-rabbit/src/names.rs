//! The AMQP names of topics, groups and their places.

use std::time::Duration;

use lapin::types::ShortString;
use mq_core::error::{Error, Result};
use mq_core::name::{Group, SEPARATOR, Topic, TopicKind, derived, fnv1a};

use crate::error::BACKEND;

/// AMQP short strings hold 255 bytes; the rest is room for suffixes.
const MAX: usize = 240;

/// A name as AMQP carries it.
pub(crate) fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text)
        .map_err(|_| Error::config("a name or routing key is longer than the 255 bytes of AMQP").with_backend(BACKEND))
}

/// The queue a group reads. For a foreign queue: that queue.
pub(crate) fn group_queue(topic: &Topic, group: &Group) -> String {
    match topic.kind() {
        TopicKind::Queue => topic.name().to_owned(),
        _ => own_queue(topic, group),
    }
}

/// Where messages for this group alone arrive: retries and redriven ones. A foreign queue or exchange must not carry
/// them: others read it, and its control headers cannot be trusted.
pub(crate) fn return_queue(topic: &Topic, group: &Group) -> String {
    match topic.kind() {
        TopicKind::Topic => own_queue(topic, group),
        _ => derived(topic.as_str(), group.as_str(), "return", MAX),
    }
}

fn own_queue(topic: &Topic, group: &Group) -> String {
    let (topic, group) = (topic.as_str(), group.as_str());
    let full = format!("{topic}{SEPARATOR}{group}");
    if full.len() <= MAX {
        return full;
    }
    derived(topic, group, "queue", MAX)
}

/// Where a group's retries of one delay wait.
pub(crate) fn retry_queue(topic: &Topic, group: &Group, delay: Duration) -> String {
    derived(topic.as_str(), group.as_str(), &format!("r{}", millis(delay)), MAX)
}

/// A group's dead letters.
pub(crate) fn dead_letter_queue(topic: &Topic, group: &Group) -> String {
    derived(topic.as_str(), group.as_str(), "dlq", MAX)
}

/// Attempts of messages an ordered group holds for retry.
pub(crate) fn attempts_queue(topic: &Topic, group: &Group) -> String {
    derived(topic.as_str(), group.as_str(), "attempts", MAX)
}

/// Between a topic and the groups that select by headers.
pub(crate) fn headers_exchange(topic: &Topic) -> String {
    let name = topic.name();
    let full = format!("{name}{SEPARATOR}headers");
    if full.len() <= MAX { full } else { format!("{:016x}{SEPARATOR}headers", fnv1a(name.as_bytes())) }
}

/// A delay in whole milliseconds, rounded up so that nothing is early.
pub(crate) fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        let group = Group::parse("billing").unwrap();
        let topic = Topic::parse("order.events").unwrap();
        assert_eq!(group_queue(&topic, &group), "order.events--billing");
        assert_eq!(retry_queue(&topic, &group, Duration::from_micros(1500)), "order.events--billing--r2");
        let foreign = Topic::parse("queue:legacy").unwrap();
        assert_eq!(group_queue(&foreign, &group), "legacy");
        assert_eq!(return_queue(&foreign, &group), "queue:legacy--billing--return");
        let long = Topic::parse("x".repeat(249)).unwrap();
        let longer = Group::parse("y".repeat(249)).unwrap();
        for name in [group_queue(&long, &longer), dead_letter_queue(&long, &longer), headers_exchange(&long)] {
            assert!(short(&name).is_ok(), "{name}");
        }
        assert!(short(&"x".repeat(256)).is_err());
    }
}
