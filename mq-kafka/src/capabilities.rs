//! What Kafka can do through this adapter, and within which bounds.

use std::time::Duration;

use mq_core::capability::{Capabilities, Feature, Level, Limits};

use crate::config::Config;
use crate::error::BACKEND;

/// How late a retry or a delayed message may be: the wake of a fetch, a hop, and load.
const LATENESS: Duration = Duration::from_millis(1500);

/// As configured; nothing here depends on the cluster.
pub(crate) fn of(config: &Config) -> Capabilities {
    let limits = |set: fn(&mut Limits)| {
        let mut limits = Limits::default();
        set(&mut limits);
        limits
    };
    let mut sizes = Limits::default();
    sizes.max_bytes = Some(config.producer.max_message_bytes.into());
    let mut window = Limits::default();
    window.duplicate_window = Some(config.consumer.duplicate_window.into());
    let mut delayed = limits(|limits| limits.needs_process = true);
    delayed.lateness = Some(LATENESS);
    delayed.granularity = Some(Duration::from_millis(1));
    let late = {
        let mut limits = Limits::default();
        limits.lateness = Some(LATENESS);
        limits
    };
    Capabilities::new(BACKEND)
        .with(Feature::ConfirmedSend, Level::Native, sizes, "acks=all, idempotent producer")
        .native([
            Feature::PipelinedSend,
            Feature::UnconfirmedSend,
            Feature::BatchSend,
            Feature::Headers,
            Feature::Tombstones,
            Feature::Groups,
            Feature::ManyTopics,
            Feature::Replay,
            Feature::SeekPosition,
            Feature::SeekTime,
            Feature::Lag,
            Feature::Pause,
            Feature::RebalanceEvents,
            Feature::Topology,
            Feature::ListTopics,
            Feature::StablePosition,
        ])
        .with(
            Feature::KeyedOrder,
            Level::Native,
            Limits::default(),
            "while the number of partitions stays; keys are hashed as the Java client does (murmur2)",
        )
        .with(
            Feature::NoLossOnRestart,
            Level::Native,
            Limits::default(),
            "as durable as the copies of the topic: Kafka does not wait for the disk",
        )
        .with(
            Feature::NoLossOnFailover,
            Level::Native,
            Limits::default(),
            "with three copies and min.insync.replicas=2, the default of the production profile",
        )
        .with(
            Feature::OutOfOrderAck,
            Level::Emulated,
            window,
            "acks are committed every second or 50 acks, at most a hundred times a second; without a commit as many more \
             as the last one covered may follow; what was settled above the oldest unsettled message is kept in the \
             commit's metadata",
        )
        .with(
            Feature::Requeue,
            Level::Emulated,
            late.clone(),
            "the consumer fetches the message again, after about 0.1 s",
        )
        .with(
            Feature::Broadcast,
            Level::Emulated,
            Limits::default(),
            "every partition is read from its end, without a group; partitions added later are not seen",
        )
        .with(
            Feature::AutoAck,
            Level::Emulated,
            Limits::default(),
            "the place is committed before a batch is handed out",
        )
        .with(
            Feature::DeadLetters,
            Level::Emulated,
            Limits::default(),
            "a topic of one partition for each group, cut off at the front by redrive and purge",
        )
        .with(
            Feature::NonBlockingRetry,
            Level::Emulated,
            late.clone(),
            "one topic for each delay; due by the consumer's clock: clocks that differ shift it",
        )
        .with(
            Feature::KeyOrderedRetry,
            Level::Emulated,
            late,
            "the message waits in the consumer's memory, its attempt in the commit's metadata",
        )
        .with(Feature::KeyIndependentRetry, Level::Emulated, Limits::default(), "until 1,000 messages or 16 MiB of the partition wait behind it")
        .with(
            Feature::DurableAttempts,
            Level::Emulated,
            Limits::default(),
            "in the headers of the retry, or in the commit's metadata",
        )
        .with(
            Feature::RedeliveryCount,
            Level::Emulated,
            Limits::default(),
            "sessions that ended without settling it, counted in the commit's metadata; a crash within milliseconds of \
             the delivery may be missed, and neighbours of the same window are counted too until a message has ended \
             three sessions: from then on it is handed out alone",
        )
        .with(
            Feature::DelayedSend,
            Level::Emulated,
            delayed,
            "a worker or `mq scheduler` must run to move due messages; due by its clock",
        )
        .with(
            Feature::AtomicBatch,
            Level::Native,
            Limits::default(),
            "a transaction; its end marker counts as one waiting message in the lag of each partition",
        )
        .with(
            Feature::AtomicHandoff,
            Level::Native,
            Limits::default(),
            "the group's place in the transaction; meanwhile the consumer commits nothing else: hand off in batches",
        )
        .without(Feature::HalfMessage, "send to an outbox in your own database transaction")
        .without(Feature::RoutingPattern, "use a topic for each pattern, or filter in the handler")
        .without(Feature::RoutingHeaders, "filter in the handler")
}
