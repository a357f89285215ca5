//! Receiving: what a driver is asked for, and what it reports.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytestring::ByteString;

use crate::error::{Error, Result};
use crate::message::{Control, Message, Position};
use crate::subscription::Subscription;

/// What a consumer is opened with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerSpec {
    /// Topics, group, start, mode.
    pub subscription: Subscription,
    /// The most messages delivered and not yet settled, parked ones apart: a driver cannot tell which those are, so its own
    /// bound is `prefetch + parking`.
    pub prefetch: usize,
    /// In key order mode: how many more may be held for retry (see [`Hold`](crate::driver::Hold)); otherwise 0.
    pub parking: usize,
    /// Every delay a [`Retry`](crate::driver::Retry) of this consumer can ask for; its places are declared when the
    /// consumer opens. Empty: it never retries through the broker.
    pub retry_delays: Vec<Duration>,
    /// Acknowledge at receipt (at most once).
    pub auto_ack: bool,
    /// How long a revoked partition may take to drain.
    pub drain: Duration,
}

impl ConsumerSpec {
    /// A plain consumer of `subscription`, without retries.
    pub fn new(subscription: Subscription) -> Self {
        let prefetch = subscription.prefetch_or(10);
        Self {
            subscription,
            prefetch,
            parking: 0,
            retry_delays: Vec::new(),
            auto_ack: false,
            drain: Duration::from_secs(5),
        }
    }
}

/// Names a delivery to the settler. The meaning of the numbers is the adapter's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// The session (connection, assignment) it was delivered in. Another epoch now: stale.
    pub epoch: u32,
    /// The partition, queue or slot.
    pub lane: u32,
    /// Offset, delivery tag or the like.
    pub major: u64,
    /// What more the adapter needs.
    pub minor: u64,
}

/// Where a delivery comes from; decides whether its control headers were trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The topic itself.
    Topic,
    /// A retry of this group.
    Retry,
    /// A dead letter brought back to this group.
    Redrive,
}

/// A message as a driver delivers it.
#[derive(Debug)]
pub struct Incoming {
    /// How to settle it.
    pub token: Token,
    /// The message. From destinations the SDK owns: control headers read into `control` and removed. From foreign
    /// ones: headers as they are, except `mq-id`, which becomes the id. The topic is the one the group subscribed to,
    /// also for retries and redriven messages.
    pub message: Message,
    /// Where it stands. For retries and redriven messages: of the copy being delivered.
    pub position: Position,
    /// What trusted control headers say; the default on foreign destinations.
    pub control: Control,
    /// How often the broker says it was delivered before without being settled.
    pub redeliveries: u32,
    /// True when the broker flags it as possibly delivered before.
    pub redelivered: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// What happens on a subscription, in order.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "nearly every event is a message, and the buffer of events is reused")]
pub enum Event {
    /// A message.
    Message(Incoming),
    /// Partitions now read by this consumer; here and below by the numbers their tokens carry as [`Token::lane`].
    Assigned(Vec<u32>),
    /// These partitions are about to move. Finish what is in flight of them, settle it, then call
    /// [`ConsumerDriver::revoked`] with the number. After the drain time the driver goes on without.
    Revoking(u64, Vec<u32>),
    /// These partitions are gone: their deliveries are stale, their handlers must be cancelled.
    Lost(Vec<u32>),
    /// The connection is lost; the driver is reconnecting by itself. All deliveries of before are stale.
    Disconnected(ByteString),
    /// The connection stands again.
    Reconnected,
}

/// Receives messages. Exactly one owner.
///
/// The driver keeps its session alive by itself (heartbeats, polls of the client) also while nobody calls `poll`.
#[async_trait]
pub trait ConsumerDriver: Send + fmt::Debug {
    /// Appends what happened to `events`: at most `max` messages; returns as soon as there is anything, and after
    /// `wait` at the latest, then possibly with nothing. `max = 0` asks for events only.
    ///
    /// An error means the subscription cannot go on (permission lost, topic deleted); lost connections are events.
    /// Cancel safe: what is not in `events` comes with the next call.
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error>;

    /// Stops (or resumes) receiving without giving up the place. Unsettled deliveries stay valid.
    async fn pause(&mut self, paused: bool) -> Result<()>;

    /// The partitions of this revocation are drained.
    async fn revoked(&mut self, revocation: u64) -> Result<()>;

    /// Leaves the group. Everything settled so far is made durable first; what is not settled goes back to the broker
    /// without blame where the broker can do that. Waits at most `deadline`.
    async fn close(self: Box<Self>, deadline: Duration) -> Result<()>;
}
