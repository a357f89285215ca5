//! Why a scenario failed.

use std::fmt;

/// Why a scenario failed, as a person should read it.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure that says `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The same, with `text` in front.
    #[must_use]
    pub fn at(self, text: impl fmt::Display) -> Self {
        Self(format!("{text}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// What a scenario ends with.
pub type Verdict<T = ()> = Result<T, Failure>;

/// Fails the scenario with a text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure::new(format!($($text)+)));
        }
    };
}

/// Fails the scenario, showing both sides, unless they are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($text:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            let text = format!($($text)+);
            return Err($crate::failure::Failure::new(format!("{text}: got {left:?}, expected {right:?}")));
        }
    }};
}

pub(crate) use {ensure, ensure_eq};
