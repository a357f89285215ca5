//! The outcome of a send, now or later.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::driver::{self, Receipt};
use crate::error::Error;
use crate::message::Message;

/// A send that failed: the error, and the message for another try. One word wide.
pub struct SendError(Box<(Error, Message)>);

impl SendError {
    pub(crate) fn new(error: Error, message: Message) -> Self {
        Self(Box::new((error.with_operation("send"), message)))
    }

    /// What went wrong. When [ambiguous](Error::is_ambiguous), the message may be stored: send it again only under the
    /// same id, which [`message`](Self::message) carries.
    pub fn error(&self) -> &Error {
        &self.0.0
    }

    /// The message, with the id it was sent under.
    pub fn message(&self) -> &Message {
        &self.0.1
    }

    /// The message, for another try.
    pub fn into_message(self) -> Message {
        self.0.1
    }

    /// Both.
    pub fn into_parts(self) -> (Error, Message) {
        *self.0
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        error.0.0
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.0, f)
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.0.0).field("message", &self.0.1).finish()
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.0)
    }
}

/// A message on its way: a future of its receipt. Dropping it does not recall the message.
#[must_use = "await it, or nobody learns whether the message was stored"]
#[derive(Debug)]
pub struct Pending(driver::Pending);

impl Pending {
    pub(crate) fn new(pending: driver::Pending) -> Self {
        Self(pending)
    }
}

impl Future for Pending {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| result.map_err(|(error, message)| SendError::new(error, message)))
    }
}
