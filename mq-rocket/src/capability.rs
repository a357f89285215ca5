//! What RocketMQ can do through this adapter, and within which bounds.

use std::time::Duration;

use mq_core::capability::{Capabilities, Feature, Level, Limits};

use crate::config::RocketConfig;
use crate::error::BACKEND;
use crate::producer::MAX_DELAY;

/// What may come again after the broker was killed: ten seconds' worth. The broker knows no bound by number.
const KILLED: u64 = 10_000;

pub(crate) fn capabilities(config: &RocketConfig) -> Capabilities {
    use Feature as F;
    let limits = Limits::default;
    let mut size = limits();
    size.max_bytes = u64::try_from(config.max_message_bytes).ok();
    let mut delay = limits();
    delay.lateness = Some(Duration::from_secs(3));
    delay.granularity = Some(Duration::from_secs(1));
    delay.max_delay = Some(MAX_DELAY);
    let mut window = limits();
    window.duplicate_window = Some(KILLED);
    Capabilities::new(BACKEND)
        .native([F::PipelinedSend, F::UnconfirmedSend, F::Groups, F::Topology, F::ListTopics])
        .with(F::ConfirmedSend, Level::Native, size, "as durable as the broker's flushDiskType and brokerRole; a flush or a replica that was waited for in vain is an ambiguous error")
        .with(F::OutOfOrderAck, Level::Native, window.clone(), "a killed broker forgets what was acknowledged since it last wrote positions down: every flushConsumerOffsetInterval (5 s by default), the first time 10 s after its start; the number is for 1,000 messages a second")
        .with(F::BatchSend, Level::Native, limits(), "messages for one queue travel together while a request is under way")
        .with(F::KeyedOrder, Level::Native, limits(), "one request under way for each queue; groups that need it at several consumers are created with the mode `ordered`; there a queue's next messages come when those delivered are settled, so a slow key may hold others of its queue")
        .with(F::Headers, Level::Native, limits(), "as properties; repeated names and values that are not text travel encoded in one property; the order of different names is not kept")
        .with(F::Tombstones, Level::Emulated, limits(), "the broker knows no bodies of no bytes: marked by a property")
        .with(F::DelayedSend, Level::Native, delay.clone(), "by the broker's timer wheel, once a second")
        .with(F::HalfMessage, Level::Native, limits(), "asked back about after the broker's transactionTimeOut (6 s), then every transactionCheckInterval (30 s), and given up after transactionCheckMax (15) questions nobody could answer; a commit later than the first question, or shortly before the broker is killed, may come twice under one id; never delayed")
        .with(F::Broadcast, Level::Emulated, limits(), "a group of the consumer's own, deleted with it")
        .with(F::ManyTopics, Level::Emulated, limits(), "one reader for each topic")
        .with(F::Requeue, Level::Native, limits(), "counts as a redelivery; comes back 1 to 3 s later")
        .with(F::AutoAck, Level::Emulated, limits(), "acknowledged before it is handed out")
        .with(F::NonBlockingRetry, Level::Emulated, delay, "a delayed copy in the group's own topic")
        .with(F::KeyOrderedRetry, Level::Emulated, limits(), "in groups of the mode `ordered`; the message waits in the consumer's memory, its attempt in a topic of the group's own, and its queue waits with it")
        .with(F::DurableAttempts, Level::Emulated, limits(), "a property of the retried message, or of the record of one that is held")
        .with(F::RedeliveryCount, Level::Native, limits(), "also counts what a consumer had prefetched when it ended")
        .with(F::DeadLetters, Level::Emulated, limits(), "a topic of the group's own, read by position")
        .with(F::Lag, Level::Native, limits(), "what is delivered and unsettled is not included")
        .with(F::Replay, Level::Native, limits(), "for new groups; those that exist are moved")
        .with(F::SeekPosition, Level::Native, limits(), "")
        .with(F::SeekTime, Level::Native, limits(), "by the time the broker stored a message")
        .with(F::Pause, Level::Emulated, limits(), "what was prefetched stays with the paused consumer")
        .with(F::StablePosition, Level::Native, limits(), "a redelivered message stands in the broker's retry topic: its id is the one its producer gave it")
        .with(F::NoLossOnRestart, Level::Native, window, "with flushDiskType=SYNC_FLUSH; what was acknowledged last may come again, see out-of-order-ack")
        .without(F::KeyIndependentRetry, "more partitions make fewer keys wait; or retry without the order of the key (mq work: --unordered-retries), or use Kafka, RabbitMQ or Redis Streams")
        .without(F::NoLossOnFailover, "messages are replicated by the broker's own set-up, which this adapter does not check")
        .without(F::AtomicBatch, "write to an outbox in your own database transaction and relay it")
        .without(F::AtomicHandoff, "make the handler idempotent, with a guard")
        .without(F::RebalanceEvents, "the broker hands out messages, not queues: nothing is assigned")
        .without(F::RoutingPattern, "give what a group selects a topic of its own")
        .without(F::RoutingHeaders, "give what a group selects a topic of its own")
}
