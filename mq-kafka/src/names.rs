//! The topics that belong to a group, and those of delayed messages.

use std::time::Duration;

use mq_core::name::{Group, Topic, derived};

/// Kafka's own limit.
const MAX_TOPIC: usize = 249;
/// The group of the processes that move delayed messages.
pub(crate) const SCHEDULER_GROUP: &str = "mq-scheduler";

/// Kafka's name of a group: of this topic only. Kafka's own groups span topics; then a rebalance, a seek or the end of
/// one subscription would touch every other of that name.
pub(crate) fn group_id(topic: &Topic, group: &Group) -> String {
    format!("{}--{group}", topic.name())
}

/// Where retries of `delay` wait: one topic for each delay, so that what came first is due first.
/// A delay of zero is the group's own inbox, for redriven messages.
pub(crate) fn retry(topic: &Topic, group: &Group, delay: Duration) -> String {
    derived(topic.name(), group.as_str(), &format!("r{}", delay.as_millis()), MAX_TOPIC)
}

/// Where redriven messages come in.
pub(crate) fn inbox(topic: &Topic, group: &Group) -> String {
    retry(topic, group, Duration::ZERO)
}

/// Where dead letters go.
pub(crate) fn dead_letters(topic: &Topic, group: &Group) -> String {
    derived(topic.name(), group.as_str(), "dlq", MAX_TOPIC)
}

/// True when `name` was derived from `topic` for any group.
pub(crate) fn is_derived_from(name: &str, topic: &Topic) -> bool {
    name.strip_prefix(topic.name()).is_some_and(|rest| rest.starts_with("--"))
}

/// True when `name` was derived from `topic` for `group` (hashed names are not recognised).
pub(crate) fn belongs_to(name: &str, topic: &Topic, group: &Group) -> bool {
    name.strip_prefix(topic.name())
        .and_then(|rest| rest.strip_prefix("--"))
        .and_then(|rest| rest.strip_prefix(group.as_str()))
        .is_some_and(|rest| rest.starts_with("--"))
}

/// The group of `topic` that Kafka knows as `id`.
pub(crate) fn group_of(id: &str, topic: &Topic) -> Option<Group> {
    let name = id.strip_prefix(topic.name())?.strip_prefix("--")?;
    Group::parse(name.to_owned()).ok()
}

/// The delay of a retry topic, from its name.
pub(crate) fn retry_delay(name: &str) -> Option<Duration> {
    let (_, suffix) = name.rsplit_once("--")?;
    suffix.strip_prefix('r')?.parse().ok().map(Duration::from_millis)
}

/// Delays, in milliseconds, after which a waiting message is looked at again. A message waits in the largest that is
/// not longer than what is left; the first is for what is left below the second.
pub(crate) const DELAY_TIERS: [u64; 10] =
    [0, 200, 1_000, 5_000, 30_000, 120_000, 600_000, 3_600_000, 21_600_000, 86_400_000];

/// The topic of a delay tier.
pub(crate) fn delay_tier(tier: u64) -> String {
    format!("mq--delay--{tier}")
}

/// Where delayed messages go that name no topic.
pub(crate) fn lost() -> String {
    "mq--delay--lost".to_owned()
}

/// The tier for what is left.
pub(crate) fn tier_for(left: Duration) -> u64 {
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    DELAY_TIERS.iter().copied().rev().find(|tier| *tier <= left).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        let (topic, group) = (Topic::parse("order.events").unwrap(), Group::parse("billing").unwrap());
        let tier = retry(&topic, &group, Duration::from_secs(5));
        assert_eq!(tier, "order.events--billing--r5000");
        assert_eq!(retry_delay(&tier), Some(Duration::from_secs(5)));
        assert_eq!(group_of(&group_id(&topic, &group), &topic), Some(group.clone()));
        assert_eq!(group_of(&tier, &topic), None);
        assert!(belongs_to(&tier, &topic, &group) && !belongs_to(&tier, &topic, &Group::parse("bill").unwrap()));
        assert!(!is_derived_from("order.events2--x--dlq", &topic));
    }

    #[test]
    fn tiers_never_overshoot() {
        assert_eq!(tier_for(Duration::from_millis(199)), 0);
        assert_eq!(tier_for(Duration::from_millis(4_999)), 1_000);
        assert_eq!(tier_for(Duration::from_secs(1_000_000)), 86_400_000);
    }
}
