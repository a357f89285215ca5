//! A hand-off that failed.

use std::fmt;

use crate::consumer::Delivery;
use crate::error::Error;

/// A hand-off that failed: the error, and the deliveries, unless the error is ambiguous. One word wide.
pub struct HandoffError(Box<(Error, Vec<Delivery>)>);

impl HandoffError {
    pub(crate) fn new(error: Error, deliveries: Vec<Delivery>) -> Self {
        Self(Box::new((error, deliveries)))
    }

    /// What went wrong.
    pub fn error(&self) -> &Error {
        &self.0.0
    }

    /// The deliveries, still to be settled; none when the error is [ambiguous](Error::is_ambiguous). Dropped, they are
    /// released.
    pub fn into_deliveries(self) -> Vec<Delivery> {
        self.0.1
    }

    /// Both.
    pub fn into_parts(self) -> (Error, Vec<Delivery>) {
        *self.0
    }
}

impl From<HandoffError> for Error {
    fn from(error: HandoffError) -> Self {
        error.0.0
    }
}

impl fmt::Display for HandoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.0, f)
    }
}

impl fmt::Debug for HandoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoffError").field("error", &self.0.0).field("deliveries", &self.0.1.len()).finish()
    }
}

impl std::error::Error for HandoffError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.0)
    }
}
