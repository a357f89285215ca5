//! Runs a command, shows its output line by line under a label, keeps it in a log, counts tests on the way.

use std::io::{BufRead, BufReader, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::outcome::Ended;
use super::tally::Tally;
use crate::interrupt::{self, Guard};
use crate::{command, process};

/// Output of what a command leaves behind may still come for this long; then it is left alone.
const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn run(label: &str, command: &mut Command, log: &Path, patience: Duration) -> Result<(Tally, Ended)> {
    let mut log = command::append(log)?;
    let (reader, writer) = pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command::spawn(command)?;
    // The command keeps its ends of the pipe until they are replaced; the end of the output would never come.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::sync_channel(1024);
    // Detached: a grandchild may keep the pipe open longer than anybody wants to wait.
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });

    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).context("a process that cannot be waited for")?;
    let guard = Guard::new(pid);
    let deadline = Instant::now() + patience;
    let mut tally = Tally::default();
    let mut until = deadline;
    let mut late = false;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                println!("{label} | {line}");
                // A log that cannot be written takes nothing from the run.
                let _ = writeln!(log, "{line}");
                tally.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if until == deadline && has_ended(&handle) {
            until = deadline.min(Instant::now() + GRACE);
        }
        if Instant::now() >= until {
            late = !has_ended(&handle);
            break;
        }
    }
    // Closed output does not mean that it has ended.
    late |= !process::wait_end(&handle, deadline.saturating_duration_since(Instant::now()))?;
    // Whatever is left of the group goes with its leader: a test leaves no process behind.
    guard.kill();
    drop(guard);
    let status = child.wait().context("a process that cannot be waited for")?;
    interrupt::check()?;
    let ended = if late {
        Ended::Badly(format!("ended after its deadline of {patience:?}"))
    } else if status.success() {
        Ended::Well
    } else {
        Ended::Badly(status.to_string())
    };
    Ok((tally, ended))
}

fn has_ended(handle: &OwnedFd) -> bool {
    process::wait_end(handle, Duration::ZERO).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> (Tally, Ended) {
        let log = std::env::temp_dir().join(format!("xtask-stream-{}-{}", std::process::id(), script.len()));
        let result = run("test", Command::new("sh").args(["-c", script]), &log, patience).unwrap();
        std::fs::remove_file(log).unwrap();
        result
    }

    #[test]
    fn output_is_counted_and_the_exit_code_kept() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored' >&2; exit 3";
        let (tally, ended) = shell(script, Duration::from_secs(20));
        assert_eq!(tally.passed, 2);
        assert!(matches!(ended, Ended::Badly(how) if how.contains('3')));
    }

    #[test]
    fn a_process_left_behind_does_not_hold_the_run() {
        let begin = Instant::now();
        let (_, ended) = shell("sleep 60 & echo done", Duration::from_secs(50));
        assert!(matches!(ended, Ended::Well), "{ended:?}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_deadline_ends_it() {
        let (_, ended) = shell("exec sleep 60", Duration::from_millis(300));
        assert!(matches!(ended, Ended::Badly(how) if how.contains("deadline")));
    }
}
