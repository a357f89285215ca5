//! Publishing: what a driver is handed, and how it answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::capability::Feature;
use crate::driver::Settlement;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId, Position};
use crate::name::Group;

/// Where a message goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// The message's topic: every group receives it.
    #[default]
    Topic,
    /// The message's topic, but only this group receives it (redrive).
    Group(Group),
}

/// What the broker said when it stored a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Where it stands, where the broker says so.
    pub position: Position,
    /// The id it was sent under.
    pub id: Option<MessageId>,
    /// When it becomes visible, for a delayed message; rounded up to what the broker can do.
    pub due: Option<SystemTime>,
    /// True when a living process of this SDK (`mq scheduler`, a worker) must move the message when it is due.
    pub needs_process: bool,
}

impl Receipt {
    /// Stored at `position`.
    pub fn at(position: Position) -> Self {
        Self { position, ..Self::default() }
    }

    /// Due at `due`, moved by a living process when `needs_process`.
    #[must_use]
    pub fn due(mut self, due: SystemTime, needs_process: bool) -> Self {
        self.due = Some(due);
        self.needs_process = needs_process;
        self
    }
}

/// Publishes messages. Shared by all tasks of a program.
#[async_trait]
pub trait ProducerDriver: Send + Sync + fmt::Debug {
    /// Accepts every item of the batch, in order, and returns; each item is completed later, exactly once, within the
    /// send deadline of the configuration. Waiting here is backpressure: it lasts until the client's own bounded queue
    /// has room, at most the send deadline (then the items not accepted are completed with
    /// [`ErrorKind::Backpressure`]). Items of one key are stored in the order given.
    ///
    /// Cancel safe: items not yet accepted complete as `Unavailable`, never silently.
    async fn publish(&self, batch: Vec<Publish>);

    /// Waits until everything accepted so far is completed, at most `deadline`.
    async fn flush(&self, deadline: Duration) -> Result<()>;

    /// Stores all messages and settles all deliveries together, or nothing of it.
    async fn atomic(&self, batch: Vec<Message>, settlements: Vec<Settlement>) -> Result<()> {
        let _ = (batch, settlements);
        Err(Error::unsupported(Feature::AtomicBatch, "", "write to an outbox in your own database transaction"))
    }

    /// Flushes, then closes. Later publishes complete with [`ErrorKind::Closed`].
    async fn close(&self, deadline: Duration) -> Result<()>;
}

/// One message on its way. The driver completes it exactly once; dropping it uncompleted counts as an ambiguous
/// outcome, so that no confirmation is ever invented.
#[must_use = "complete it, or the sender learns nothing"]
pub struct Publish {
    flight: Option<Arc<Flight>>,
}

/// One allocation per message: the message, so that an error can give it back, and the cell of the outcome.
struct Flight {
    message: Message,
    destination: Destination,
    deliver_at: Option<SystemTime>,
    confirm: bool,
    hook: Option<Arc<dyn Completed>>,
    outcome: Mutex<Outcome>,
}

/// Told of every outcome before the sender is, also when the sender no longer waits: frees what the send occupied.
pub(crate) trait Completed: Send + Sync {
    fn completed(&self, message: &Message, result: &Result<Receipt>);
}

enum Outcome {
    Open(Option<Waker>),
    Callback(Box<dyn FnOnce(Result<Receipt>) + Send>),
    Done(Result<Receipt>),
    Taken,
}

/// The future of one publish: the receipt, or the error and the message.
#[must_use = "await it, or the outcome is lost"]
pub struct Pending {
    flight: Option<Arc<Flight>>,
}

/// A publish for a driver, and the future of its outcome for the caller.
///
/// `confirm = false` asks for no confirmation: the driver completes it as soon as it was handed to the client.
pub fn in_flight(
    message: Message,
    destination: Destination,
    deliver_at: Option<SystemTime>,
    confirm: bool,
) -> (Publish, Pending) {
    in_flight_with(message, destination, deliver_at, confirm, None)
}

pub(crate) fn in_flight_with(
    message: Message,
    destination: Destination,
    deliver_at: Option<SystemTime>,
    confirm: bool,
    hook: Option<Arc<dyn Completed>>,
) -> (Publish, Pending) {
    let outcome = Mutex::new(Outcome::Open(None));
    let flight = Arc::new(Flight { message, destination, deliver_at, confirm, hook, outcome });
    (Publish { flight: Some(Arc::clone(&flight)) }, Pending { flight: Some(flight) })
}

impl Publish {
    /// The message; its topic, key, headers and body. Its id is set; reserved headers are the driver's to add.
    pub fn message(&self) -> &Message {
        &self.flight().message
    }

    /// Where it goes.
    pub fn destination(&self) -> &Destination {
        &self.flight().destination
    }

    /// When it may become visible; `None` is at once.
    pub fn deliver_at(&self) -> Option<SystemTime> {
        self.flight().deliver_at
    }

    /// False when the sender wants no confirmation (at most once).
    pub fn wants_confirm(&self) -> bool {
        self.flight().confirm
    }

    /// Completes it. `Ok` only when the broker has stored the message (or, without confirmation, when it was handed
    /// over).
    pub fn complete(mut self, result: Result<Receipt>) {
        if let Some(flight) = self.flight.take() {
            flight.complete(result);
        }
    }

    fn flight(&self) -> &Flight {
        #[expect(clippy::expect_used, reason = "the only takers consume self: complete() and drop()")]
        self.flight.as_deref().expect("taken only by complete() and drop(), which consume self")
    }
}

impl Flight {
    fn complete(&self, result: Result<Receipt>) {
        let result = result.map(|mut receipt| {
            receipt.id = self.message.message_id().cloned();
            receipt
        });
        if let Some(hook) = &self.hook {
            hook.completed(&self.message, &result);
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Open(waker) => {
                *outcome = Outcome::Done(result);
                drop(outcome);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Outcome::Callback(callback) => {
                drop(outcome);
                callback(result);
            }
            done @ (Outcome::Done(_) | Outcome::Taken) => *outcome = done,
        }
    }
}

impl Drop for Publish {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            let lost = Error::new(ErrorKind::Internal, "the outcome of the send was lost").ambiguous();
            flight.complete(Err(lost));
        }
    }
}

impl Pending {
    /// Calls `callback` with the outcome instead: at once if it is known, else on the thread that completes it. It must
    /// not block.
    pub fn on_complete(mut self, callback: impl FnOnce(Result<Receipt>) + Send + 'static) {
        let Some(flight) = self.flight.take() else { return };
        let mut outcome = flight.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Outcome::Done(result) = std::mem::replace(&mut *outcome, Outcome::Taken) {
            drop(outcome);
            callback(result);
        } else {
            *outcome = Outcome::Callback(Box::new(callback));
        }
    }

    /// Takes the error and the message of a send that has ended without being stored.
    pub(crate) fn refused(&mut self) -> Option<(Error, Message)> {
        let flight = self.flight.as_ref()?;
        let mut outcome = flight.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Done(Err(error)) if !error.is_ambiguous() => {
                drop(outcome);
                let message = flight.message.clone();
                self.flight = None;
                Some((error, message))
            }
            other => {
                *outcome = other;
                None
            }
        }
    }

    /// The message of this send.
    pub fn message(&self) -> Option<&Message> {
        self.flight.as_deref().map(|flight| &flight.message)
    }
}

impl Future for Pending {
    type Output = std::result::Result<Receipt, (Error, Message)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(flight) = self.flight.as_ref() else {
            // Polled after completion: a bug of the caller; staying pending for ever would hide it.
            let error = Error::closed("send (its outcome was already taken)");
            return Poll::Ready(Err((error, Message::to(crate::name::Topic::unnamed()))));
        };
        let mut outcome = flight.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Done(result) => {
                drop(outcome);
                let flight = self.flight.take();
                Poll::Ready(result.map_err(|error| {
                    let message = flight.map(|flight| match Arc::try_unwrap(flight) {
                        Ok(flight) => flight.message,
                        Err(shared) => shared.message.clone(),
                    });
                    (error, message.unwrap_or_else(|| Message::to(crate::name::Topic::unnamed())))
                }))
            }
            _ => {
                *outcome = Outcome::Open(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("message", &self.flight.as_ref().map(|flight| &flight.message)).finish()
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("message", &self.message()).finish()
    }
}
