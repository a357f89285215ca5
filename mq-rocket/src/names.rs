//! The broker's names of topics, groups and their places.
//!
//! RocketMQ knows ASCII letters, digits, `_`, `-`, `|` and `%`. A dot is written `|`, which portable names do not have:
//! `order.events` is `order|events`, and back. `%` separates its namespaces and begins its own retry topics: a name
//! never gets one.

use mq_core::error::{Error, Result};
use mq_core::name::{Group, SEPARATOR, Topic, TopicKind, derived, fnv1a};

use crate::error::BACKEND;

/// The longest topic the broker takes.
const MAX_TOPIC: usize = 127;
/// The longest group that all its clients take.
const MAX_GROUP: usize = 120;

/// The broker's name of a topic. Longer names than it takes are cut, and kept apart by a hash.
pub(crate) fn topic(topic: &Topic) -> Result<String> {
    if topic.kind() != TopicKind::Topic {
        return Err(Error::config(format!("`{topic}` names a place of another kind of broker"))
            .with_backend(BACKEND)
            .with_hint("a RocketMQ topic goes by its own name"));
    }
    Ok(encode(&fit(topic.name(), MAX_TOPIC)))
}

/// The name of a topic the broker lists; `None` for one that no portable name reaches.
pub(crate) fn portable(name: &str) -> Option<Topic> {
    Topic::parse(name.replace('|', ".")).ok()
}

/// As it is shown: what people know is the portable name.
pub(crate) fn shown(name: &str) -> String {
    name.replace('|', ".")
}

/// The broker's name of a group.
pub(crate) fn group(group: &Group) -> String {
    encode(&fit(group.as_str(), MAX_GROUP))
}

/// Where a group's retries wait and redriven messages arrive.
pub(crate) fn retry(topic: &Topic, group: &Group) -> String {
    encode(&derived(topic.name(), group.as_str(), "retry", MAX_TOPIC))
}

/// A group's dead letters.
pub(crate) fn dead_letters(topic: &Topic, group: &Group) -> String {
    encode(&derived(topic.name(), group.as_str(), "dlq", MAX_TOPIC))
}

/// The attempts of what an ordered group holds for a retry.
pub(crate) fn attempts(topic: &Topic, group: &Group) -> String {
    encode(&derived(topic.name(), group.as_str(), "attempts", MAX_TOPIC))
}

/// The group whose retries of this topic wait there.
pub(crate) fn group_of_retry(topic: &Topic, name: &str) -> Option<Group> {
    let rest = name.strip_prefix(&encode(topic.name()))?.strip_prefix(SEPARATOR)?;
    let group = rest.strip_suffix("--retry")?;
    Group::parse(group.replace('|', ".")).ok()
}

/// True for the places of groups, which no list of topics shows.
pub(crate) fn is_derived(name: &str) -> bool {
    ["--retry", "--dlq", "--attempts"].iter().any(|end| name.ends_with(end))
}

fn fit(name: &str, max: usize) -> String {
    if name.len() <= max {
        return name.to_owned();
    }
    let tail = format!("{SEPARATOR}{:016x}", fnv1a(name.as_bytes()));
    let head = name.get(..name.floor_char_boundary(max.saturating_sub(tail.len()))).unwrap_or_default();
    format!("{}{tail}", head.trim_end_matches('-'))
}

fn encode(name: &str) -> String {
    name.replace('.', "|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_come_back() {
        let dotted = Topic::parse("order.events").unwrap();
        assert_eq!(topic(&dotted).unwrap(), "order|events");
        assert_eq!(portable("order|events"), Some(dotted.clone()));
        assert_eq!(portable("%RETRY%g"), None);
        let billing = Group::parse("billing.eu").unwrap();
        assert_eq!(retry(&dotted, &billing), "order|events--billing|eu--retry");
        assert_eq!(group_of_retry(&dotted, &retry(&dotted, &billing)), Some(billing));
        assert!(topic(&Topic::parse("queue:x").unwrap()).is_err());
    }

    #[test]
    fn long_names_fit_and_stay_apart() {
        let long = |end: &str| Topic::parse(format!("{}{end}", "x".repeat(200))).unwrap();
        let (one, two) = (topic(&long("1")).unwrap(), topic(&long("2")).unwrap());
        assert!(one.len() <= MAX_TOPIC && one != two);
        let group = Group::parse("y".repeat(200)).unwrap();
        assert!(retry(&long("1"), &group).len() <= MAX_TOPIC);
        assert!(super::group(&group).len() <= MAX_GROUP);
    }
}
