//! Prints outcomes as they come.

use std::io::Write;

use crate::pair::Outcome;

/// Prints to standard output: text for people, or a line of JSON for programs.
pub(crate) fn print(outcome: &Outcome, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, outcome)?;
        writeln!(out)
    } else {
        writeln!(out, "{}\n", outcome.text())
    }
}
