//! A message in the hands of the user.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::capability::Feature;
use crate::consumer::Session;
use crate::dead_letter::{DeadLetterReason, DeadLetterRecord};
use crate::driver::{DeadLettering, Incoming, Origin, Retry, Settle, Token};
use crate::error::{Error, Result};
use crate::message::{Control, Message, MessageId, Position};
use crate::settle::Settling;

/// A message received and not yet settled.
///
/// Settle it by value: [`ack`](Self::ack), [`requeue`](Self::requeue), [`retry_after`](Self::retry_after),
/// [`dead_letter`](Self::dead_letter). Dropping it unsettled releases it: the broker delivers it again.
pub struct Delivery {
    incoming: Option<Incoming>,
    session: Arc<Session>,
}

impl Delivery {
    pub(crate) fn new(incoming: Incoming, session: Arc<Session>) -> Self {
        Self { incoming: Some(incoming), session }
    }

    fn incoming(&self) -> &Incoming {
        #[expect(clippy::expect_used, reason = "the only takers consume self: take() and drop()")]
        self.incoming.as_ref().expect("taken only by the settling methods and drop(), which consume self")
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.incoming().message
    }

    /// The message's id: its own, or one derived from its position where that never changes. `None` only for foreign
    /// messages without an id on a broker without positions (AMQP).
    pub fn id(&self) -> Option<MessageId> {
        self.incoming().id()
    }

    /// Which attempt this is, from 1: handler failures recorded so far, plus one. Never reset by a crash.
    pub fn attempt(&self) -> u32 {
        self.incoming().control.attempt
    }

    /// How often the broker says it was delivered before without being settled; crashes count, also of neighbours.
    pub fn redeliveries(&self) -> u32 {
        self.incoming().redeliveries
    }

    /// True when the broker flags it as possibly delivered before.
    pub fn redelivered(&self) -> bool {
        self.incoming().redelivered
    }

    /// Where it stands in the broker.
    pub fn position(&self) -> &Position {
        &self.incoming().position
    }

    /// Whether it comes from the topic, from a retry, or from the dead letters.
    pub fn origin(&self) -> Origin {
        self.incoming().origin
    }

    /// What the SDK's own headers say of it.
    pub fn control(&self) -> &Control {
        &self.incoming().control
    }

    /// Handled: the group never gets it again.
    pub fn ack(mut self) -> Settling {
        self.finish(Settle::Ack)
    }

    /// Gives it back for redelivery soon, without counting an attempt.
    pub fn requeue(mut self) -> Settling {
        self.finish(Settle::Requeue)
    }

    /// Gives it back as never started.
    pub fn release(mut self) -> Settling {
        self.finish(Settle::Release)
    }

    /// Stores it to be delivered to this group again after `delay`, as the next attempt; then acks.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported), with the delivery given back, when `delay` is
    /// not one of the consumer's `retry_delays`.
    pub fn retry_after(mut self, delay: Duration) -> Result<Settling, Box<(Error, Self)>> {
        if !self.session.retry_delays.contains(&delay) {
            let hint = "name every delay in ConsumerSpec::retry_delays: their places are declared at start";
            return Err(Box::new((Error::unsupported(Feature::NonBlockingRetry, self.session.backend, hint), self)));
        }
        let now = self.session.clock.now();
        let incoming = self.incoming();
        let retry = Retry {
            message: incoming.message.clone(),
            delay,
            due: self.session.clock.after(delay),
            attempt: incoming.control.attempt.saturating_add(1),
            first_failed: incoming.control.first_failed.or(Some(now)),
            redrives: incoming.control.redrives,
        };
        Ok(self.finish(Settle::Retry(Box::new(retry))))
    }

    /// Stores it among the dead letters of this group, with `error` as the reason given; then acks.
    ///
    /// A broadcast subscription has no dead letters: there it is acked.
    pub fn dead_letter(mut self, error: impl Into<String>) -> Settling {
        let Some(group) = self.session.group.clone() else { return self.finish(Settle::Ack) };
        let now = self.session.clock.now();
        let incoming = self.incoming();
        let record = DeadLetterRecord {
            reason: DeadLetterReason::Rejected,
            error: error.into(),
            attempts: incoming.control.attempt,
            first_failed: incoming.control.first_failed.or(Some(now)),
            failed: now,
            topic: incoming.message.topic().clone(),
            group,
            position: incoming.position.clone(),
            redrives: incoming.control.redrives,
        };
        let position = incoming.position.clone();
        let lettering = DeadLettering { message: incoming.message.clone(), record, position };
        self.finish(Settle::DeadLetter(Box::new(lettering)))
    }

    /// Keeps it ours for `lease` longer, where the broker counts.
    pub fn extend(&self, lease: Duration) {
        self.session.queue.push(self.incoming().token, Settle::Extend(lease));
    }

    pub(crate) fn token(&self) -> Token {
        self.incoming().token
    }

    /// It was acknowledged in one step with something else.
    pub(crate) fn settled(mut self) {
        if self.incoming.take().is_some() {
            self.session.queue.settled_elsewhere();
        }
    }

    fn finish(&mut self, action: Settle) -> Settling {
        let token = self.incoming().token;
        self.incoming = None;
        Settling::new(self.session.queue.clone(), token, action)
    }
}

impl Incoming {
    /// The message's id: its own, or one derived from topic and position where that never changes.
    pub fn id(&self) -> Option<MessageId> {
        match self.message.message_id() {
            Some(id) => Some(id.clone()),
            None if self.position.is_stable() => {
                Some(MessageId::from(format!("{}@{}", self.message.topic(), self.position)))
            }
            None => None,
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            self.session.queue.push(incoming.token, Settle::Release);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}
