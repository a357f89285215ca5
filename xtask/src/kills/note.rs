//! What the worker under test runs for each message: it notes what it was given, nothing else.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to append
    file: PathBuf,
}

/// One handling of one message, as a line of the file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) key: u32,
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    /// Begin and end, since the epoch.
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
}

impl Note {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        Some(Self {
            key: next()?.parse().ok()?,
            number: next()?.parse().ok()?,
            attempt: next()?.parse().ok()?,
            begin: Duration::from_micros(next()?.parse().ok()?),
            end: Duration::from_micros(next()?.parse().ok()?),
        })
    }
}

/// The body of message `number` of `key`.
pub(crate) fn body(key: u32, number: u64) -> String {
    format!("{key} {number}")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One line, in one write: those of several processes do not mix.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let begin = now();
    let mut body = String::new();
    std::io::stdin().take(1024).read_to_string(&mut body).context("no body")?;
    let attempt = std::env::var("MQ_ATTEMPT").context("no attempt")?;
    let file = OpenOptions::new().append(true).open(&arguments.file);
    let mut file = file.with_context(|| format!("{} cannot be written", arguments.file.display()))?;
    let line = format!("{body} {attempt} {} {}\n", begin.as_micros(), now().as_micros());
    file.write_all(line.as_bytes()).context("the note cannot be written")
}
