//! Producers of half messages, and the questions they are asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::driver::{CheckBack, Decision, Half, HalfDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::NAME;
use crate::memory::broker::Connection;
use crate::memory::server::Server;
use crate::memory::state::fail;
use crate::message::Message;
use crate::name::Group;

/// No single sleep is longer, so that no time of day is too far for a timer.
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) struct MemoryHalf {
    server: Arc<Server>,
    connection: Arc<Connection>,
    name: Group,
    closed: AtomicBool,
    asked: JoinHandle<()>,
}

impl MemoryHalf {
    pub(super) fn open(
        server: &Arc<Server>,
        connection: &Arc<Connection>,
        name: &Group,
        check: Arc<dyn CheckBack>,
    ) -> Self {
        let (server, connection, name) = (Arc::clone(server), Arc::clone(connection), name.clone());
        let asked = tokio::spawn(answer(Arc::clone(&server), Arc::clone(&connection), name.clone(), check));
        Self { server, connection, name, closed: AtomicBool::new(false), asked }
    }

    fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("half producer").with_backend(NAME));
        }
        self.connection.check("half producer")
    }
}

#[async_trait]
impl HalfDriver for MemoryHalf {
    async fn prepare(&self, message: Message) -> Result<Half> {
        let deadline = Instant::now() + self.server.config.send_timeout;
        let room = self.server.room.listen();
        loop {
            let ring = room.next_ring();
            self.check()?;
            // The lock is not held over the wait.
            let prepared = self.server.lock().prepare(&self.name, &message);
            match prepared {
                Ok(number) => {
                    self.server.changed.ring();
                    return Ok(Half::new(number?.to_be_bytes().to_vec()));
                }
                Err(full) if timeout_at(deadline, ring).await.is_err() => return Err(full.error(message.topic())),
                Err(_) => {}
            }
        }
    }

    async fn decide(&self, half: &Half, decision: Decision) -> Result<()> {
        self.check()?;
        self.server.passable().await?;
        let number = <[u8; 8]>::try_from(&**half.ticket()).map(u64::from_be_bytes);
        let number = number.map_err(|_| fail(ErrorKind::Internal, "this half message is of another broker"))?;
        let decided = self.server.lock().decide(number, decision);
        self.server.changed.ring();
        decided
    }

    async fn close(&self, _deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.asked.abort();
        self.server.room.ring();
        Ok(())
    }
}

impl Drop for MemoryHalf {
    fn drop(&mut self) {
        self.asked.abort();
    }
}

/// Answers the broker's questions about half messages of this name, as long as the connection stands.
async fn answer(server: Arc<Server>, connection: Arc<Connection>, name: Group, check: Arc<dyn CheckBack>) {
    let listener = server.changed.listen();
    while connection.check("half producer").is_ok() {
        let ring = listener.next_ring();
        let (due, next) = server.lock().ask_back(&name);
        if due.is_empty() {
            match next {
                Some(next) => {
                    let wake = Instant::now() + server.clock.until(next).min(DAY);
                    // Either is a reason to look again.
                    let _ = timeout_at(wake, ring).await;
                }
                None => ring.await,
            }
            continue;
        }
        let (check, server) = (&check, &server);
        join_all(due.into_iter().map(|(number, message)| async move {
            let verdict = check.check(&message).await;
            if let Some(decision) = verdict.decision() {
                // Decided by its producer meanwhile, or asked again later.
                let decided = server.lock().decide(number, decision);
                server.changed.ring();
                if let Err(cause) = decided {
                    tracing::debug!(%cause, "the answer of a check changed nothing");
                }
            }
        }))
        .await;
    }
}

impl fmt::Debug for MemoryHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHalf").field("name", &self.name).finish_non_exhaustive()
    }
}
