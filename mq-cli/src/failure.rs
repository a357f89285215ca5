//! Why the command did not do everything asked, as an exit code and one line.

use mq::{Error, ErrorKind, SendError};

/// Not everything asked was done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The broker, or the way to it.
    Error(Error),
    /// Arguments that fit together in no way.
    Usage(String),
    /// Some of it was not done; what and why has been said line by line.
    Partly(String),
    /// Whoever read the output has gone.
    Pipe,
    /// Ended by this signal before everything asked was done.
    Signal(u8),
}

impl Failure {
    /// 2: wrong arguments or settings, nothing was tried; 128 + n: ended by signal n; 1: everything else.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Error(error) if error.kind() == ErrorKind::Config => 2,
            Self::Usage(_) => 2,
            Self::Error(_) | Self::Partly(_) => 1,
            Self::Pipe => 128 + 13,
            Self::Signal(number) => 128 + number,
        }
    }

    /// What to tell, if anything, in one line.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Error(error) => Some(one_line(&error.to_string())),
            Self::Usage(text) | Self::Partly(text) => Some(text.clone()),
            Self::Pipe | Self::Signal(_) => None,
        }
    }
}

/// Texts of brokers and clients may hold anything: line breaks and terminal codes do not belong on a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line.trim_end().to_owned()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Error(error.into())
    }
}

/// Writing to standard output failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Pipe,
            _ => Self::Error(Error::new(ErrorKind::Internal, "cannot write the output").with_source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_mistakes_from_failures() {
        assert_eq!(Failure::from(Error::config("x")).code(), 2);
        assert_eq!(Failure::from(Error::new(ErrorKind::NotFound, "x")).code(), 1);
        assert_eq!(Failure::Signal(15).code(), 143);
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a b\\u{1b}[31m");
    }
}
