//! The interface between the worker and the user's code.

use std::future::Future;

use crate::handler::Outcome;
use crate::worker::Context;

/// Handles messages, in batches inside: one message is a batch of one.
///
/// Most handlers are plain async functions (see [`Worker::handle`](crate::worker::Worker::handle)); implement this for
/// a [`Layer`] or for full control. The future is polled in place, never boxed. It is dropped when the handler exceeds
/// its timeout, when the message's lease is lost and when the drain deadline passes.
pub trait Handler: Send + Sync + 'static {
    /// Handles every message of `batch` and appends one outcome each to `outcomes`, in order. A missing outcome counts
    /// as an unknown error, and so does a panic for those that have none yet.
    fn handle<'a>(
        &'a self,
        batch: &'a [Context],
        outcomes: &'a mut Vec<Outcome>,
    ) -> impl Future<Output = ()> + Send + 'a;

    /// The most messages it takes at once.
    fn batch_size(&self) -> usize {
        1
    }
}

/// Wraps handlers, for what many handlers share: metrics, a database transaction, access checks. Runs around the handler
/// only: the order of the worker's own steps is not the user's to change.
pub trait Layer<H: Handler> {
    /// The wrapped handler.
    type Handler: Handler;

    /// Wraps `inner`.
    fn layer(self, inner: H) -> Self::Handler;
}

/// No layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLayer;

impl<H: Handler> Layer<H> for NoLayer {
    type Handler = H;

    fn layer(self, inner: H) -> H {
        inner
    }
}

/// One layer inside another: the first one added is the outermost.
#[derive(Debug, Clone, Copy)]
pub struct Stack<Outer, Inner> {
    pub(crate) outer: Outer,
    pub(crate) inner: Inner,
}

impl<H, Outer, Inner> Layer<H> for Stack<Outer, Inner>
where
    H: Handler,
    Inner: Layer<H>,
    Outer: Layer<Inner::Handler>,
{
    type Handler = Outer::Handler;

    fn layer(self, handler: H) -> Self::Handler {
        self.outer.layer(self.inner.layer(handler))
    }
}
