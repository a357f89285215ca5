//! What the memory broker can do, and what it cannot.

use std::time::Duration;

use crate::capability::{Capabilities, Feature, Level, Limits};
use crate::memory::NAME;
use crate::memory::config::MemoryConfig;

pub(super) fn capabilities(config: &MemoryConfig) -> Capabilities {
    let sizes = Limits { max_bytes: Some(config.max_message_bytes as u64), ..Limits::default() };
    let lateness = Limits { lateness: Some(LATENESS), ..Limits::default() };
    let exact = Limits { duplicate_window: Some(0), ..Limits::default() };
    let timed = "by tokio's clock, when a consumer polls; a busy machine adds its own delay";
    Capabilities::new(NAME)
        .with(Feature::ConfirmedSend, Level::Native, sizes, "stored in this process, as durable as the process")
        .native([
            Feature::PipelinedSend,
            Feature::UnconfirmedSend,
            Feature::BatchSend,
            Feature::KeyedOrder,
            Feature::Headers,
            Feature::Tombstones,
        ])
        .with(Feature::DelayedSend, Level::Native, lateness.clone(), timed)
        .native([Feature::AtomicBatch, Feature::AtomicHandoff, Feature::Groups])
        .with(
            Feature::Broadcast,
            Level::Native,
            Limits::default(),
            "retries and dead letters of a broadcast consumer end with it",
        )
        .native([Feature::ManyTopics, Feature::Requeue, Feature::AutoAck])
        .with(Feature::OutOfOrderAck, Level::Native, exact, "each settlement is final at once")
        .with(Feature::NonBlockingRetry, Level::Native, lateness, timed)
        .native([
            Feature::KeyOrderedRetry,
            Feature::KeyIndependentRetry,
            Feature::DurableAttempts,
            Feature::RedeliveryCount,
            Feature::DeadLetters,
            Feature::SeekPosition,
            Feature::SeekTime,
            Feature::Lag,
            Feature::Pause,
            Feature::Topology,
            Feature::ListTopics,
            Feature::StablePosition,
        ])
        .with(
            Feature::Replay,
            Level::Native,
            Limits::default(),
            "settled messages are kept until the topic's capacity or retention needs their place",
        )
        .with(
            Feature::RebalanceEvents,
            Level::Native,
            Limits::default(),
            "in ordered groups; a shared group reads every partition with every consumer",
        )
        .with(
            Feature::HalfMessage,
            Level::Native,
            Limits::default(),
            "asked back about after `check_back` (6 s), as often as it takes",
        )
        .without(Feature::RoutingPattern, "choose messages in the handler, or use RabbitMQ")
        .without(Feature::RoutingHeaders, "choose messages in the handler, or use RabbitMQ")
        .without(Feature::NoLossOnRestart, "messages end with the process: use a broker outside it")
        .without(Feature::NoLossOnFailover, "there is one copy, in this process: use a replicated broker")
}

/// Timers tick in milliseconds; the rest is for a machine that has other things to do.
const LATENESS: Duration = Duration::from_millis(100);
