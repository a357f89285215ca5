//! Async functions that handle several messages at once.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use crate::handler::{FromDelivery, Handler, HandlerError, Outcome};
use crate::worker::Context;

/// Messages handed to a batch handler together: those that could be decoded.
#[derive(Debug)]
pub struct Batch<T> {
    items: Vec<(T, Context)>,
}

impl<T> Batch<T> {
    /// How many there are; at least one.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The messages, in the order they arrived.
    pub fn iter(&self) -> impl Iterator<Item = &(T, Context)> {
        self.items.iter()
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = (T, Context);
    type IntoIter = std::vec::IntoIter<(T, Context)>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// What a batch handler may return: one answer for all, or one each, in order.
#[diagnostic::on_unimplemented(
    message = "a batch handler cannot return `{Self}`",
    note = "return `()` or `Result<(), E>` for all messages, or `Vec<Outcome>` with one answer each, in order"
)]
pub trait IntoBatchOutcome {
    /// The answers for `count` messages. Missing ones count as unknown errors.
    fn into_outcomes(self, count: usize) -> Vec<Outcome>;
}

impl IntoBatchOutcome for () {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        (0..count).map(|_| Ok(())).collect()
    }
}

impl<E: Into<HandlerError>> IntoBatchOutcome for Result<(), E> {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        match self {
            Ok(()) => ().into_outcomes(count),
            Err(error) => share(error.into(), count),
        }
    }
}

impl<E: Into<HandlerError>> IntoBatchOutcome for Vec<Result<(), E>> {
    fn into_outcomes(self, _: usize) -> Vec<Outcome> {
        self.into_iter().map(|outcome| outcome.map_err(Into::into)).collect()
    }
}

/// One error for every message of a batch: the first keeps the error itself, so that it can be classified by its type;
/// the others follow its text.
fn share(error: HandlerError, count: usize) -> Vec<Outcome> {
    let text = error.text();
    let again = |error: &HandlerError| match error {
        HandlerError::Retry(_) => HandlerError::retry(text.clone()),
        HandlerError::RetryAfter(delay, _) => HandlerError::retry_after(*delay, text.clone()),
        HandlerError::DeadLetter(_) | HandlerError::Decode(_) => HandlerError::dead_letter(text.clone()),
        HandlerError::Discard(_) => HandlerError::discard(text.clone()),
        HandlerError::Unknown(_) => HandlerError::Unknown(Box::new(Shared(text.clone()))),
    };
    let mut outcomes: Vec<Outcome> = (1..count).map(|_| Err(again(&error))).collect();
    outcomes.insert(0, Err(error));
    outcomes
}

/// The text of an error that another message of the batch keeps; the worker gives it the same class.
#[derive(Debug)]
pub(crate) struct Shared(String);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Shared {}

/// Async functions and closures that handle a [`Batch`].
#[diagnostic::on_unimplemented(
    message = "this is not a batch handler",
    note = "a batch handler is `async fn(Batch<Json<T>>)`, returning `()`, `Result<(), E>` or `Vec<Outcome>`"
)]
pub trait BatchFn<T>: Send + Sync + 'static {
    /// The handler's future.
    type Future: Future<Output: IntoBatchOutcome> + Send;

    /// Starts the handler.
    fn start(&self, batch: Batch<T>) -> Self::Future;
}

impl<F, T, R> BatchFn<T> for F
where
    F: Fn(Batch<T>) -> R + Send + Sync + 'static,
    R: Future<Output: IntoBatchOutcome> + Send,
{
    type Future = R;

    fn start(&self, batch: Batch<T>) -> R {
        self(batch)
    }
}

/// A [`BatchFn`] as a [`Handler`].
pub struct BatchHandler<F, T> {
    function: F,
    size: usize,
    argument: PhantomData<fn(T)>,
}

impl<F, T> BatchHandler<F, T> {
    pub(crate) fn new(function: F, size: usize) -> Self {
        Self { function, size: size.max(1), argument: PhantomData }
    }
}

impl<F: BatchFn<T>, T: FromDelivery + 'static> Handler for BatchHandler<F, T> {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        let mut items = Vec::with_capacity(batch.len());
        let mut failed = Vec::new();
        for (index, context) in batch.iter().enumerate() {
            match T::from_delivery(context) {
                Ok(item) => items.push((item, context.clone())),
                Err(error) => failed.push((index, error)),
            }
        }
        let count = items.len();
        let answers =
            if count == 0 { Vec::new() } else { self.function.start(Batch { items }).await.into_outcomes(count) };
        let mut answers = answers.into_iter();
        let mut failed = failed.into_iter().peekable();
        for index in 0..batch.len() {
            match failed.next_if(|(at, _)| *at == index) {
                Some((_, error)) => outcomes.push(Err(HandlerError::Decode(error))),
                None => {
                    let missing = || Err(HandlerError::unknown("the batch handler gave no outcome for this message"));
                    outcomes.push(answers.next().unwrap_or_else(missing));
                }
            }
        }
    }

    fn batch_size(&self) -> usize {
        self.size
    }
}

impl<F, T> fmt::Debug for BatchHandler<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHandler").field("function", &std::any::type_name::<F>()).field("size", &self.size).finish()
    }
}
