//! What a worker can be told, and whether its broker can do that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::capability::Feature;
use crate::driver::ConsumerSpec;
use crate::error::{Error, Result};
use crate::event::Observer;
use crate::guard::Guard;
use crate::handler::Classification;
use crate::retry::{RetryOrder, RetryPolicy};
use crate::subscription::{GroupMode, Subscription};
use crate::worker::intake::{IdExtractor, KeyExtractor};
use crate::worker::rate::Rate;
use crate::worker::shared::DeadLetterHook;

/// The parking window of a partition: messages, and bytes.
pub(crate) const WINDOW: (usize, usize) = (1000, 16 << 20);
/// A revoked partition drains no longer than this: the whole group waits for it.
const REVOCATION: Duration = Duration::from_secs(5);

/// When messages are acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AckStrategy {
    /// At receipt, before the handler runs: at most once. A message whose handler fails or crashes is gone. Needs the
    /// capability `AutoAck`; goes with neither retries nor a guard.
    Auto,
    /// After the handler succeeded: at least once. Acknowledgements that come together are sent together.
    #[default]
    Manual,
    /// As `Manual`, gathered until there are `max` of them or the first has waited for `every`. Fewer requests, and more
    /// duplicates after a crash.
    Batched {
        /// Send when this many are waiting.
        max: usize,
        /// Send when the first has waited this long.
        every: Duration,
    },
}

/// How many messages are handled at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// One, in order of arrival.
    #[default]
    Sequential,
    /// Up to this many, in any order.
    Parallel(usize),
    /// Up to this many, but one at a time and in order for each key. Messages without a key are handled in any order.
    /// The group is ordered ([`GroupMode::Ordered`]). Needs the capability `KeyedOrder`.
    ByKey(usize),
}

impl Concurrency {
    /// How many handlers run at once.
    pub fn limit(self) -> usize {
        match self {
            Self::Sequential => 1,
            Self::Parallel(n) | Self::ByKey(n) => n.max(1),
        }
    }
}

/// Everything a worker can be told.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) ack: AckStrategy,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) guard_lease: Duration,
    pub(crate) concurrency: Concurrency,
    pub(crate) rate: Option<Rate>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) crash_limit: u32,
    pub(crate) classification: Classification,
    pub(crate) on_dead_letter: Option<DeadLetterHook>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) drain: Duration,
    pub(crate) key: Option<KeyExtractor>,
    pub(crate) id: Option<IdExtractor>,
    pub(crate) max: Option<u64>,
    pub(crate) idle: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ack: AckStrategy::default(),
            retry: None,
            guard: None,
            guard_lease: Duration::from_secs(60),
            concurrency: Concurrency::default(),
            rate: None,
            timeout: None,
            crash_limit: 10,
            classification: Classification::default(),
            on_dead_letter: None,
            observer: None,
            drain: Duration::from_secs(30),
            key: None,
            id: None,
            max: None,
            idle: None,
        }
    }
}

impl Settings {
    /// The retry policy: with automatic acknowledgement there is none.
    pub(crate) fn policy(&self) -> RetryPolicy {
        match (&self.retry, self.ack) {
            (Some(policy), _) => policy.clone(),
            (None, AckStrategy::Auto) => RetryPolicy::never(),
            (None, _) => RetryPolicy::default(),
        }
    }

    /// True when retries keep the order of their key.
    pub(crate) fn keeps_order(&self) -> bool {
        self.policy().order() == RetryOrder::KeepKeyOrder
    }

    /// True when messages of one key run one at a time.
    pub(crate) fn keyed(&self) -> bool {
        self.keeps_order() || matches!(self.concurrency, Concurrency::ByKey(_))
    }

    /// The delays the broker must have places for.
    pub(crate) fn tiers(&self, subscription: &Subscription) -> Vec<Duration> {
        if subscription.group().is_none() {
            return Vec::new();
        }
        let mut tiers = self.policy().tiers();
        if tiers.is_empty() && self.guard.is_some() {
            // Where a message goes whose claim is in progress elsewhere.
            tiers.push(Duration::from_secs(5));
        }
        tiers
    }

    /// What the driver is asked for.
    ///
    /// # Errors
    /// What the broker cannot do, and what contradicts itself.
    pub(crate) fn spec(&self, broker: &Broker, subscription: &Subscription, batch: usize) -> Result<ConsumerSpec> {
        subscription.check()?;
        self.check()?;
        broker.require(self.needs(subscription))?;
        self.check_ids(broker)?;
        let subscription = match self.keyed() {
            true => subscription.clone().mode(GroupMode::Ordered),
            false => subscription.clone(),
        };
        let default = self.concurrency.limit().saturating_mul(batch.max(1)).saturating_mul(2).max(10);
        let mut spec = ConsumerSpec::new(subscription.clone());
        spec.prefetch = subscription.prefetch_or(default);
        spec.parking = if self.keeps_order() { WINDOW.0 } else { 0 };
        spec.retry_delays = self.tiers(&subscription);
        spec.auto_ack = self.ack == AckStrategy::Auto;
        spec.drain = self.drain.min(REVOCATION);
        Ok(spec)
    }

    fn needs(&self, subscription: &Subscription) -> Vec<Feature> {
        let mut needs = Vec::new();
        let mut need = |wanted: bool, feature| {
            if wanted {
                needs.push(feature);
            }
        };
        let group = subscription.group().is_some();
        let auto = self.ack == AckStrategy::Auto;
        need(group, Feature::Groups);
        need(!group, Feature::Broadcast);
        need(subscription.topics().len() > 1, Feature::ManyTopics);
        need(auto, Feature::AutoAck);
        need(self.keyed(), Feature::KeyedOrder);
        need(self.keeps_order(), Feature::KeyOrderedRetry);
        need(group && !auto, Feature::DeadLetters);
        need(!self.tiers(subscription).is_empty() && !auto, Feature::NonBlockingRetry);
        needs
    }

    fn check(&self) -> Result<()> {
        self.policy().check()?;
        if self.ack == AckStrategy::Auto {
            let clash = if self.retry.as_ref().is_some_and(|policy| policy.max_attempts() > 1) {
                Some("retries")
            } else {
                self.guard.is_some().then_some("a guard")
            };
            if let Some(clash) = clash {
                return Err(Error::config(format!("automatic acknowledgement does not go with {clash}"))
                    .with_hint("use AckStrategy::Manual: what was acknowledged cannot be tried again"));
            }
        }
        if self.keeps_order() && matches!(self.concurrency, Concurrency::Parallel(_)) {
            return Err(Error::config("retries cannot keep the order of keys that are handled in parallel")
                .with_hint("use Concurrency::ByKey(n) or Concurrency::Sequential"));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::config("a handler cannot finish within a timeout of zero"));
        }
        if self.guard.is_some() && self.guard_lease < Duration::from_millis(100) {
            return Err(Error::config("the guard's lease is shorter than 100 ms: it could not be renewed in time"));
        }
        Ok(())
    }

    /// A guard needs ids: derived from positions that last, or extracted.
    fn check_ids(&self, broker: &Broker) -> Result<()> {
        if self.guard.is_none() || self.id.is_some() || broker.capabilities().supports(Feature::StablePosition) {
            return Ok(());
        }
        Err(Error::unsupported(
            Feature::StablePosition,
            broker.name(),
            "a guard needs ids, and a message without one has none here: set \
             .id_extractor(|message| message.message_id().cloned()) when every producer sets an id, \
             or take it from the body",
        ))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("ack", &self.ack)
            .field("retry", &self.retry)
            .field("guard", &self.guard)
            .field("concurrency", &self.concurrency)
            .field("rate", &self.rate)
            .field("timeout", &self.timeout)
            .field("crash_limit", &self.crash_limit)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
