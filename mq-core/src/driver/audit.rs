//! What is risky about the set-up of one group, found before it costs a message.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::driver::GroupSpec;

/// A group, and how it is to be worked on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuditSpec {
    /// The group, its mode and its retry delays.
    pub group: GroupSpec,
    /// How long a handler may run; `None`: for ever.
    pub handler_timeout: Option<Duration>,
}

impl AuditSpec {
    /// The group, with handlers that may run for ever.
    pub fn new(group: GroupSpec) -> Self {
        Self { group, handler_timeout: None }
    }

    /// Says how long a handler may run.
    #[must_use]
    pub fn handler_timeout(mut self, limit: Option<Duration>) -> Self {
        self.handler_timeout = limit;
        self
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It may cost messages, or duplicates, or time; a worker starts and says so.
    Warning,
    /// It would cost messages: a worker does not start.
    Refusal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Refusal => "refusal",
        })
    }
}

/// One thing that is risky.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A name for scripts, such as `unclean-leader-election`.
    pub check: &'static str,
    /// What it is, and what may happen.
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

impl Finding {
    /// Something a worker starts in spite of.
    pub fn warning(check: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, check, text: text.into(), hint: hint.into() }
    }

    /// Something a worker does not start with.
    pub fn refusal(check: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Refusal, check, text: text.into(), hint: hint.into() }
    }
}

/// `warning: unclean-leader-election: …; hint: …`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; hint: {}", self.severity, self.check, self.text, self.hint)
    }
}
