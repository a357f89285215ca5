//! What a harness offers to be broken.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use mq_core::error::{Error, ErrorKind, Result};

use super::Proxy;

/// Ways to break the broker.
#[async_trait]
pub trait Faults: Send + Sync {
    /// What cannot happen here, because the broker has no such thing.
    fn lacks(&self) -> &'static [Breakage] {
        &[]
    }

    /// Ends the broker with SIGKILL.
    ///
    /// # Errors
    /// When that cannot be done.
    async fn kill(&self) -> Result<()> {
        Err(missing("kill"))
    }

    /// Starts it again on the same data, and returns when it answers.
    ///
    /// # Errors
    /// When that cannot be done.
    async fn start(&self) -> Result<()> {
        Err(missing("start"))
    }

    /// Lets the broker take nothing more, as one without memory or one that stands still, or lets it go on; returns when
    /// it does.
    ///
    /// # Errors
    /// When that cannot be done.
    async fn block(&self, _blocked: bool) -> Result<()> {
        Err(missing("block"))
    }

    /// A way to the broker that can be broken without disturbing anybody who takes another one.
    ///
    /// # Errors
    /// When there is none left.
    async fn way(&self) -> Result<Arc<dyn Way>>;
}

/// A kind of breakage that a broker may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Breakage {
    /// The connections to the broker.
    Way,
    /// The connections of one program, while those of others are whole.
    OneWay,
    /// A connection slower than what is to be sent.
    Slow,
    /// A connection of which one end is gone and the other does not know.
    HalfOpen,
    /// A process that uses the SDK, and is killed or stopped.
    Process,
    /// A broker whose process is killed.
    Broker,
    /// A broker that takes nothing more for a while.
    Blocked,
}

/// A way to the broker. In the end it is whole again.
pub trait Way: Send + Sync + fmt::Debug {
    /// Where it begins, for connections made with [`Harness::connect_at`](crate::Harness::connect_at), also by other
    /// processes. `None` where the broker is in this process.
    fn address(&self) -> Option<SocketAddr>;

    /// Closes every connection once.
    fn cut(&self);

    /// Lets no byte pass in either direction, or lets them pass again.
    fn stall(&self, stalled: bool);

    /// Lets at most this many bytes a second pass; `None` lifts it.
    fn slow(&self, _bytes_per_second: Option<u32>) {}

    /// Closes the broker's side of every connection, and leaves the client's as it is.
    fn half_open(&self) {}

    /// Refuses new connections, or accepts them again.
    fn refuse(&self, refusing: bool);
}

impl Way for Proxy {
    fn address(&self) -> Option<SocketAddr> {
        Some(self.address())
    }
    fn cut(&self) {
        self.cut();
    }
    fn stall(&self, stalled: bool) {
        self.stall(stalled);
    }
    fn slow(&self, bytes_per_second: Option<u32>) {
        self.slow(bytes_per_second);
    }
    fn half_open(&self) {
        self.half_open();
    }
    fn refuse(&self, refusing: bool) {
        self.refuse(refusing);
    }
}

fn missing(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this harness cannot {what} its broker"))
        .with_hint("implement mq_conformance::Faults")
}
