//! The consumer: asks the reading thread for what it has.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{ConsumerDriver, Event};
use mq_core::error::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::error::{BACKEND, fault};
use crate::reader::Reader;
use crate::shared::Shared;

/// Receives what the reading thread has read. Dropping it without [`close`](ConsumerDriver::close) leaves the group
/// too, without waiting.
#[derive(Debug)]
pub(crate) struct KafkaConsumer {
    shared: Arc<Shared>,
}

impl KafkaConsumer {
    /// Starts the reading thread.
    pub(crate) fn start(reader: Reader, shared: Arc<Shared>) -> Result<Self> {
        let ended = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("mq-kafka-reader".to_owned())
            .spawn(move || reader.run())
            .map_err(|error| fault(ErrorKind::Internal, "cannot start a thread").with_source(error))
            .inspect_err(|_| ended.set_closed())?;
        Ok(Self { shared })
    }

    pub(crate) fn take(&self, events: &mut Vec<Event>, max: usize) -> Result<bool> {
        self.shared.take(events, max)
    }

    /// Lets the reading thread leave the group.
    pub(crate) fn begin_close(&self) {
        self.shared.lock().closing = true;
        self.shared.wake_reader();
    }
}

#[async_trait]
impl ConsumerDriver for KafkaConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        if self.shared.take(events, max)? || wait.is_zero() {
            return Ok(());
        }
        let deadline = Instant::now() + wait;
        loop {
            // The permit of a wake between the look and the wait is kept, so none is missed.
            if tokio::time::timeout_at(deadline, self.shared.ready.notified()).await.is_err() {
                return Ok(());
            }
            if self.shared.take(events, max)? {
                return Ok(());
            }
        }
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        self.shared.lock().user_paused = paused;
        self.shared.wake_reader();
        Ok(())
    }

    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        self.shared.lock().drained.push(revocation);
        self.shared.wake_reader();
        Ok(())
    }

    async fn close(self: Box<Self>, deadline: Duration) -> Result<()> {
        self.begin_close();
        tokio::time::timeout(deadline, self.shared.closed()).await.map_err(|_| {
            Error::timeout(deadline)
                .with_backend(BACKEND)
                .with_operation("close consumer")
                .with_hint("the group goes on without this member after the session timeout")
        })
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.begin_close();
    }
}
