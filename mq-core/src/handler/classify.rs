//! What errors mean that a handler did not classify itself.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::Error;
use crate::handler::Cause;

/// What an error means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may work later.
    Retry,
    /// It will never work.
    DeadLetter,
    /// The business says no: counts as handled.
    Discard,
    /// No idea: the worker's `on_unknown` decides.
    Unknown,
}

/// What becomes of a message whose error nobody classified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OnUnknown {
    /// Set it aside at once.
    #[default]
    DeadLetter,
    /// Treat it as if it may work later.
    Retry,
}

/// Says what errors mean, once for all handlers: that a lost database connection is worth a retry, say.
///
/// Implemented by closures: `|error: &(dyn Error + Send + Sync + 'static)| …`; use `downcast_ref` to look inside.
pub trait Classify: Send + Sync + 'static {
    /// What `error` means.
    fn classify(&self, error: &(dyn StdError + Send + Sync + 'static)) -> Class;
}

impl<F> Classify for F
where
    F: Fn(&(dyn StdError + Send + Sync + 'static)) -> Class + Send + Sync + 'static,
{
    fn classify(&self, error: &(dyn StdError + Send + Sync + 'static)) -> Class {
        self(error)
    }
}

/// The hook of the user, then what the SDK knows of its own errors, then `on_unknown`.
#[derive(Clone, Default)]
pub(crate) struct Classification {
    pub(crate) hook: Option<Arc<dyn Classify>>,
    pub(crate) on_unknown: OnUnknown,
}

impl Classification {
    /// What `cause` means. [`Class::Unknown`] when nobody knows: `on_unknown` then decides.
    pub(crate) fn of(&self, cause: &Cause) -> Class {
        let class = self.hook.as_ref().map_or(Class::Unknown, |hook| {
            // A panic in the hook must not end the worker: it knows nothing then.
            catch_unwind(AssertUnwindSafe(|| hook.classify(cause.as_ref()))).unwrap_or(Class::Unknown)
        });
        if class != Class::Unknown {
            return class;
        }
        match cause.downcast_ref::<Error>() {
            // Our own errors say by themselves whether trying again makes sense.
            Some(error) if error.is_transient() || error.is_ambiguous() => Class::Retry,
            _ => Class::Unknown,
        }
    }
}

impl fmt::Debug for Classification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classification")
            .field("hook", &self.hook.is_some())
            .field("on_unknown", &self.on_unknown)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_hook_goes_first_then_our_own_errors() {
        let plain = Classification::default();
        assert_eq!(plain.of(&"oops".into()), Class::Unknown);
        assert_eq!(plain.of(&Error::timeout(Duration::from_secs(1)).into()), Class::Retry);
        assert_eq!(plain.of(&Error::config("no").into()), Class::Unknown);
        let hooked = Classification {
            hook: Some(Arc::new(
                |error: &(dyn StdError + Send + Sync + 'static)| {
                    if error.is::<std::io::Error>() { Class::Retry } else { Class::Unknown }
                },
            )),
            on_unknown: OnUnknown::DeadLetter,
        };
        assert_eq!(hooked.of(&std::io::Error::other("disk").into()), Class::Retry);
        assert_eq!(hooked.of(&"oops".into()), Class::Unknown);
    }
}
