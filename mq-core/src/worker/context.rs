//! What a handler knows of its message, beside the message itself.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::driver::{Incoming, Origin, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Claim;
use crate::message::{Control, Message, MessageId, Position};
use crate::name::Topic;
use crate::worker::handled::{Identity, Name};

/// The W3C header by which traces continue over messages.
pub const TRACEPARENT: &str = "traceparent";
/// Its companion.
pub const TRACESTATE: &str = "tracestate";
/// The most follow-ups one message may have.
const MAX_FOLLOW_UPS: usize = 1000;

/// The message being handled, and what the handler may do beside answering. Cheap to clone.
///
/// May be kept after the handler has ended, for reading; sending then is an error.
#[derive(Clone)]
pub struct Context(pub(crate) Arc<Job>);

/// One delivery on its way through the worker. Reused: the next delivery takes the place of one that was settled.
pub(crate) struct Job {
    pub(crate) incoming: Incoming,
    /// The attempt being made; rises when the message is held for its key's order.
    pub(crate) attempt: u32,
    /// What the id extractor said.
    pub(crate) id: Option<MessageId>,
    /// The key lane it runs on.
    pub(crate) key: Option<u64>,
    /// Trials it failed while the breaker was open.
    pub(crate) trials: u32,
    /// It is handed out for the first time. Those held for their key's order have failed before.
    pub(crate) first_failed: Option<std::time::SystemTime>,
    cancel: AtomicU8,
    cancelled: Notify,
    run: Mutex<RunState>,
}

/// What belongs to one run of the handler.
#[derive(Default)]
pub(crate) struct RunState {
    pub(crate) deadline: Option<Instant>,
    pub(crate) claim: Option<Claim>,
    follow_ups: Vec<Message>,
    closed: bool,
}

/// Whether a job may go on. Later ones outrank earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Cancel {
    /// It may.
    No = 0,
    /// Give it back unless its handler has started.
    Stop = 1,
    /// Stop the handler and give it back.
    Overdue = 2,
    /// Stop the handler; it is no longer ours.
    Lost = 3,
}

impl Context {
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self(Arc::new(Job {
            attempt: incoming.control.attempt,
            first_failed: incoming.control.first_failed,
            incoming,
            id: None,
            key: None,
            trials: 0,
            cancel: AtomicU8::new(0),
            cancelled: Notify::new(),
            run: Mutex::default(),
        }))
    }

    /// A context without a delivery, to be filled.
    pub(crate) fn blank() -> Self {
        Self::new(Incoming {
            token: Token { epoch: 0, lane: 0, major: 0, minor: 0 },
            message: Message::to(Topic::unnamed()),
            position: Position::None,
            control: Control::default(),
            redeliveries: 0,
            redelivered: false,
            origin: Origin::Topic,
        })
    }

    /// Takes the place of a delivery that was settled, and leaves that in `incoming`: large things are exchanged where
    /// they are. A new context when somebody still holds the old one.
    pub(crate) fn fill(mut self, incoming: &mut Incoming) -> Self {
        if Arc::get_mut(&mut self.0).is_none() {
            self = Self::blank();
        }
        if let Some(job) = Arc::get_mut(&mut self.0) {
            std::mem::swap(&mut job.incoming, incoming);
            job.attempt = job.incoming.control.attempt;
            job.first_failed = job.incoming.control.first_failed;
            job.id = None;
            job.key = None;
            job.trials = 0;
            *job.cancel.get_mut() = 0;
            job.run.get_mut().unwrap_or_else(PoisonError::into_inner).reset();
        }
        self
    }

    /// The job, to be changed between two runs: a copy when the handler kept a context.
    pub(crate) fn job_mut(&mut self) -> &mut Job {
        if Arc::get_mut(&mut self.0).is_none() {
            let job = &*self.0;
            let mut copy = Self::new(Incoming {
                token: job.incoming.token,
                message: job.incoming.message.clone(),
                position: job.incoming.position.clone(),
                control: job.incoming.control.clone(),
                redeliveries: job.incoming.redeliveries,
                redelivered: job.incoming.redelivered,
                origin: job.incoming.origin,
            });
            if let Some(fresh) = Arc::get_mut(&mut copy.0) {
                fresh.attempt = job.attempt;
                fresh.first_failed = job.first_failed;
                fresh.id.clone_from(&job.id);
                fresh.key = job.key;
                fresh.trials = job.trials;
            }
            *self = copy;
        }
        #[expect(clippy::expect_used, reason = "it was the only one, or has just been made")]
        Arc::get_mut(&mut self.0).expect("the only reference: checked or made above")
    }

    /// Another run of the same delivery: its attempt, and when it first failed.
    pub(crate) fn again(&mut self, attempt: u32, first_failed: Option<std::time::SystemTime>) {
        let job = self.job_mut();
        job.attempt = attempt;
        job.first_failed = job.first_failed.or(first_failed);
        *job.cancel.get_mut() = 0;
        job.run.get_mut().unwrap_or_else(PoisonError::into_inner).reset();
    }

    /// What it is known by; `None` when it has neither an id nor a position that lasts.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let job = &*self.0;
        let own = job.id.as_ref().or(job.incoming.message.message_id()).cloned();
        Some(Identity {
            topic: self.message().topic().clone(),
            name: own.map_or_else(|| place(&job.incoming), |id| Some(Name::Id(id)))?,
            redrives: job.incoming.control.redrives,
        })
    }

    /// The same, moved out where nobody else holds the context: it is settled.
    pub(crate) fn take_identity(&mut self) -> Option<Identity> {
        let Some(job) = Arc::get_mut(&mut self.0) else { return self.identity() };
        let place = place(&job.incoming);
        let (topic, own) = job.incoming.message.take_identity();
        let name = job.id.take().or(own).map_or(place, |id| Some(Name::Id(id)))?;
        Some(Identity { topic, name, redrives: job.incoming.control.redrives })
    }

    /// Lets go of what the message holds, when nobody else uses it; false when somebody does.
    pub(crate) fn clear(&mut self) -> bool {
        let Some(job) = Arc::get_mut(&mut self.0) else { return false };
        job.incoming.message.clear();
        true
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.0.incoming.message
    }

    /// The message's id: by the worker's `id_extractor`, as the producer gave it, or derived from the position where
    /// the broker has one that lasts.
    pub fn id(&self) -> Option<MessageId> {
        let job = &*self.0;
        job.id.as_ref().or(job.incoming.message.message_id()).cloned().or_else(|| derived_id(&job.incoming))
    }

    /// The attempt this is, from 1: one more than the failures recorded. A crash does not count.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// How often the broker says it was delivered before without being settled.
    pub fn redeliveries(&self) -> u32 {
        self.0.incoming.redeliveries
    }

    /// True when the broker flags it as possibly delivered before.
    pub fn redelivered(&self) -> bool {
        self.0.incoming.redelivered
    }

    /// Where the delivery stands.
    pub fn position(&self) -> &Position {
        &self.0.incoming.position
    }

    /// Whether it comes from the topic, from a retry, or from a redrive.
    pub fn origin(&self) -> Origin {
        self.0.incoming.origin
    }

    /// What the trusted control headers say.
    pub fn control(&self) -> &Control {
        &self.0.incoming.control
    }

    /// When the handler will be stopped, by tokio's clock; `None` without a timeout.
    pub fn deadline(&self) -> Option<Instant> {
        self.run().deadline
    }

    /// The fencing token of the guard's claim; `None` without a guard. A store that refuses tokens lower than it has
    /// seen keeps out handlers whose lease was lost.
    pub fn fencing_token(&self) -> Option<u64> {
        self.run().claim.as_ref().map(|claim| claim.fencing)
    }

    /// True when the answer of this handler will no longer be used.
    pub fn is_cancelled(&self) -> bool {
        self.cancel() >= Cancel::Overdue
    }

    /// Waits until the handler is cancelled: for tasks it started. The handler's own future is dropped then.
    /// Cancel safe.
    pub async fn cancelled(&self) {
        loop {
            let mut notified = std::pin::pin!(self.0.cancelled.notified());
            notified.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }

    /// Sends `message` as part of handling this one: when the handler succeeds, all its follow-ups are sent and
    /// confirmed before the acknowledgement; when it fails they are dropped. A follow-up that cannot be sent makes the
    /// message a retry. The trace of this message is continued unless `message` has one of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Backpressure`] beyond 1,000 follow-ups; [`ErrorKind::Closed`] after the handler has ended.
    pub fn send(&self, mut message: Message) -> Result<()> {
        for name in [TRACEPARENT, TRACESTATE] {
            if let (None, Some(value)) = (message.headers().get(name), self.message().headers().get(name).cloned()) {
                message.headers_mut().append(name, value);
            }
        }
        let mut run = self.run();
        if run.closed {
            return Err(Error::closed("handler this context belongs to").with_operation("send a follow-up"));
        }
        if run.follow_ups.len() >= MAX_FOLLOW_UPS {
            return Err(Error::new(
                ErrorKind::Backpressure,
                format!("a message may have at most {MAX_FOLLOW_UPS} follow-ups"),
            )
            .with_hint("send large fan-outs with a producer of your own"));
        }
        run.follow_ups.push(message);
        Ok(())
    }

    /// The W3C trace context the message came with, to continue its trace.
    pub fn traceparent(&self) -> Option<&str> {
        self.message().headers().get_str(TRACEPARENT)
    }

    pub(crate) fn token(&self) -> Token {
        self.0.incoming.token
    }

    pub(crate) fn run(&self) -> MutexGuard<'_, RunState> {
        self.0.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cancel(&self) -> Cancel {
        match self.0.cancel.load(Ordering::Acquire) {
            0 => Cancel::No,
            1 => Cancel::Stop,
            2 => Cancel::Overdue,
            _ => Cancel::Lost,
        }
    }

    /// Cancels it as far as `how` says; never less than before.
    pub(crate) fn set_cancel(&self, how: Cancel) {
        self.0.cancel.fetch_max(how as u8, Ordering::AcqRel);
        if how >= Cancel::Overdue {
            self.0.cancelled.notify_waiters();
        }
    }
}

impl RunState {
    pub(crate) fn reset(&mut self) {
        self.deadline = None;
        self.claim = None;
        self.follow_ups.clear();
        self.closed = false;
    }

    /// The handler has ended: accepts no more follow-ups. False, and nothing done, when there are some.
    pub(crate) fn close_plain(&mut self) -> bool {
        self.closed = self.follow_ups.is_empty();
        self.closed
    }

    /// The handler has ended: takes its follow-ups and accepts no more.
    pub(crate) fn finish(&mut self) -> Vec<Message> {
        self.closed = true;
        std::mem::take(&mut self.follow_ups)
    }
}

fn place(incoming: &Incoming) -> Option<Name> {
    incoming.position.is_stable().then(|| Name::Position(incoming.position.clone()))
}

/// An id made of a position that lasts. Only for messages read from their topic: a retry's copy stands elsewhere, and
/// carries the id it was given when it failed.
pub(crate) fn derived_id(incoming: &Incoming) -> Option<MessageId> {
    if incoming.origin == Origin::Topic { incoming.id() } else { None }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("message", self.message())
            .field("attempt", &self.attempt())
            .field("redeliveries", &self.redeliveries())
            .field("position", self.position())
            .finish_non_exhaustive()
    }
}
