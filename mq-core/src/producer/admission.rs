//! Bounds what a producer has in flight; the bound is backpressure, not growth.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// One semaphore bounds both count and bytes: each message takes its size, but never less than its share of the bytes.
#[derive(Debug)]
pub(super) struct Admission {
    room: Semaphore,
    total: u32,
    least: u32,
}

/// The unit of room: finer ones would overflow the permits of large bounds.
const UNIT: usize = 256;

impl Admission {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        let total = u32::try_from(max_bytes / UNIT).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2);
        let messages = u32::try_from(max_messages).unwrap_or(u32::MAX).max(1);
        // Rounded up, or more than `max_messages` would fit.
        let least = total.div_ceil(messages).max(1);
        Self { room: Semaphore::new(total as usize), total, least }
    }

    fn share(&self, message: &Message) -> u32 {
        let units = u32::try_from(message.size().div_ceil(UNIT)).unwrap_or(u32::MAX);
        units.clamp(self.least, self.total)
    }

    /// Enters if there is room right now.
    pub(super) fn try_enter(&self, message: &Message) -> bool {
        self.room.try_acquire_many(self.share(message)).map(SemaphorePermit::forget).is_ok()
    }

    /// Waits for room, at most `deadline`.
    pub(super) async fn enter(&self, message: &Message, deadline: Duration) -> Result<()> {
        if self.try_enter(message) {
            return Ok(());
        }
        match tokio::time::timeout(deadline, self.room.acquire_many(self.share(message))).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(Error::closed("producer")),
            Err(_) => Err(Error::new(ErrorKind::Backpressure, "too many sends in flight")
                .with_hint("the broker is slower than the sends: wait, or raise the bound of in-flight sends")),
        }
    }

    /// Gives the room of a message that was admitted back.
    pub(super) fn leave(&self, message: &Message) {
        self.room.add_permits(self.share(message) as usize);
    }

    /// No one is admitted any more.
    pub(super) fn close(&self) {
        self.room.close();
    }
}
