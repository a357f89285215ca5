//! What happens in a worker, for logs, metrics and alarms.

use std::time::Duration;

use crate::dead_letter::DeadLetterReason;
use crate::error::Error;
use crate::worker::Context;

/// Something that happened in a worker.
///
/// Count them for metrics; raise alarms on [`WorkerEvent::Unreachable`], [`WorkerEvent::BreakerOpened`], [`WorkerEvent::GuardUnavailable`] and
/// [`WorkerEvent::SettleFailed`]: then messages wait and a person should look.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerEvent<'a> {
    /// The broker cannot be reached yet; nothing runs until it can.
    Unreachable {
        /// Why.
        error: &'a Error,
        /// When it is tried again.
        again_in: Duration,
    },
    /// The subscription stands.
    Started,
    /// Partitions are read by this worker now.
    Assigned(&'a [u32]),
    /// Partitions are about to move; their messages are being finished.
    Revoking(&'a [u32]),
    /// Partitions are gone; their handlers were cancelled.
    Lost(&'a [u32]),
    /// The connection is lost, with the reason; the driver is reconnecting. Running handlers were cancelled.
    Disconnected(&'a str),
    /// The connection stands again.
    Reconnected,
    /// A handler succeeded.
    Handled {
        /// The message.
        context: &'a Context,
        /// How long the handler ran, its follow-ups included.
        took: Duration,
    },
    /// The guard, or the memory of handled messages, knew it already: acknowledged without running.
    Duplicate(&'a Context),
    /// The handler refused it: counts as handled.
    Discarded {
        /// The message.
        context: &'a Context,
        /// What the handler said.
        error: &'a str,
    },
    /// It failed and will be tried again.
    Retrying {
        /// The message.
        context: &'a Context,
        /// The delay before the next attempt.
        delay: Duration,
        /// What the handler said.
        error: &'a str,
    },
    /// Its claim is in progress elsewhere: it comes back later, without an attempt spent.
    Deferred {
        /// The message.
        context: &'a Context,
        /// The delay.
        delay: Duration,
    },
    /// It is among the dead letters, confirmed by the broker (or, without a group, given up).
    DeadLettered {
        /// The message.
        context: &'a Context,
        /// Why.
        reason: DeadLetterReason,
        /// The last error.
        error: &'a str,
    },
    /// A handler was stopped: its lease was lost, or the drain deadline passed.
    Cancelled(&'a Context),
    /// A settlement failed: the message stays unsettled, and it is tried again after `again_in`.
    SettleFailed {
        /// What was tried: `ack`, `retry`, `dead letter` and the like.
        action: &'static str,
        /// Why it failed.
        error: &'a Error,
        /// When it is tried again; `None` when it was given up (the broker will deliver the message again).
        again_in: Option<Duration>,
    },
    /// A settlement came too late: the delivery belonged to an earlier session. The message was or will be redelivered.
    Stale,
    /// The guard's store cannot be asked: nothing runs until it can.
    GuardUnavailable {
        /// Why.
        error: &'a Error,
        /// When it is asked again.
        again_in: Duration,
    },
    /// Too many unknown errors in a row: nothing runs until `probe_in` has passed, then one message is tried.
    BreakerOpened {
        /// How many there were.
        failures: u32,
        /// When one message is tried.
        probe_in: Duration,
    },
    /// The trial succeeded: all goes on.
    BreakerClosed,
    /// The scheduler beside the worker failed; it is started again.
    SchedulerFailed(&'a Error),
    /// The worker is stopping and finishes what it has.
    Draining,
}

/// Watches a worker. Called in the worker's own tasks: it must not block.
///
/// Implemented by closures: `|event: &WorkerEvent<'_>| …`.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &WorkerEvent<'_>);
}

impl<F: Fn(&WorkerEvent<'_>) + Send + Sync + 'static> Observer for F {
    fn event(&self, event: &WorkerEvent<'_>) {
        self(event);
    }
}

/// The same, where no driver's events are near.
pub type Event<'a> = WorkerEvent<'a>;
