//! The producer of half messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::driver::HalfDriver;
use crate::error::Result;
use crate::half::Prepared;
use crate::message::{Message, MessageId};
use crate::producer::{SendError, fill};

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(30);

/// Stores messages that become visible with your own transaction. Cheap to clone; clones share the connection.
///
/// Its name is that of a group of producers: while one of the group is open, it is asked about undecided messages of all
/// of them, also of those that died. Use one name for each service whose instances share a database.
///
/// The order of a key is that of the commits, not of the preparations, and check-backs come at their own time: so an
/// ambiguous outcome fences no later send of its key, as it does with [`Producer`](crate::Producer).
#[derive(Clone)]
pub struct HalfProducer {
    broker: Broker,
    driver: Arc<dyn HalfDriver>,
}

impl HalfProducer {
    pub(crate) fn new(broker: Broker, driver: Arc<dyn HalfDriver>) -> Self {
        Self { broker, driver }
    }

    /// Stores a message that nobody sees before it is committed.
    ///
    /// # Errors
    /// Unless it is [ambiguous](crate::Error::is_ambiguous), nothing is stored. Otherwise the message may be prepared:
    /// the broker will ask the check about it, which knows of no transaction committed for it. Preparing it again is
    /// safe, for only what is committed is seen.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the decision to the check.
    pub async fn prepare(&self, message: Message) -> Result<Prepared, SendError> {
        let message = fill(message, self.broker.driver().clock())?;
        let backend = self.broker.name();
        // `fill` has given it one.
        let id = message.message_id().cloned().unwrap_or_else(|| MessageId::from(""));
        match self.driver.prepare(message.clone()).await {
            Ok(half) => Ok(Prepared::new(Arc::clone(&self.driver), backend, half, id)),
            Err(error) => Err(SendError::new(error.with_backend(backend).with_operation("prepare"), message)),
        }
    }

    /// Closes: its check is asked no more. Waits at most 30 s. Later calls fail with
    /// [`ErrorKind::Closed`](crate::error::ErrorKind::Closed).
    pub async fn close(&self) -> Result<()> {
        self.driver.close(CLOSE).await.map_err(|error| error.with_operation("close"))
    }
}

impl fmt::Debug for HalfProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfProducer").field("driver", &self.driver).finish_non_exhaustive()
    }
}
