//! Async functions as handlers.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use crate::error::Result;
use crate::handler::{Handler, HandlerError, IntoOutcome, Outcome};
use crate::message::FromMessage;
use crate::worker::Context;

/// An argument of a handler: anything that is [`FromMessage`], or the [`Context`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a handler's argument",
    note = "take `Json<T>`, `Text`, `Body`, `Message` or `Context`, or implement `FromMessage`"
)]
pub trait FromDelivery: Sized + Send {
    /// Reads the argument.
    ///
    /// # Errors
    /// Those of [`FromMessage::from_message`].
    fn from_delivery(context: &Context) -> Result<Self>;
}

impl<T: FromMessage> FromDelivery for T {
    fn from_delivery(context: &Context) -> Result<Self> {
        T::from_message(context.message())
    }
}

impl FromDelivery for Context {
    fn from_delivery(context: &Context) -> Result<Self> {
        Ok(context.clone())
    }
}

/// Async functions and closures that handle one message: up to four arguments, each [`FromDelivery`], returning `()` or
/// `Result<(), E>`. Closures must name the types of their arguments.
#[diagnostic::on_unimplemented(
    message = "this is not a handler",
    note = "a handler is `async fn(Json<T>)`, `async fn(Json<T>, Context)` and the like, returning `()` or `Result<(), E>`",
    note = "its future must be `Send`, and a closure must name the types of its arguments"
)]
pub trait HandlerFn<Arguments>: Send + Sync + 'static {
    /// The handler's future.
    type Future: Future<Output: IntoOutcome> + Send;

    /// Reads the arguments and starts the handler.
    ///
    /// # Errors
    /// When an argument cannot be read.
    fn start(&self, context: &Context) -> Result<Self::Future>;
}

macro_rules! handler_fn {
    ($($argument:ident),*) => {
        impl<F, R, $($argument),*> HandlerFn<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R + Send + Sync + 'static,
            R: Future<Output: IntoOutcome> + Send,
            $($argument: FromDelivery,)*
        {
            type Future = R;

            fn start(&self, context: &Context) -> Result<R> {
                let _ = context;
                Ok(self($($argument::from_delivery(context)?),*))
            }
        }
    };
}

handler_fn!();
handler_fn!(A);
handler_fn!(A, B);
handler_fn!(A, B, C);
handler_fn!(A, B, C, D);

/// A [`HandlerFn`] as a [`Handler`].
pub struct FnHandler<F, Arguments> {
    function: F,
    arguments: PhantomData<fn(Arguments)>,
}

impl<F, Arguments> FnHandler<F, Arguments> {
    pub(crate) fn new(function: F) -> Self {
        Self { function, arguments: PhantomData }
    }
}

impl<F: HandlerFn<Arguments>, Arguments: 'static> Handler for FnHandler<F, Arguments> {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        for context in batch {
            outcomes.push(match self.function.start(context) {
                Ok(running) => running.await.into_outcome(),
                Err(error) => Err(HandlerError::Decode(error)),
            });
        }
    }
}

impl<F, Arguments> fmt::Debug for FnHandler<F, Arguments> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnHandler").field("function", &std::any::type_name::<F>()).finish()
    }
}
