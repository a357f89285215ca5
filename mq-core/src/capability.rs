//! What a broker can do, how well, and within which limits; read at run time, demanded at start.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! features {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// A thing a broker may or may not be able to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Feature { $($(#[$doc])+ $name,)+ }

        impl Feature {
            /// Every feature, in the order of the capability matrix.
            pub const ALL: &'static [Feature] = &[$(Feature::$name,)+];

            /// The name used in the matrix and in error messages.
            pub fn name(self) -> &'static str {
                match self { $(Feature::$name => $text,)+ }
            }
        }
    };
}

features! {
    /// A send is `Ok` only when the broker has stored the message.
    ConfirmedSend = "confirmed-send",
    /// Many confirmed sends in flight at once.
    PipelinedSend = "pipelined-send",
    /// At-most-once sends that wait for no confirmation.
    UnconfirmedSend = "unconfirmed-send",
    /// Many messages in one call, one result each.
    BatchSend = "batch-send",
    /// Messages of one key keep their order.
    KeyedOrder = "keyed-order",
    /// Byte-valued headers travel with the message.
    Headers = "headers",
    /// Messages without a body (not the same as an empty body).
    Tombstones = "tombstones",
    /// Messages that become visible only after a delay.
    DelayedSend = "delayed-send",
    /// Several messages stored together or not at all.
    AtomicBatch = "atomic-batch",
    /// Consume, produce and settle as one step.
    AtomicHandoff = "atomic-handoff",
    /// Half messages with commit, rollback and check-back.
    HalfMessage = "half-message",
    /// Several consumers share the messages of a group.
    Groups = "groups",
    /// A group of its own for each consumer, gone with it.
    Broadcast = "broadcast",
    /// One consumer reads several topics.
    ManyTopics = "many-topics",
    /// Each message is acknowledged by itself, in any order.
    OutOfOrderAck = "out-of-order-ack",
    /// A message can be given back for immediate redelivery.
    Requeue = "requeue",
    /// Acknowledged at receipt: at most once.
    AutoAck = "auto-ack",
    /// Retries wait in the broker while other messages flow.
    NonBlockingRetry = "non-blocking-retry",
    /// Retries that keep the order of the key.
    KeyOrderedRetry = "key-ordered-retry",
    /// While a key waits for such a retry, the other keys of its partition go on.
    KeyIndependentRetry = "key-independent-retry",
    /// The attempt number survives crashes.
    DurableAttempts = "durable-attempts",
    /// The broker counts redeliveries by itself.
    RedeliveryCount = "redelivery-count",
    /// Hopeless messages are set aside whole, listed without being consumed, and brought back.
    DeadLetters = "dead-letters",
    /// A group may start at the oldest retained message or at a position.
    Replay = "replay",
    /// A group can be moved to a position.
    SeekPosition = "seek-position",
    /// A group can be moved to a point in time.
    SeekTime = "seek-time",
    /// How far a group is behind.
    Lag = "lag",
    /// A consumer can stop receiving for a while without losing its place.
    Pause = "pause",
    /// Partitions assigned and revoked are reported.
    RebalanceEvents = "rebalance-events",
    /// Topics and groups can be declared, verified and deleted.
    Topology = "topology",
    /// Topics can be listed.
    ListTopics = "list-topics",
    /// A message has a position that never changes, so an id can be derived from it.
    StablePosition = "stable-position",
    /// Groups can select messages by a pattern over the routing key.
    RoutingPattern = "routing-pattern",
    /// Groups can select messages by headers.
    RoutingHeaders = "routing-headers",
    /// A confirmed message survives the broker's death and restart.
    NoLossOnRestart = "no-loss-on-restart",
    /// A confirmed message survives a fail-over to another node.
    NoLossOnFailover = "no-loss-on-failover",
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who provides a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The broker itself.
    Native,
    /// The adapter, on top of what the broker has.
    Emulated,
    /// Nobody: asking for it answers [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported).
    Unsupported,
}

/// The bounds within which a feature holds. `None` means no bound is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// How late something may happen at most, by the clock named in the note.
    pub lateness: Option<Duration>,
    /// Delays are rounded up to a multiple of this.
    pub granularity: Option<Duration>,
    /// The longest delay.
    pub max_delay: Option<Duration>,
    /// The largest message in bytes: body, key and headers together.
    pub max_bytes: Option<u64>,
    /// The most duplicates one fault may cause, beside the prefetch window.
    pub duplicate_window: Option<u64>,
    /// A process of this SDK must be running for it to work.
    pub needs_process: bool,
}

/// One feature as a broker has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Who provides it.
    pub level: Level,
    /// Within which bounds.
    pub limits: Limits,
    /// What a user must know, in a sentence; for [`Level::Unsupported`] the way out.
    pub note: String,
}

/// Everything a broker can do. Features not set are [`Level::Unsupported`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    backend: String,
    features: BTreeMap<Feature, Capability>,
}

impl Capabilities {
    /// Capabilities of `backend`, with nothing supported yet.
    pub fn new(backend: impl Into<String>) -> Self {
        Self { backend: backend.into(), features: BTreeMap::new() }
    }

    /// Declares features the broker has by itself.
    #[must_use]
    pub fn native(mut self, features: impl IntoIterator<Item = Feature>) -> Self {
        for feature in features {
            self.set(feature, Level::Native, Limits::default(), "");
        }
        self
    }

    /// Declares features the adapter adds.
    #[must_use]
    pub fn emulated(mut self, features: impl IntoIterator<Item = Feature>) -> Self {
        for feature in features {
            self.set(feature, Level::Emulated, Limits::default(), "");
        }
        self
    }

    /// Declares one feature with its bounds and what a user must know about it.
    #[must_use]
    pub fn with(mut self, feature: Feature, level: Level, limits: Limits, note: impl Into<String>) -> Self {
        self.set(feature, level, limits, note);
        self
    }

    /// Declares that a feature is missing, and the way out.
    #[must_use]
    pub fn without(mut self, feature: Feature, way_out: impl Into<String>) -> Self {
        self.set(feature, Level::Unsupported, Limits::default(), way_out);
        self
    }

    /// As [`Capabilities::with`], in place: for what is learnt at connect time.
    pub fn set(&mut self, feature: Feature, level: Level, limits: Limits, note: impl Into<String>) {
        self.features.insert(feature, Capability { level, limits, note: note.into() });
    }

    /// The broker these belong to.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The feature as the broker has it, if it was declared either way.
    pub fn get(&self, feature: Feature) -> Option<&Capability> {
        self.features.get(&feature)
    }

    /// The level of a feature; not declared is unsupported.
    pub fn level(&self, feature: Feature) -> Level {
        self.get(feature).map_or(Level::Unsupported, |capability| capability.level)
    }

    /// True when the feature works, natively or emulated.
    pub fn supports(&self, feature: Feature) -> bool {
        self.level(feature) != Level::Unsupported
    }

    /// Fails with [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported), naming the first missing feature
    /// and the way out.
    pub fn require(&self, features: impl IntoIterator<Item = Feature>, backend: &'static str) -> Result<()> {
        for feature in features {
            if !self.supports(feature) {
                let hint = match self.get(feature).map(|capability| capability.note.as_str()) {
                    None | Some("") => "choose another broker; docs/matrix.md lists what each one has".to_owned(),
                    Some(note) => note.to_owned(),
                };
                return Err(Error::unsupported(feature, backend, hint));
            }
        }
        Ok(())
    }

    /// Every declared feature, in the order of the matrix.
    pub fn iter(&self) -> impl Iterator<Item = (Feature, &Capability)> {
        self.features.iter().map(|(feature, capability)| (*feature, capability))
    }
}
