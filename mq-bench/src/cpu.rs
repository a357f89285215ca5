//! Processor time of this process.

use std::time::Duration;

/// User and system time of all threads so far, in steps of 10 ms; `None` where `/proc` does not tell.
pub(crate) fn used() -> Option<Duration> {
    // Field 2 is the command in parentheses and may hold blanks: count from behind it (proc(5)).
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // The kernel's user-visible tick is 100 Hz on every Linux platform Rust supports.
    Some(Duration::from_millis((user + system) * 10))
}
