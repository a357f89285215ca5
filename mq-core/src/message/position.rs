//! Where a message stands in its broker.

use std::fmt;

use bytestring::ByteString;

/// Where a message stands in its broker. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Position {
    /// The broker has no position that lasts (AMQP queues).
    #[default]
    None,
    /// A place in a log: never changes, so an id can be derived from it.
    Log {
        /// The partition, counted from 0.
        partition: u32,
        /// The offset within it.
        offset: i64,
    },
    /// An entry with a name of its own in a partition: never changes.
    Entry {
        /// The partition, counted from 0.
        partition: u32,
        /// The broker's own entry id.
        id: ByteString,
    },
}

impl Position {
    /// The partition, where the broker has any.
    pub fn partition(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Log { partition, .. } | Self::Entry { partition, .. } => Some(*partition),
        }
    }

    /// True when the position never changes, so that an id can be derived from it.
    pub fn is_stable(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// `partition:offset`, `partition:entry`, or `-`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Log { partition, offset } => write!(f, "{partition}:{offset}"),
            Self::Entry { partition, id } => write!(f, "{partition}:{id}"),
        }
    }
}
