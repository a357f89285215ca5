//! Processes known by id *and* start time, so that a recycled id is never signalled.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of this boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks between boot and the start of the process.
    started: u64,
    boot: String,
}

impl Process {
    /// Identifies a process which runs now.
    pub(crate) fn identify(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("a process id above i32::MAX")?;
        let stat = Stat::read(pid).with_context(|| format!("process {pid} has ended already"))?;
        Ok(Self { pid, started: stat.started, boot: boot_id()? })
    }

    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.open(), Ok(Some(_)))
    }

    /// A handle which keeps meaning this process whatever becomes of its number; `None` when it has ended.
    fn open(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(anyhow!("process {} cannot be opened: {error}", self.pid)),
        };
        // Checked after opening: from here on the handle and the checked process are the same.
        let same = boot_id()? == self.boot && Stat::read(self.pid).is_some_and(|stat| stat.started == self.started);
        // The handle knows when the last thread is gone; the state of the first thread would say so too early.
        let alive = same && !wait_end(&handle, Duration::ZERO)?;
        Ok(alive.then_some(handle))
    }

    /// Sends a signal; `false` when the process has ended already.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool> {
        self.open()?.map_or(Ok(false), |handle| send(&handle, signal))
    }

    /// Waits for the end of the process; `false` when it still runs after `patience`.
    pub(crate) fn wait_end(&self, patience: Duration) -> Result<bool> {
        self.open()?.map_or(Ok(true), |handle| wait_end(&handle, patience))
    }

    /// SIGKILL, then waits until the process is gone with all it held; `false` when it had ended already.
    pub(crate) fn kill(&self) -> Result<bool> {
        let Some(handle) = self.open()? else { return Ok(false) };
        let signalled = send(&handle, Signal::KILL)?;
        let patience = Duration::from_secs(10);
        if !wait_end(&handle, patience)? {
            return Err(anyhow!("process {} still there {patience:?} after SIGKILL", self.pid));
        }
        Ok(signalled)
    }
}

fn send(handle: &OwnedFd, signal: Signal) -> Result<bool> {
    match pidfd_send_signal(handle, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(anyhow!("a process cannot be signalled: {error}")),
    }
}

/// Waits until the process behind a pidfd has ended; `false` after `patience`.
pub(crate) fn wait_end(handle: &OwnedFd, patience: Duration) -> Result<bool> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec::try_from(left).context("a wait too long for the clock")?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(anyhow!("waiting for a process failed: {error}")),
        }
    }
}

fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("/proc is not readable")?;
    Ok(text.trim().to_owned())
}

struct Stat {
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program (second field) may hold spaces and parentheses: fields count from its last `)`.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let started = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { started })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stat_counts_fields_after_the_last_parenthesis() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.started, 987_654);
        assert!(Stat::parse("garbage").is_none());
    }

    #[test]
    fn a_recycled_id_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::identify(child.id()).unwrap();
        let impostor = Process { started: process.started + 1, ..process.clone() };
        assert!(!impostor.kill().unwrap());
        assert!(process.is_alive());
        assert!(process.kill().unwrap());
        assert!(!process.is_alive(), "a zombie counts as ended");
        child.wait().unwrap();
        assert!(!process.kill().unwrap());
    }
}
