//! What a handler answers.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// Any error, as a handler gives it.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// The answer of a handler for one message.
pub type Outcome = Result<(), HandlerError>;

/// Why a message was not handled, which decides what becomes of it.
///
/// `?` turns any other error into [`HandlerError::Unknown`]; say what it means with
/// `.map_err(HandlerError::retry)` and the like, or once for all with [`Classify`](super::Classify).
#[non_exhaustive]
pub enum HandlerError {
    /// It may work later: tried again by the retry policy; when its budget is used up, a dead letter.
    Retry(Cause),
    /// As [`HandlerError::Retry`], but not before this long: rounded up to a tier of the policy.
    RetryAfter(Duration, Cause),
    /// It will never work: a dead letter at once.
    DeadLetter(Cause),
    /// The business says no: counts as handled, neither retried nor set aside.
    Discard(Cause),
    /// The message could not be understood: a dead letter at once, with the reason `decode`.
    Decode(Error),
    /// Not known: classified by [`Classify`](super::Classify), else by `on_unknown`.
    Unknown(Cause),
}

impl HandlerError {
    /// It may work later.
    pub fn retry(cause: impl Into<Cause>) -> Self {
        Self::Retry(cause.into())
    }

    /// It may work later, but not before `delay`.
    pub fn retry_after(delay: Duration, cause: impl Into<Cause>) -> Self {
        Self::RetryAfter(delay, cause.into())
    }

    /// It will never work.
    pub fn dead_letter(cause: impl Into<Cause>) -> Self {
        Self::DeadLetter(cause.into())
    }

    /// The business says no.
    pub fn discard(cause: impl Into<Cause>) -> Self {
        Self::Discard(cause.into())
    }

    /// Not known; for error types that are no [`std::error::Error`] themselves.
    pub fn unknown(cause: impl Into<Cause>) -> Self {
        Self::Unknown(cause.into())
    }

    /// The error behind it, as text with its sources.
    pub fn text(&self) -> String {
        match self {
            Self::Decode(error) => error.to_string(),
            Self::Retry(cause)
            | Self::RetryAfter(_, cause)
            | Self::DeadLetter(cause)
            | Self::Discard(cause)
            | Self::Unknown(cause) => with_sources(cause.as_ref()),
        }
    }
}

/// An error and its sources; ours prints its own source already.
fn with_sources(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    if error.downcast_ref::<Error>().is_some() {
        return text;
    }
    let mut source = error.source();
    // Bounded: a source may, by mistake, be its own.
    for _ in 0..8 {
        let Some(error) = source else { break };
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::Unknown(Box::new(error))
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Retry(_) => "Retry",
            Self::RetryAfter(..) => "RetryAfter",
            Self::DeadLetter(_) => "DeadLetter",
            Self::Discard(_) => "Discard",
            Self::Decode(_) => "Decode",
            Self::Unknown(_) => "Unknown",
        };
        f.debug_tuple(name).field(&format_args!("{}", self.text())).finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "return `()`, or `Result<(), E>` where `E` is `HandlerError` or any `std::error::Error`"
)]
pub trait IntoOutcome {
    /// The answer.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl<E: Into<HandlerError>> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_unknown_and_keeps_its_sources() {
        fn read() -> Outcome {
            "seven".parse::<u32>()?;
            Ok(())
        }
        assert!(matches!(read(), Err(HandlerError::Unknown(_))));
        let error = HandlerError::retry("the bank is closed");
        assert_eq!(error.text(), "the bank is closed");
        assert_eq!(format!("{error:?}"), "Retry(the bank is closed)");
    }
}
