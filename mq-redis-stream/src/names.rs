//! The keys of topics and groups.
//!
//! Everything of one partition shares a hash tag, so that one script may touch all of it.

use mq_core::name::{Group, Topic, TopicKind};

/// The keys of one partition of a topic, or of a foreign stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    base: String,
    /// The stream of its messages.
    pub(crate) stream: String,
}

impl Keys {
    pub(crate) fn of(prefix: &str, topic: &Topic, partition: u32) -> Self {
        match topic.kind() {
            TopicKind::Stream => {
                let key = topic.name();
                // A key with a tag of its own keeps it: the first one counts.
                let tagged = key
                    .split_once('{')
                    .and_then(|(_, rest)| rest.split_once('}'))
                    .is_some_and(|(tag, _)| !tag.is_empty());
                let base = if tagged { format!("{key}:{prefix}") } else { format!("{{{key}}}:{prefix}") };
                Self { base, stream: key.to_owned() }
            }
            _ => {
                let base = format!("{{{prefix}:{}:{partition}}}", topic.name());
                Self { stream: format!("{base}:s"), base }
            }
        }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.base)
    }

    fn own(&self, suffix: &str, group: &str) -> String {
        format!("{}:{suffix}:{group}", self.base)
    }

    /// Messages not yet due, by time.
    pub(crate) fn delayed(&self) -> String {
        self.key("d")
    }

    /// What they hold.
    pub(crate) fn delayed_bodies(&self) -> String {
        self.key("dh")
    }

    /// Numbers them.
    pub(crate) fn delayed_counter(&self) -> String {
        self.key("dn")
    }

    /// Messages for this group alone.
    pub(crate) fn inbox(&self, group: &str) -> String {
        self.own("r", group)
    }

    /// Ids of messages that wait for their time, of the stream itself or of the inbox.
    pub(crate) fn waiting(&self, group: &str, inbox: bool) -> String {
        self.own(if inbox { "rw" } else { "w" }, group)
    }

    /// Attempts recorded, by id.
    pub(crate) fn attempts(&self, group: &str, inbox: bool) -> String {
        self.own(if inbox { "ra" } else { "a" }, group)
    }

    /// Members of the group, by the end of their session.
    pub(crate) fn members(&self, group: &str) -> String {
        self.own("m", group)
    }

    /// The member that reads this partition of an ordered group.
    pub(crate) fn owner(&self, group: &str) -> String {
        self.own("o", group)
    }

    pub(crate) fn dead_letters(&self, group: &str) -> String {
        self.own("dlq", group)
    }

    /// All keys a group has here beside the stream's own group.
    pub(crate) fn of_group(&self, group: &Group) -> Vec<String> {
        let group = group.as_str();
        vec![
            self.inbox(group),
            self.waiting(group, false),
            self.waiting(group, true),
            self.attempts(group, false),
            self.attempts(group, true),
            self.members(group),
            self.owner(group),
            self.dead_letters(group),
        ]
    }

    /// All keys of the partition itself.
    pub(crate) fn own_keys(&self) -> Vec<String> {
        vec![self.stream.clone(), self.delayed(), self.delayed_bodies(), self.delayed_counter()]
    }
}

/// What is known of a topic. It shares its tag with all other lists: one script declares a topic in both.
pub(crate) fn topic_key(prefix: &str, topic: &Topic) -> String {
    format!("{{{prefix}}}:topic:{}", topic.as_str())
}

/// The groups of a topic.
pub(crate) fn groups_key(prefix: &str, topic: &Topic) -> String {
    format!("{{{prefix}}}:groups:{}", topic.as_str())
}

/// All topics.
pub(crate) fn topics_key(prefix: &str) -> String {
    format!("{{{prefix}}}:topics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_a_tag_and_stay_apart() {
        let topic = Topic::parse("order.events").unwrap();
        let keys = Keys::of("mq", &topic, 3);
        assert_eq!(keys.stream, "{mq:order.events:3}:s");
        assert_eq!(keys.dead_letters("g"), "{mq:order.events:3}:dlq:g");
        let mut all = keys.of_group(&Group::parse("g").unwrap());
        all.extend(keys.own_keys());
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|key| key.starts_with("{mq:order.events:3}:")), "{all:?}");
    }

    #[test]
    fn foreign_keys_stay_as_they_are() {
        let keys = Keys::of("mq", &Topic::parse("stream:legacy orders").unwrap(), 0);
        assert_eq!((keys.stream.as_str(), keys.owner("g").as_str()), ("legacy orders", "{legacy orders}:mq:o:g"));
        let tagged = Keys::of("mq", &Topic::parse("stream:a{b}c").unwrap(), 0);
        assert_eq!((tagged.stream.as_str(), tagged.delayed().as_str()), ("a{b}c", "a{b}c:mq:d"));
    }
}
