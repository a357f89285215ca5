//! What Redis can do through this adapter, and within which bounds.

use std::time::Duration;

use mq_core::capability::{Capabilities, Feature, Level, Limits};

use crate::config::{Deployment, Durability, RedisConfig};
use crate::error::BACKEND;
use crate::server::Server;

/// How late a retry or a delayed message may be: the pause between two looks, and load.
const LATENESS: Duration = Duration::from_millis(500);

pub(crate) fn capabilities(config: &RedisConfig, server: &Server) -> Capabilities {
    use Feature as F;
    let limits = Limits::default;
    let mut size = limits();
    size.max_bytes = u64::try_from(config.max_message_bytes).ok();
    let mut late = limits();
    late.lateness = Some(LATENESS);
    late.granularity = Some(Duration::from_millis(1));
    let mut delayed = late.clone();
    delayed.needs_process = true;
    let mut window = limits();
    window.duplicate_window = Some(0);
    let mut step = limits();
    step.max_bytes = Some(64 * 1024 * 1024);
    let durable = match server.durability {
        Some(Durability::Always) => "written to the append-only file and flushed before it is confirmed",
        Some(Durability::EverySec) => "written to the append-only file, flushed each second: a crash may lose a second",
        Some(Durability::Memory) => "kept in memory: a crash may lose everything",
        None => "as durable as the server is configured, which the user may not read",
    };
    let capabilities = Capabilities::new(BACKEND)
        .with(F::ConfirmedSend, Level::Native, size, durable)
        .native([F::PipelinedSend, F::Headers, F::Groups, F::StablePosition])
        .with(F::UnconfirmedSend, Level::Emulated, limits(), "sent with the others, and its answer dropped")
        .with(F::BatchSend, Level::Emulated, limits(), "a pipeline, with an answer for each message")
        .with(F::KeyedOrder, Level::Emulated, limits(), "a stream for each partition, read by one consumer at a time in groups of the mode `ordered`")
        .with(F::Tombstones, Level::Emulated, limits(), "marked by a field instead of `body`")
        .with(F::DelayedSend, Level::Emulated, delayed, "kept in a sorted set by the broker's clock; a consumer of the topic or `mq scheduler` must run to move them")
        .with(F::Broadcast, Level::Emulated, limits(), "a group of the consumer's own, deleted when it closes; after a reconnect it goes on where it stopped")
        .with(F::ManyTopics, Level::Emulated, limits(), "read together")
        .with(F::OutOfOrderAck, Level::Native, window, "each acknowledgement is confirmed by the broker")
        .with(F::Requeue, Level::Emulated, limits(), "counts as a redelivery")
        .with(F::AutoAck, Level::Emulated, limits(), "acknowledged before it is handed out")
        .with(F::NonBlockingRetry, Level::Emulated, late, "stays in the stream, and is handed out again when due by the broker's clock")
        .with(F::KeyOrderedRetry, Level::Emulated, limits(), "the message waits in the consumer's memory, its attempt beside the stream")
        .with(F::KeyIndependentRetry, Level::Emulated, limits(), "until 1,000 messages or 16 MiB of the partition wait behind it")
        .with(F::DurableAttempts, Level::Emulated, limits(), "recorded beside the stream in the step that schedules the retry")
        .with(F::RedeliveryCount, Level::Native, limits(), "also counts what a dead consumer had prefetched")
        .with(F::DeadLetters, Level::Emulated, limits(), "a stream for each group and partition; moved there in one step")
        .with(F::Replay, Level::Native, limits(), "as far back as the topic's retention, or what is not settled by every group")
        .with(F::SeekPosition, Level::Native, limits(), "consumers of the group give up what they have and go on from there")
        .with(F::SeekTime, Level::Native, limits(), "by the broker's clock: positions are its milliseconds")
        .with(F::Lag, Level::Native, limits(), "after a seek or a deletion entries are counted, up to 100,000 a partition")
        .with(F::Pause, Level::Emulated, limits(), "what was prefetched stays with the paused consumer")
        .with(F::RebalanceEvents, Level::Emulated, limits(), "in ordered groups; a shared group reads every partition with every consumer")
        .with(F::Topology, Level::Emulated, limits(), "a topic is a set of streams and a key that counts them")
        .with(F::ListTopics, Level::Emulated, limits(), "those declared through the SDK")
        .without(F::HalfMessage, "write to an outbox in your own database transaction and relay it")
        .without(F::RoutingPattern, "choose messages in the handler, or use RabbitMQ")
        .without(F::RoutingHeaders, "choose messages in the handler, or use RabbitMQ")
        .without(F::NoLossOnFailover, "replication is asynchronous: a fail-over loses what was confirmed and not yet copied; use Kafka or quorum queues");
    let capabilities = match config.deployment {
        Deployment::Cluster => capabilities
            .with(
                F::AtomicBatch,
                Level::Emulated,
                step,
                "one script, for one partition of one topic: give the messages one key, or none; others are refused",
            )
            .without(
                F::AtomicHandoff,
                "on a cluster one step reaches one slot: make the handler idempotent, with a guard",
            ),
        _ => capabilities.with(F::AtomicBatch, Level::Native, step, "one script").with(
            F::AtomicHandoff,
            Level::Native,
            limits(),
            "one script; acknowledgements only",
        ),
    };
    if server.keeps_everything() {
        let note = "with appendonly yes and appendfsync always, as this server has";
        return capabilities.with(F::NoLossOnRestart, Level::Native, limits(), note);
    }
    capabilities
        .without(F::NoLossOnRestart, "set `appendonly yes` and `appendfsync always` in the server's configuration")
}
