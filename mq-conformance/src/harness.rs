//! What the suite needs to know of an adapter: how to connect, and how to speak to its broker without the SDK.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{BrokerDriver, TopicSpec};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::Topic;

use crate::faults::Faults;

/// An adapter with a running broker, as the suite sees it.
///
/// ```no_run
/// use std::process::ExitCode;
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use mq_conformance::Harness;
/// use mq_core::driver::BrokerDriver;
/// use mq_core::error::Result;
///
/// #[derive(Debug)]
/// struct Mine;
///
/// # async fn open(_url: &str) -> Result<Arc<dyn BrokerDriver>> { Err(mq_core::error::Error::config("an example")) }
/// #[async_trait]
/// impl Harness for Mine {
///     fn profile(&self) -> String {
///         "mine".into()
///     }
///     async fn version(&self) -> Result<String> {
///         Ok("1.0".into())
///     }
///     async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
///         open("mine://127.0.0.1:1234").await
///     }
/// }
///
/// // tests/conformance.rs of the adapter, with `harness = false` in its Cargo.toml
/// fn main() -> ExitCode {
///     mq_conformance::main(Mine)
/// }
/// ```
#[async_trait]
pub trait Harness: Send + Sync + fmt::Debug + 'static {
    /// The broker and its set-up, as it names the column of the matrix and the result file: `memory`, `kafka`,
    /// `rabbit-3.10`, `rabbit-4.0` …
    fn profile(&self) -> String;

    /// The version of the broker that answers, for the record.
    ///
    /// # Errors
    /// When the broker cannot be reached: the run then fails; it is never skipped.
    async fn version(&self) -> Result<String>;

    /// A fresh connection to the same broker, independent of those made before: what a new process would get.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>>;

    /// Fills in what this broker needs to declare a small topic for tests, such as a number of partitions.
    fn topic_spec(&self, spec: TopicSpec) -> TopicSpec {
        spec
    }

    /// How many scenarios may run at once. They share the broker, not their topics.
    fn parallel(&self) -> usize {
        6
    }

    /// How long a call may take on this broker beyond what it declares, under the load of the other scenarios: the
    /// slack of every upper bound in time. Lower bounds have none.
    fn slack(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// How long a scenario waits for a message that must come: also the first one, after a group has formed.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// A client of the broker that knows nothing of the SDK. Without it the scenarios with foreign messages fail.
    fn foreign(&self) -> Option<&dyn Foreign> {
        None
    }

    /// Ways to break the broker. Without them the scenarios with faults fail.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }

    /// As [`connect`](Self::connect), but by another address: that of a [`Way`](crate::faults::Way) which is about to
    /// be broken. Sessions and heartbeats may be shorter than usual, so that a test sees their end.
    ///
    /// # Errors
    /// As those of [`connect`](Self::connect).
    async fn connect_at(&self, address: SocketAddr) -> Result<Arc<dyn BrokerDriver>> {
        Err(Error::new(ErrorKind::Unsupported, format!("this harness cannot connect by {address}"))
            .with_hint("implement Harness::connect_at"))
    }

    /// A broker of its own for one scenario that breaks it, where that costs nothing. `None`: such scenarios have the
    /// broker to themselves one after the other, when nothing else runs.
    fn alone(&self) -> Option<Arc<dyn Harness>> {
        None
    }
}

/// A message as a stock client of the broker writes and reads it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RawMessage {
    /// The key, where the broker has one.
    pub key: Option<Vec<u8>>,
    /// The body; `None` writes a null where the broker has one, and no bytes where it has not.
    pub body: Option<Vec<u8>>,
    /// Names and values. A value of `None` is a null header where the broker has those.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl RawMessage {
    /// A message with a body only.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { key: None, body: Some(body.into()), headers: Vec::new() }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// Sizes instead of contents: a body may be a megabyte.
impl fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMessage")
            .field("key", &self.key.as_deref().map(String::from_utf8_lossy))
            .field("body", &self.body.as_ref().map(|body| format!("{} B", body.len())))
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

/// A client of the broker that knows nothing of the SDK.
///
/// On Kafka a foreign place is a plain topic, on RabbitMQ a queue declared by itself (`queue:NAME`).
#[async_trait]
pub trait Foreign: Send + Sync {
    /// Creates a place that belongs to another program, and says how the SDK addresses it.
    async fn create(&self, name: &str) -> Result<Topic>;

    /// Writes a message to a place made by [`Foreign::create`] or to a topic of the SDK.
    async fn publish(&self, place: &Topic, message: &RawMessage) -> Result<()>;

    /// Reads up to `max` messages from a place made by [`Foreign::create`], from its beginning, waiting at most
    /// `wait` for them. May consume them.
    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>>;

    /// Removes a place made by [`Foreign::create`].
    async fn remove(&self, place: &Topic) -> Result<()>;

    /// What is lost on the way because the broker itself has no place for it.
    fn carries(&self) -> Carries {
        Carries::default()
    }
}

/// What a native message of the broker can hold.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Carries {
    /// A key apart from the headers.
    pub key: bool,
    /// A body that is null, not empty.
    pub null_body: bool,
    /// A header name more than once.
    pub repeated_headers: bool,
    /// A header whose value is null.
    pub null_headers: bool,
    /// A header whose value is no text.
    pub binary_headers: bool,
}

impl Default for Carries {
    fn default() -> Self {
        Self { key: true, null_body: true, repeated_headers: true, null_headers: true, binary_headers: true }
    }
}

impl Carries {
    /// Only what nearly every broker can hold.
    pub fn little() -> Self {
        Self { key: false, null_body: false, repeated_headers: false, null_headers: false, binary_headers: true }
    }

    /// Sets whether a header value may be other than text.
    #[must_use]
    pub fn binary_headers(mut self, yes: bool) -> Self {
        self.binary_headers = yes;
        self
    }

    /// Sets whether a header value may be null.
    #[must_use]
    pub fn null_headers(mut self, yes: bool) -> Self {
        self.null_headers = yes;
        self
    }
}
