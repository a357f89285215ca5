//! What RabbitMQ can do through this adapter, and within which bounds.

use std::time::Duration;

use mq_core::capability::{Capabilities, Feature, Level, Limits};

use crate::config::RabbitConfig;
use crate::delay::MAX_DELAY;
use crate::error::BACKEND;

pub(crate) fn capabilities(config: &RabbitConfig) -> Capabilities {
    use Feature as F;
    let limits = Limits::default;
    let mut size = limits();
    size.max_bytes = u64::try_from(config.max_message_bytes).ok();
    let mut retry = limits();
    retry.lateness = Some(Duration::from_millis(1200));
    retry.granularity = Some(Duration::from_millis(1));
    let mut delay = limits();
    delay.lateness = Some(Duration::from_millis(2500));
    delay.granularity = Some(Duration::from_secs(1));
    delay.max_delay = Some(MAX_DELAY);
    let mut window = limits();
    window.duplicate_window = Some(0);
    Capabilities::new(BACKEND)
        .native([
            F::PipelinedSend,
            F::UnconfirmedSend,
            F::Groups,
            F::ManyTopics,
            F::OutOfOrderAck,
            F::Topology,
            F::RoutingPattern,
            F::RoutingHeaders,
        ])
        .with(F::BatchSend, Level::Emulated, limits(), "sent one behind the other and confirmed each")
        .with(F::Broadcast, Level::Emulated, limits(), "a queue of the consumer's own, gone with its connection: after a reconnect it begins anew")
        .with(F::Pause, Level::Emulated, limits(), "what was prefetched stays with the paused consumer")
        .with(F::ConfirmedSend, Level::Native, size, "confirmed by a majority of the quorum queue's replicas, written to disk")
        .with(F::KeyedOrder, Level::Native, limits(), "a queue keeps the order of one producer; groups that need it at several consumers are created with the mode `ordered`")
        .with(F::Headers, Level::Native, limits(), "a name that repeats is sent as a list; the order of different names is not kept")
        .with(F::Tombstones, Level::Emulated, limits(), "AMQP knows only bodies of no bytes: marked by a header")
        .with(F::DelayedSend, Level::Emulated, delay, "through queues of 2^k seconds; the broker moves the messages by itself; not to foreign queues and exchanges")
        .with(F::Requeue, Level::Native, limits(), "counts as a redelivery")
        .with(F::AutoAck, Level::Emulated, limits(), "acknowledged before it is handed out; the prefetch bounds it, which no_ack would not")
        .with(F::NonBlockingRetry, Level::Emulated, retry, "one queue for each delay; the broker moves the messages by itself")
        .with(F::KeyOrderedRetry, Level::Emulated, limits(), "in groups of the mode `ordered`, for messages with an id; the attempt is recorded beside the held message")
        .with(F::KeyIndependentRetry, Level::Emulated, limits(), "until 1,000 messages or 16 MiB of the partition wait behind it")
        .with(F::DurableAttempts, Level::Emulated, limits(), "a header of the retried message")
        .with(F::RedeliveryCount, Level::Native, limits(), "also counts what a consumer had prefetched when it closed; from 4.3 on a release does not")
        .with(F::DeadLetters, Level::Emulated, limits(), "listing returns the messages to their places")
        .with(F::Lag, Level::Native, limits(), "ready messages only: AMQP does not tell what is delivered and unsettled")
        .with(F::ListTopics, Level::Emulated, limits(), "those declared through the SDK: AMQP lists nothing, a stream remembers them")
        .with(F::NoLossOnRestart, Level::Native, window, "quorum queues write to disk before they confirm; a delay or retry may repeat a message once after a kill")
        .with(F::NoLossOnFailover, Level::Native, limits(), "as long as a majority of a queue's replicas stands; one node has one")
        .without(F::AtomicBatch, "write to an outbox in your own database transaction and relay it")
        .without(F::AtomicHandoff, "make the handler idempotent, with a guard")
        .without(F::HalfMessage, "write to an outbox in your own database transaction and relay it")
        .without(F::Replay, "create the group before sending: a queue holds what was sent since")
        .without(F::SeekPosition, "a queue has no positions; redrive dead letters, or use a log such as Kafka")
        .without(F::SeekTime, "a queue has no history; use a log such as Kafka")
        .without(F::RebalanceEvents, "the broker tells no consumer when it becomes the active one")
        .without(F::StablePosition, "foreign messages without message-id have no id: give a guard a key extractor")
}
