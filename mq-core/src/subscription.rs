//! What a consumer reads, as which group, from where.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::message::Position;
use crate::name::{Group, Topic};

/// Where a new group starts. Groups that exist go on where they stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// With what is sent since the group was declared; on a log (Kafka) with the oldest retained message.
    #[default]
    SinceDeclared,
    /// With the oldest retained message. Needs the capability `Replay`.
    Earliest,
    /// Behind the newest message.
    Latest,
    /// With the first message at or after this time. Needs the capability `SeekTime`.
    Time(SystemTime),
    /// At this position. Needs the capability `SeekPosition`.
    Position(Position),
}

/// How the consumers of a group share its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum GroupMode {
    /// Any consumer may get any message.
    #[default]
    Shared,
    /// Messages of one key go to one consumer at a time, in order.
    Ordered,
}

/// How messages of a topic are chosen for this group, where the broker can (RabbitMQ).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// Messages whose routing key matches, in the broker's syntax (`order.*.eu`, `order.#`).
    RoutingPattern(String),
    /// Messages that have these header values; all of them, or any.
    Headers {
        /// Names and values.
        pairs: Vec<(String, String)>,
        /// True when all must match.
        all: bool,
    },
}

/// What a consumer reads.
#[derive(Debug, Clone)]
pub struct Subscription {
    topics: Vec<Topic>,
    group: Option<Group>,
    prefetch: Option<usize>,
    start: StartFrom,
    mode: GroupMode,
    selector: Option<Selector>,
    problem: Option<String>,
}

impl Subscription {
    /// `topic`, read as `group`. A bad name is reported when the consumer is opened.
    pub fn new<T, G>(topic: T, group: G) -> Self
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
        G: TryInto<Group>,
        Error: From<G::Error>,
    {
        let mut subscription = Self::empty();
        match group.try_into() {
            Ok(group) => subscription.group = Some(group),
            Err(error) => subscription.note(&Error::from(error)),
        }
        subscription.topic(topic)
    }

    /// `topic`, read as a group of this consumer's own that ends with it: every such consumer gets every message sent
    /// while it is there.
    pub fn broadcast<T>(topic: T) -> Self
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Self::empty().topic(topic)
    }

    fn empty() -> Self {
        Self {
            topics: Vec::new(),
            group: None,
            prefetch: None,
            start: StartFrom::default(),
            mode: GroupMode::default(),
            selector: None,
            problem: None,
        }
    }

    /// Reads one more topic.
    #[must_use]
    pub fn topic<T>(mut self, topic: T) -> Self
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        match topic.try_into() {
            Ok(topic) => self.topics.push(topic),
            Err(error) => self.note(&Error::from(error)),
        }
        self
    }

    /// The most messages delivered and not yet settled. Default: 10 for a consumer, max(10, 2 × concurrency) for a
    /// worker.
    #[must_use]
    pub fn prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = Some(prefetch.max(1));
        self
    }

    /// Where a new group starts.
    #[must_use]
    pub fn start(mut self, start: StartFrom) -> Self {
        self.start = start;
        self
    }

    /// How the group shares its messages. Fixed when the group is created.
    #[must_use]
    pub fn mode(mut self, mode: GroupMode) -> Self {
        self.mode = mode;
        self
    }

    /// Chooses messages, where the broker can.
    #[must_use]
    pub fn select(mut self, selector: Selector) -> Self {
        self.selector = Some(selector);
        self
    }

    fn note(&mut self, error: &Error) {
        self.problem.get_or_insert_with(|| error.to_string());
    }

    /// Reports what was wrong with the names given.
    pub fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => Err(Error::config(problem.clone()).with_operation("subscribe")),
            None if self.topics.is_empty() => Err(Error::config("a subscription needs a topic")),
            None => Ok(()),
        }
    }

    /// The topics, in the order given.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The group; `None` for a broadcast subscription.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// The prefetch asked for, or `default`.
    pub fn prefetch_or(&self, default: usize) -> usize {
        self.prefetch.unwrap_or(default)
    }

    /// Where a new group starts.
    pub fn start_from(&self) -> &StartFrom {
        &self.start
    }

    /// How the group shares its messages.
    pub fn group_mode(&self) -> GroupMode {
        self.mode
    }

    /// The selector, if any.
    pub fn selector(&self) -> Option<&Selector> {
        self.selector.as_ref()
    }
}
