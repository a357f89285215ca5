//! What settling a delivery returns.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use crate::driver::{Settle, Settled, Token};
use crate::error::{Error, Result};
use crate::settle::SettleQueue;

/// A settlement on its way.
///
/// Drop it and it is enqueued; nothing more needs to be done. Await it to learn how durable it became:
/// [`Settled::Durable`], [`Settled::Sent`] (within the declared duplicate window), or [`Settled::Stale`] (the message
/// will come again).
///
/// # Cancel safety
/// Dropping the future, before or while it is awaited, still settles the delivery.
pub struct Settling {
    queue: Option<(SettleQueue, Token)>,
    action: Option<Settle>,
}

impl Settling {
    pub(crate) fn new(queue: SettleQueue, token: Token, action: Settle) -> Self {
        Self { queue: Some((queue, token)), action: Some(action) }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let (Some((queue, token)), Some(action)) = (self.queue.take(), self.action.take()) {
            queue.push(token, action);
        }
    }
}

impl IntoFuture for Settling {
    type Output = Result<Settled>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        let receiver = match (self.queue.take(), self.action.take()) {
            (Some((queue, token)), Some(action)) => Some(queue.settle(token, action)),
            _ => None,
        };
        Box::pin(async move {
            let closed = || Error::closed("consumer");
            receiver.ok_or_else(closed)?.await.map_err(|_| closed())?
        })
    }
}

impl fmt::Debug for Settling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settling").field("action", &self.action).finish_non_exhaustive()
    }
}
