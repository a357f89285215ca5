//! Results on standard output, remarks on standard error.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

/// Standard output: one JSON object a line, or text for people.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: BufWriter::new(io::stdout()) }
    }

    /// True when results are to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One result: as JSON with `--json`, else as text.
    pub(crate) fn result(&mut self, value: &impl Serialize, text: impl fmt::Display) -> io::Result<()> {
        if self.json { self.json_line(value) } else { writeln!(self.out, "{text}") }
    }

    /// One result that is always JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// One line that is JSON already.
    pub(crate) fn raw_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(line)?;
        self.out.write_all(b"\n")
    }

    /// Hands everything written so far to whoever reads.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A remark for people; lost when nobody reads standard error.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
