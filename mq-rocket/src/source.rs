//! A topic a consumer takes messages from.

use std::sync::Arc;

use mq_core::driver::{Incoming, Origin, Token};
use mq_core::message::{Control, Position};
use mq_core::name::{Group, Topic};

use crate::names;
use crate::route::Node;
use crate::stored::Stored;
use crate::wire;

/// One of a group's topics: the one subscribed to, or the group's own for what comes back to it.
#[derive(Debug)]
pub(crate) struct Source {
    /// The topic its messages belong to.
    pub(crate) topic: Topic,
    /// Where they are taken from.
    pub(crate) from: String,
    /// The group's own place: its control headers are true.
    pub(crate) trusted: bool,
    /// Where retries go.
    pub(crate) retry: String,
    /// Where dead letters go.
    pub(crate) dead_letters: String,
    /// Where attempts are recorded, in ordered groups.
    pub(crate) attempts: String,
    pub(crate) group: Group,
}

impl Source {
    /// What a group takes messages of `topic` from.
    pub(crate) fn of_group(topic: &Topic, group: &Group) -> mq_core::error::Result<[Self; 2]> {
        let source = |from: String, trusted| Self {
            topic: topic.clone(),
            from,
            trusted,
            retry: names::retry(topic, group),
            dead_letters: names::dead_letters(topic, group),
            attempts: names::attempts(topic, group),
            group: group.clone(),
        };
        Ok([source(names::topic(topic)?, false), source(names::retry(topic, group), true)])
    }

    /// A message as the core sees it; the token's number is the session's to give.
    pub(crate) fn incoming(&self, lane: u32, node: &Arc<Node>, stored: Stored, redeliveries: u32) -> Incoming {
        let position = Position::Log { partition: node.partition(stored.queue), offset: stored.offset };
        let decoded = wire::decode(&self.topic, stored);
        let control = if self.trusted { decoded.control() } else { Control::default() };
        let origin = match (self.trusted, control.redrives) {
            (false, _) => Origin::Topic,
            (true, 1..) if control.attempt == 1 => Origin::Redrive,
            (true, _) => Origin::Retry,
        };
        Incoming {
            token: Token { epoch: 0, lane, major: 0, minor: 0 },
            message: decoded.message,
            position,
            control,
            redeliveries,
            redelivered: redeliveries > 0,
            origin,
        }
    }
}
