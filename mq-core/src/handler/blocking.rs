//! Blocking functions as handlers.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::handler::{FromDelivery, Handler, HandlerError, IntoOutcome, Outcome};
use crate::worker::Context;

/// Blocking functions and closures that handle one message: up to four arguments, each [`FromDelivery`], returning `()`
/// or `Result<(), E>`.
#[diagnostic::on_unimplemented(
    message = "this is not a blocking handler",
    note = "a blocking handler is `fn(Json<T>)`, `fn(Json<T>, Context)` and the like, returning `()` or `Result<(), E>`"
)]
pub trait BlockingFn<Arguments>: Send + Sync + 'static {
    /// Reads the arguments and runs the handler to its end.
    fn call(&self, context: &Context) -> Outcome;
}

macro_rules! blocking_fn {
    ($($argument:ident),*) => {
        impl<F, R, $($argument),*> BlockingFn<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R + Send + Sync + 'static,
            R: IntoOutcome,
            $($argument: FromDelivery,)*
        {
            fn call(&self, context: &Context) -> Outcome {
                let _ = context;
                self($(match $argument::from_delivery(context) {
                    Ok(argument) => argument,
                    Err(error) => return Err(HandlerError::Decode(error)),
                }),*)
                .into_outcome()
            }
        }
    };
}

blocking_fn!();
blocking_fn!(A);
blocking_fn!(A, B);
blocking_fn!(A, B, C);
blocking_fn!(A, B, C, D);

/// Runs a [`BlockingFn`] on the threads tokio keeps for blocking code, so that leases are renewed and connections served
/// meanwhile.
///
/// A thread cannot be stopped from outside: after a timeout or a lost lease the function runs on, and its answer is not
/// used. Long ones should look at [`Context::is_cancelled`].
pub struct BlockingHandler<F, Arguments> {
    function: Arc<F>,
    arguments: PhantomData<fn(Arguments)>,
}

impl<F, Arguments> BlockingHandler<F, Arguments> {
    pub(crate) fn new(function: F) -> Self {
        Self { function: Arc::new(function), arguments: PhantomData }
    }
}

impl<F: BlockingFn<Arguments>, Arguments: 'static> Handler for BlockingHandler<F, Arguments> {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        for context in batch {
            let (function, context) = (Arc::clone(&self.function), context.clone());
            let running = tokio::task::spawn_blocking(move || function.call(&context));
            outcomes.push(match running.await {
                Ok(outcome) => outcome,
                Err(error) => match error.try_into_panic() {
                    // Counted where every other panic of a handler is.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => Err(HandlerError::retry(error)),
                },
            });
        }
    }
}

impl<F, Arguments> fmt::Debug for BlockingHandler<F, Arguments> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingHandler").field("function", &std::any::type_name::<F>()).finish()
    }
}
