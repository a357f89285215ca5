//! Ctrl-C and SIGTERM: running commands are ended, the task then cleans up by its ordinary way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Process groups of the commands which run now; each leader is an unreaped child of ours, so the ids are not recycled.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Starts the listening thread. A second signal ends the task at once.
pub(crate) fn install() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    thread::spawn(move || {
        for signal in signals.forever() {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(128 + signal);
            }
            eprintln!("interrupted: stopping what was started (once more to give up at once)");
            signal_groups(Signal::TERM);
            thread::spawn(|| {
                thread::sleep(Duration::from_secs(5));
                signal_groups(Signal::KILL);
            });
        }
    });
}

pub(crate) fn is_set() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error once the user has asked to stop.
pub(crate) fn check() -> Result<()> {
    if is_set() {
        bail!("interrupted");
    }
    Ok(())
}

fn signal_groups(signal: Signal) {
    for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // A group which has just ended needs no signal.
        let _ = kill_process_group(*group, signal);
    }
}

/// While it lives, an interrupt reaches the process group. Must be dropped before its leader is reaped.
#[derive(Debug)]
pub(crate) struct Guard(Pid);

impl Guard {
    pub(crate) fn new(group: Pid) -> Self {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).push(group);
        Self(group)
    }

    /// SIGKILL to the whole group.
    pub(crate) fn kill(&self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| *group != self.0);
    }
}
