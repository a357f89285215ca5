//! What becomes of a message after its handler answered: pure decisions, no effects.

use std::time::Duration;

use crate::dead_letter::DeadLetterReason;
use crate::handler::{Class, Classification, HandlerError, OnUnknown, Shared};
use crate::retry::{RetryPolicy, round_up};

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Handled.
    Handled,
    /// Refused by the business: counts as handled.
    Discard(String),
    /// Tried again after the delay.
    Retry(Duration, String),
    /// Set aside.
    DeadLetter(DeadLetterReason, String),
}

/// What an answer says of the worker's surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The handler knew what it said: all is well.
    Answered,
    /// Says nothing: the message could not be read, or took too long.
    Neutral,
    /// Nobody knows the error: perhaps a database is down.
    Unknown,
}

/// The settings decisions are made by.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    pub(crate) retry: RetryPolicy,
    /// The policy's delays, ascending.
    pub(crate) tiers: Vec<Duration>,
    pub(crate) classification: Classification,
}

impl Judge {
    /// Judges the failure of attempt number `attempt`. `class` is what the previous unknown error of the same batch
    /// meant; it is updated.
    pub(crate) fn judge(&self, error: HandlerError, attempt: u32, class: &mut Class) -> (Decision, Signal) {
        let text = error.text();
        match error {
            HandlerError::Retry(_) => (self.retry(attempt, None, text), Signal::Answered),
            HandlerError::RetryAfter(delay, _) => (self.retry(attempt, Some(delay), text), Signal::Answered),
            HandlerError::DeadLetter(_) => (Decision::DeadLetter(DeadLetterReason::Rejected, text), Signal::Answered),
            HandlerError::Discard(_) => (Decision::Discard(text), Signal::Answered),
            HandlerError::Decode(_) => (Decision::DeadLetter(DeadLetterReason::Decode, text), Signal::Neutral),
            HandlerError::Unknown(cause) => {
                if !cause.is::<Shared>() {
                    *class = self.classification.of(&cause);
                }
                match *class {
                    Class::Retry => (self.retry(attempt, None, text), Signal::Answered),
                    Class::DeadLetter => (Decision::DeadLetter(DeadLetterReason::Rejected, text), Signal::Answered),
                    Class::Discard => (Decision::Discard(text), Signal::Answered),
                    Class::Unknown => match self.classification.on_unknown {
                        OnUnknown::DeadLetter => {
                            (Decision::DeadLetter(DeadLetterReason::Unknown, text), Signal::Unknown)
                        }
                        OnUnknown::Retry => (self.retry(attempt, None, text), Signal::Unknown),
                    },
                }
            }
        }
    }

    /// The handler took longer than `limit`: as if it had asked for a retry.
    pub(crate) fn timed_out(&self, attempt: u32, limit: Duration) -> (Decision, Signal) {
        let text = format!("the handler took longer than {}", humantime::format_duration(limit));
        (self.retry(attempt, None, text), Signal::Neutral)
    }

    fn retry(&self, attempt: u32, at_least: Option<Duration>, text: String) -> Decision {
        match self.retry.delay_after(attempt) {
            None => Decision::DeadLetter(DeadLetterReason::MaxAttempts, text),
            Some(delay) => {
                let delay = delay.max(at_least.unwrap_or_default());
                Decision::Retry(round_up(&self.tiers, delay), text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn judge(on_unknown: OnUnknown) -> Judge {
        let retry = RetryPolicy::default();
        Judge { tiers: retry.tiers(), retry, classification: Classification { hook: None, on_unknown } }
    }

    fn decide(judge: &Judge, error: HandlerError, attempt: u32) -> (Decision, Signal) {
        judge.judge(error, attempt, &mut Class::Unknown)
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_budget_counts_attempts() {
        let judge = judge(OnUnknown::DeadLetter);
        let retry = |attempt| decide(&judge, HandlerError::retry("x"), attempt).0;
        assert_eq!(retry(1), Decision::Retry(S(1), "x".into()));
        assert_eq!(retry(3), Decision::Retry(S(30), "x".into()));
        assert_eq!(retry(4), Decision::DeadLetter(DeadLetterReason::MaxAttempts, "x".into()));
        assert_eq!(retry(u32::MAX), Decision::DeadLetter(DeadLetterReason::MaxAttempts, "x".into()));
        let later = decide(&judge, HandlerError::retry_after(S(3), "x"), 1).0;
        assert_eq!(later, Decision::Retry(S(5), "x".into()), "rounded up to a tier");
    }

    #[test]
    fn each_answer_has_its_place() {
        let judge = judge(OnUnknown::DeadLetter);
        let dead = |reason| Decision::DeadLetter(reason, "x".into());
        assert_eq!(
            decide(&judge, HandlerError::dead_letter("x"), 1),
            (dead(DeadLetterReason::Rejected), Signal::Answered)
        );
        assert_eq!(decide(&judge, HandlerError::discard("x"), 1), (Decision::Discard("x".into()), Signal::Answered));
        assert_eq!(decide(&judge, HandlerError::unknown("x"), 1), (dead(DeadLetterReason::Unknown), Signal::Unknown));
        let decode = HandlerError::Decode(crate::error::Error::new(crate::error::ErrorKind::Codec, "x"));
        assert_eq!(decide(&judge, decode, 1), (dead(DeadLetterReason::Decode), Signal::Neutral));
        assert!(matches!(judge.timed_out(1, S(1)), (Decision::Retry(..), Signal::Neutral)));
    }

    #[test]
    fn unknown_errors_may_be_retried_or_classified() {
        let mut judge = judge(OnUnknown::Retry);
        assert_eq!(decide(&judge, HandlerError::unknown("x"), 1), (Decision::Retry(S(1), "x".into()), Signal::Unknown));
        judge.classification.hook =
            Some(Arc::new(|_: &(dyn std::error::Error + Send + Sync + 'static)| Class::Discard));
        assert_eq!(decide(&judge, HandlerError::unknown("x"), 1).0, Decision::Discard("x".into()));
    }
}
