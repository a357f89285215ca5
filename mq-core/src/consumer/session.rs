//! What all deliveries of a consumer share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::driver::{BrokerDriver, ConsumerDriver, ConsumerSpec};
use crate::error::Result;
use crate::name::Group;
use crate::settle::SettleQueue;

/// What all deliveries of a consumer share. One allocation for the consumer, a count for each delivery.
pub(crate) struct Session {
    pub(crate) queue: SettleQueue,
    pub(crate) group: Option<Group>,
    pub(crate) clock: Clock,
    pub(crate) retry_delays: Vec<Duration>,
    pub(crate) backend: &'static str,
}

impl Session {
    /// Opens a consumer at the driver and starts its settle task.
    pub(crate) async fn open(
        driver: &dyn BrokerDriver,
        spec: ConsumerSpec,
    ) -> Result<(Arc<Self>, Box<dyn ConsumerDriver>)> {
        let group = spec.subscription.group().cloned();
        let retry_delays = spec.retry_delays.clone();
        let (consumer, settler) = driver.open_consumer(spec).await?;
        let session = Self {
            queue: SettleQueue::start(settler),
            group,
            clock: driver.clock(),
            retry_delays,
            backend: driver.name(),
        };
        Ok((Arc::new(session), consumer))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("group", &self.group).field("queue", &self.queue).finish_non_exhaustive()
    }
}
