//! Steering a running worker from outside.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::broker::Broker;
use crate::driver::{Health, Lag};
use crate::error::{Error, Result};
use crate::name::Topic;
use crate::subscription::Subscription;
use crate::worker::gate::Gate;
use crate::worker::rate::{Limiter, Rate};
use crate::worker::summary::{Counts, Ended, Summary};

/// What a worker and its handles share.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) gate: Gate,
    pub(crate) limiter: Limiter,
    pub(crate) counts: Counts,
    /// The coordinator is to look again.
    pub(crate) changed: Notify,
    pub(crate) stop: AtomicBool,
}

impl Control {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            gate: Gate::new(),
            limiter: Limiter::new(rate),
            counts: Counts::default(),
            changed: Notify::new(),
            stop: AtomicBool::new(false),
        }
    }
}

/// Steers a worker while it runs, from anywhere. Cheap to clone; does nothing once the worker has ended.
#[derive(Clone)]
pub struct WorkerHandle {
    control: Arc<Control>,
    broker: Broker,
    subscription: Subscription,
}

impl WorkerHandle {
    pub(crate) fn new(control: Arc<Control>, broker: Broker, subscription: Subscription) -> Self {
        Self { control, broker, subscription }
    }

    /// Starts no more handlers and receives no more messages; those running finish. The place in the group is kept.
    pub fn pause(&self) {
        self.control.gate.pause(true);
        self.control.changed.notify_one();
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.control.gate.pause(false);
        self.control.changed.notify_one();
    }

    /// Changes how many messages are started per second; `None` is as many as can be.
    pub fn set_rate(&self, rate: impl Into<Option<Rate>>) {
        self.control.limiter.set(rate.into());
    }

    /// Drains and ends the worker, as if its shutdown future had completed.
    pub fn stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.control.changed.notify_one();
    }

    /// What it has done so far.
    pub fn summary(&self) -> Summary {
        self.control.counts.summary(Ended::Running)
    }

    /// Whether the broker answers, within `deadline`.
    pub async fn health(&self, deadline: Duration) -> Health {
        self.broker.health(deadline).await
    }

    /// How far the group is behind in each topic.
    ///
    /// # Errors
    /// Those of [`AdminDriver::lag`](crate::driver::AdminDriver::lag); a broadcast subscription has no lag.
    pub async fn lag(&self) -> Result<Vec<(Topic, Lag)>> {
        let Some(group) = self.subscription.group() else {
            return Err(Error::config("a broadcast subscription has no lag: its group ends with the worker"));
        };
        let admin = self.broker.admin();
        let mut lags = Vec::new();
        for topic in self.subscription.topics() {
            lags.push((topic.clone(), admin.lag(topic, group).await?));
        }
        Ok(lags)
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("subscription", &self.subscription)
            .field("summary", &self.summary())
            .finish_non_exhaustive()
    }
}
