//! One error type for every adapter: what failed, where, whether it may be tried again, and what to do.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::capability::Feature;

/// Shorthand used across the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, independent of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, URL, name or argument is wrong. Trying again without changing it cannot help.
    Config,
    /// The broker cannot be reached, or the connection to it was lost.
    Unavailable,
    /// The broker refused the credentials or the permission, or one side does not trust the other's certificate.
    Auth,
    /// The topic, group, queue or exchange does not exist.
    NotFound,
    /// The broker has the topic or group with other properties than the ones asked for.
    TopologyConflict,
    /// The message was routed to nobody: no group would ever have received it.
    Unroutable,
    /// The message, key or headers exceed what the broker or the configuration accepts.
    TooLarge,
    /// The broker or the local bound is full: slow down.
    Backpressure,
    /// The broker refused the request for another reason.
    Rejected,
    /// The deadline passed before an answer came.
    Timeout,
    /// An earlier send of the same key ended [`Retryability::Ambiguous`]; this one must not overtake it.
    Fenced,
    /// The producer, consumer or broker handle is closed.
    Closed,
    /// The broker does not have the feature; see [`Error::feature`].
    Unsupported,
    /// The adapter for this URL is not compiled in; enable the cargo feature named in the message.
    FeatureDisabled,
    /// The body or a header could not be decoded or encoded.
    Codec,
    /// Anything else, the adapter's own bugs included.
    Internal,
}

/// Whether trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retryability {
    /// Trying again gives the same answer.
    Permanent,
    /// Nothing was done; trying again may succeed.
    Transient,
    /// It may have been done: a message may be stored although no confirmation came. Send it again only under the
    /// same message id.
    Ambiguous,
    /// It was tried as often as the policy allows; an outer retry should stop too.
    Exhausted,
}

/// The error of every operation of this crate and of every adapter.
///
/// One word wide, so that `Result<(), Error>` costs no more than a pointer on the path where nothing fails.
/// Never contains a secret: adapters build it from their own words, and sources are redacted where they may carry one.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retryability: Retryability,
    backend: &'static str,
    operation: Cow<'static, str>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    feature: Option<Feature>,
    retry_after: Option<Duration>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with what happened in `message`. Its retryability follows the kind until changed with
    /// [`Error::with_retryability`].
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retryability: default_retryability(kind),
            backend: "",
            operation: Cow::Borrowed(""),
            message: message.into(),
            hint: None,
            feature: None,
            retry_after: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// A wrong setting, name or argument.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// The typed answer to a feature the broker does not have.
    pub fn unsupported(feature: Feature, backend: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(ErrorKind::Unsupported, format!("{feature} is not supported"));
        error.0.feature = Some(feature);
        error.with_backend(backend).with_hint(hint)
    }

    /// The answer to an operation on a closed handle.
    pub fn closed(what: &'static str) -> Self {
        Self::new(ErrorKind::Closed, format!("the {what} is closed"))
    }

    /// The deadline of `limit` passed.
    pub fn timeout(limit: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("no answer within {}", humantime::format_duration(limit)))
    }

    /// Names the backend, such as `kafka`.
    #[must_use]
    pub fn with_backend(mut self, backend: &'static str) -> Self {
        self.0.backend = backend;
        self
    }

    /// Names the operation, such as `send` or `open consumer`. The first name given stays: it is the nearest.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        if self.0.operation.is_empty() {
            self.0.operation = operation.into();
        }
        self
    }

    /// Adds a fact, such as the topic. Never a secret.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the underlying error. It must not print a secret.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Overrides the retryability that follows from the kind.
    #[must_use]
    pub fn with_retryability(mut self, retryability: Retryability) -> Self {
        self.0.retryability = retryability;
        self
    }

    /// Says how long to wait before trying again.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Marks the outcome as unknown: it may have been done.
    #[must_use]
    pub fn ambiguous(self) -> Self {
        self.with_retryability(Retryability::Ambiguous)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again makes sense.
    pub fn retryability(&self) -> Retryability {
        self.0.retryability
    }

    /// True when the thing may have been done although this error came.
    pub fn is_ambiguous(&self) -> bool {
        self.0.retryability == Retryability::Ambiguous
    }

    /// True when nothing was done and trying again may succeed.
    pub fn is_transient(&self) -> bool {
        self.0.retryability == Retryability::Transient
    }

    /// The backend that answered, such as `kafka`; empty when the error arose before any was asked.
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// The operation that failed; may be empty.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What happened, without the facts, the hint and the cause around it.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The feature that is missing, for [`ErrorKind::Unsupported`].
    pub fn feature(&self) -> Option<Feature> {
        self.0.feature
    }

    /// How long to wait before trying again, where the broker said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The facts added on the way, in order.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }
}

fn default_retryability(kind: ErrorKind) -> Retryability {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Backpressure | ErrorKind::Timeout | ErrorKind::Fenced => {
            Retryability::Transient
        }
        _ => Retryability::Permanent,
    }
}

/// `kafka: send failed: no answer within 30s (topic=order.events); hint: …; cause: …`
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.backend.is_empty() {
            write!(f, "{}: ", inner.backend)?;
        }
        if !inner.operation.is_empty() {
            write!(f, "{} failed: ", inner.operation)?;
        }
        f.write_str(&inner.message)?;
        for (index, (name, value)) in inner.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " (" } else { ", " })?;
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        if inner.retryability == Retryability::Ambiguous {
            f.write_str("; it may have been done")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "; hint: {hint}")?;
        }
        if let Some(source) = &inner.source {
            write!(f, "; cause: {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("retryability", &self.0.retryability)
            .field("text", &format_args!("{self}"))
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_word() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn says_what_where_why_and_what_to_do() {
        let error = Error::new(ErrorKind::Unroutable, "no group is bound")
            .with_backend("rabbit")
            .with_operation("send")
            .with_context("topic", "order.events")
            .with_hint("create a group first: mq group create order.events --group NAME");
        assert_eq!(
            error.to_string(),
            "rabbit: send failed: no group is bound (topic=order.events); \
             hint: create a group first: mq group create order.events --group NAME"
        );
    }
}
