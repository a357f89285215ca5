//! Names of topics and groups, and the names derived from them.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;

use crate::error::{Error, Result};

/// Between the parts of a derived name; therefore refused in names the SDK declares.
pub const SEPARATOR: &str = "--";
/// The longest portable name, in bytes. Adapters shorten derived names further where their broker needs it.
pub const MAX_NAME: usize = 249;

/// Where a name points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TopicKind {
    /// A topic: the same name means the same thing on every broker.
    Topic,
    /// `queue:NAME`: an existing AMQP queue of another program.
    Queue,
    /// `exchange:NAME`: an existing AMQP exchange of another program.
    Exchange,
    /// `stream:KEY`: an existing plain Redis stream of another program.
    Stream,
}

/// A place messages are sent to and read from. Cheap to clone.
///
/// `order.events` is a topic; `queue:NAME`, `exchange:NAME` and `stream:KEY` name what another program owns, by the
/// broker's own name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    kind: TopicKind,
    text: ByteString,
}

impl Topic {
    /// Parses a name as written in the API, in URLs and on the command line.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::error::ErrorKind::Config) when the name is empty, too long, or has characters
    /// other than ASCII letters, digits, `.`, `_` and `-`. Names behind a scheme are the broker's own: there only
    /// control characters are refused.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self> {
        let text = text.into();
        let kind = match text.split_once(':') {
            None => TopicKind::Topic,
            Some(("queue", _)) => TopicKind::Queue,
            Some(("exchange", _)) => TopicKind::Exchange,
            Some(("stream", _)) => TopicKind::Stream,
            Some((scheme, _)) => {
                return Err(Error::config(format!("unknown scheme `{}:` in a topic name", printable(scheme)))
                    .with_hint("use NAME, queue:NAME, exchange:NAME or stream:KEY"));
            }
        };
        let topic = Self { kind, text };
        match kind {
            TopicKind::Topic => check_portable("topic", topic.name())?,
            _ => check_foreign(topic.name())?,
        }
        Ok(topic)
    }

    /// For placeholders that reach no broker.
    pub(crate) fn unnamed() -> Self {
        Self { kind: TopicKind::Topic, text: ByteString::from_static("-") }
    }

    /// What kind of place it is.
    pub fn kind(&self) -> TopicKind {
        self.kind
    }

    /// The broker's name, without the scheme.
    pub fn name(&self) -> &str {
        match self.kind {
            TopicKind::Topic => &self.text,
            _ => self.text.split_once(':').map_or("", |(_, name)| name),
        }
    }

    /// The name as it was written, with the scheme.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text, for keeping without copying.
    pub fn text(&self) -> &ByteString {
        &self.text
    }

    /// True when another program owns it: the SDK never declares it, and its `mq-` headers are plain data.
    pub fn is_foreign(&self) -> bool {
        self.kind != TopicKind::Topic
    }

    /// Refuses names the SDK must not declare: foreign ones, and those with the separator of derived names.
    pub fn check_declarable(&self) -> Result<()> {
        if self.is_foreign() {
            return Err(Error::config(format!("`{self}` belongs to another program and is never declared by mq"))
                .with_hint("declare it with the broker's own tools"));
        }
        check_no_separator("topic", self.name())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.text)
    }
}

impl FromStr for Topic {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Topic {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Topic {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<&Topic> for Topic {
    type Error = Error;
    fn try_from(topic: &Topic) -> Result<Self> {
        Ok(topic.clone())
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// The name of a group of consumers that share the messages of a topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(ByteString);

impl Group {
    /// Parses a group name: ASCII letters, digits, `.`, `_`, `-`, without `--`.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self> {
        let text = text.into();
        check_portable("group", &text)?;
        check_no_separator("group", &text)?;
        Ok(Self(text))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.0)
    }
}

impl FromStr for Group {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Group {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Group {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<&Group> for Group {
    type Error = Error;
    fn try_from(group: &Group) -> Result<Self> {
        Ok(group.clone())
    }
}

/// `<topic>--<group>--<suffix>`, shortened by a hash when longer than `max` bytes.
///
/// The hash (64-bit FNV-1a of the full name) keeps shortened names apart and the same in every process and version.
pub fn derived(topic: &str, group: &str, suffix: &str, max: usize) -> String {
    let full = format!("{topic}{SEPARATOR}{group}{SEPARATOR}{suffix}");
    if full.len() <= max {
        return full;
    }
    let tail = format!("{SEPARATOR}{:016x}{SEPARATOR}{suffix}", fnv1a(full.as_bytes()));
    let keep = max.saturating_sub(tail.len());
    // Foreign names may have characters of several bytes.
    let head = full.get(..full.floor_char_boundary(keep)).unwrap_or("");
    format!("{}{tail}", head.trim_end_matches('-'))
}

/// 64-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable across processes, unlike the standard hasher.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn check_portable(what: &'static str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "is longer than 249 bytes"
    } else if name == "." || name == ".." {
        "is `.` or `..`"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        "has a character that is not an ASCII letter, digit, `.`, `_` or `-`"
    } else {
        return Ok(());
    };
    Err(Error::config(format!("the {what} name `{}` {problem}", printable(name))))
}

fn check_no_separator(what: &'static str, name: &str) -> Result<()> {
    if name.contains(SEPARATOR) {
        return Err(Error::config(format!(
            "the {what} name `{}` contains `{SEPARATOR}`, which separates the parts of derived names",
            printable(name)
        )));
    }
    Ok(())
}

fn check_foreign(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(Error::config(format!(
            "the name `{}` is empty, longer than 255 bytes or has control characters",
            printable(name)
        )));
    }
    Ok(())
}

/// Cuts and escapes untrusted text for an error message.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_topics_and_foreign_places() {
        assert_eq!(Topic::parse("order.events").unwrap().kind(), TopicKind::Topic);
        let queue = Topic::parse("queue:legacy orders").unwrap();
        assert_eq!((queue.kind(), queue.name()), (TopicKind::Queue, "legacy orders"));
        for bad in ["", ".", "a b", "x:y", "queue:", "queue:\u{7}", "ä", &"x".repeat(250)] {
            assert!(Topic::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn separator_is_for_derived_names_only() {
        assert!(Topic::parse("a--b").unwrap().check_declarable().is_err());
        assert!(Group::parse("a--b").is_err());
    }

    #[test]
    fn long_derived_names_are_hashed_and_stay_apart() {
        let long = "x".repeat(120);
        let one = derived(&long, "g1", "dlq", 100);
        let two = derived(&long, "g2", "dlq", 100);
        assert!(one.len() <= 100 && one.ends_with("--dlq") && one != two);
        assert_eq!(derived("t", "g", "dlq", 100), "t--g--dlq");
    }
}
