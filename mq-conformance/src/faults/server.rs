//! The faults of a broker that is a process of its own, reached by TCP.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::error::{Error, ErrorKind, Result};
use tokio::process::Command;

use super::{Faults, Proxy, Way};

/// A start includes whatever the server does to recover its data.
const PATIENCE: Duration = Duration::from_secs(120);

/// A broker that is a process of its own.
#[derive(Debug, Clone)]
pub struct Server {
    ways: Ways,
    control: Option<String>,
}

#[derive(Debug, Clone)]
enum Ways {
    /// From any port to this address.
    Any(SocketAddr),
    /// Only these, from where to where: the broker tells its clients where to go.
    These(Vec<(SocketAddr, SocketAddr)>),
}

impl Server {
    /// A broker whose clients may come from anywhere.
    pub fn at(address: SocketAddr) -> Self {
        Self { ways: Ways::Any(address), control: None }
    }

    /// A broker that tells its clients where to go. `ways` is `BEGIN=END,BEGIN=END…`: behind each `END` is a listener
    /// of the broker that names the `BEGIN`.
    ///
    /// # Errors
    /// When these are not pairs of addresses.
    pub fn by_ways(ways: &str) -> Result<Self> {
        let pair = |text: &str| {
            let (begin, end) = text.split_once('=')?;
            Some((begin.trim().parse().ok()?, end.trim().parse().ok()?))
        };
        let pairs: Option<Vec<_>> = ways.split(',').map(pair).collect();
        let pairs = pairs.ok_or_else(|| {
            Error::config(format!("`{ways}` is no list of ways")).with_hint("127.0.0.1:1=127.0.0.1:2,…")
        })?;
        Ok(Self { ways: Ways::These(pairs), control: None })
    }

    /// What a shell runs to kill the broker, with `VERB=kill` in its environment, to start it, with `VERB=start`, and with
    /// `VERB=block` and `VERB=unblock` to let it take nothing more, or everything again; it returns when that is done.
    #[must_use]
    pub fn control(mut self, command: Option<String>) -> Self {
        self.control = command;
        self
    }

    async fn control_by(&self, verb: &'static str) -> Result<()> {
        let command = self.control.as_ref().ok_or_else(|| {
            Error::config(format!("nothing says how to {verb} the broker"))
                .with_hint("`cargo xtask brokers up` prints MQ_TEST_KAFKA_CONTROL or MQ_TEST_RABBIT_CONTROL to export")
        })?;
        let failed =
            |text: String| Error::new(ErrorKind::Internal, format!("`{command}` with VERB={verb} failed: {text}"));
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("VERB", verb).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, shell.output()).await;
        let output = output.map_err(|_| Error::timeout(PATIENCE).with_operation(verb))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

#[async_trait]
impl Faults for Server {
    async fn kill(&self) -> Result<()> {
        self.control_by("kill").await
    }

    async fn start(&self) -> Result<()> {
        self.control_by("start").await
    }

    async fn block(&self, blocked: bool) -> Result<()> {
        self.control_by(if blocked { "block" } else { "unblock" }).await
    }

    async fn way(&self) -> Result<Arc<dyn Way>> {
        let none = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "no way to the broker can be opened").with_source(error)
        };
        match &self.ways {
            Ways::Any(upstream) => {
                let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], 0)), *upstream).await.map_err(none)?;
                Ok(Arc::new(proxy))
            }
            Ways::These(ways) => {
                let mut last = None;
                // The port is the lock: whoever listens there has the way, in this process or another.
                for (begin, end) in ways {
                    match Proxy::start(*begin, *end).await {
                        Ok(proxy) => return Ok(Arc::new(proxy)),
                        Err(error) => last = Some(error),
                    }
                }
                Err(none(last.unwrap_or_else(|| std::io::Error::other("the broker has none"))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ways_are_given_once() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server::by_ways(&format!("{free}=127.0.0.1:1")).unwrap();
        let way = server.way().await.unwrap();
        assert_eq!(way.address(), Some(free));
        assert_eq!(server.way().await.unwrap_err().kind(), ErrorKind::Unavailable);
        for bad in ["", "127.0.0.1:1", "a=b", "127.0.0.1:1=127.0.0.1:2,"] {
            assert!(Server::by_ways(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_command_is_told_what_to_do() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let server = Server::at(address).control(Some("test \"$VERB\" = kill || { echo no >&2; exit 1; }".into()));
        server.kill().await.unwrap();
        assert!(server.start().await.unwrap_err().to_string().contains("no"));
        assert_eq!(Server::at(address).kill().await.unwrap_err().kind(), ErrorKind::Config);
    }
}
