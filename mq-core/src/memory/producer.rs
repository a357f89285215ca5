//! Publishing: everything is stored, or refused, before `publish` returns.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use crate::driver::{ProducerDriver, Publish, Receipt, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::NAME;
use crate::memory::broker::Connection;
use crate::memory::server::Server;
use crate::memory::state::fail;
use crate::memory::storing::Full;
use crate::message::Message;

pub(super) struct MemoryProducer {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    pub(super) closed: AtomicBool,
}

#[async_trait]
impl ProducerDriver for MemoryProducer {
    async fn publish(&self, batch: Vec<Publish>) {
        let mut rest = Rest { items: batch.into_iter() };
        let mut done = Vec::with_capacity(rest.items.len());
        let mut deadline = None;
        let room = self.server.room.listen();
        loop {
            let ring = room.next_ring();
            let full = self.accept(&mut rest, &mut done);
            // Callbacks run other people's code: never under the lock.
            for (publish, outcome) in done.drain(..) {
                Publish::complete(publish, outcome);
            }
            let Some(full) = full else { break };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.server.config.send_timeout);
            if timeout_at(deadline, ring).await.is_err() {
                rest.refuse(&full);
                break;
            }
        }
        self.server.changed.ring();
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        // What was accepted is stored; what waits for room is not accepted yet.
        Ok(())
    }

    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        self.check()?;
        self.server.passable().await?;
        let outcome = self.server.lock().atomic(&batch, settlements);
        self.server.changed.ring();
        outcome.map_err(|error| error.with_operation("atomic send"))
    }

    async fn close(&self, _deadline: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.server.room.ring();
        Ok(())
    }
}

impl MemoryProducer {
    fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("producer").with_backend(NAME));
        }
        self.connection.check("producer")
    }

    /// Stores what it can, in order; the reason when an item must wait.
    fn accept(&self, rest: &mut Rest, done: &mut Vec<(Publish, Result<Receipt>)>) -> Option<Full> {
        let closed = self.check();
        let mut state = self.server.lock();
        let now = state.clock.now();
        while let Some(publish) = rest.items.as_slice().first() {
            let outcome = match &closed {
                Err(_) => Err(Error::closed("producer").with_backend(NAME).with_operation("send")),
                Ok(()) => match state.accept(publish, now) {
                    Ok(Ok(receipt)) => Ok(receipt),
                    Ok(Err(error)) => Err(error.with_operation("send")),
                    Err(full) => return Some(full),
                },
            };
            done.extend(rest.items.next().map(|publish| (publish, outcome)));
        }
        None
    }
}

/// Items not accepted yet. When the caller goes away they end as not stored, not as lost.
struct Rest {
    items: std::vec::IntoIter<Publish>,
}

impl Rest {
    fn refuse(&mut self, full: &Full) {
        for publish in self.items.by_ref() {
            let error = full.error(publish.message().topic()).with_operation("send");
            publish.complete(Err(error));
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        for publish in self.items.by_ref() {
            let error = fail(ErrorKind::Unavailable, "the send was given up before the broker took it");
            publish.complete(Err(error.with_operation("send")));
        }
    }
}

impl fmt::Debug for MemoryProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryProducer").finish_non_exhaustive()
    }
}
