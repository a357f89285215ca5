//! Telling those who wait that something changed, at the price of one atomic load when nobody does.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

#[derive(Debug, Default)]
pub(super) struct Bell {
    notify: Notify,
    listeners: AtomicUsize,
}

impl Bell {
    /// Counts the caller as a listener while the answer lives.
    pub(super) fn listen(&self) -> Listener<'_> {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener { bell: self }
    }

    /// Wakes every listener. Call it after the change is visible.
    pub(super) fn ring(&self) {
        if self.listeners.load(Ordering::SeqCst) > 0 {
            self.notify.notify_waiters();
        }
    }
}

pub(super) struct Listener<'a> {
    bell: &'a Bell,
}

impl Listener<'_> {
    /// Ends with the next ring from now on. Ask for it before looking, so that no ring in between is missed.
    pub(super) fn next_ring(&self) -> Notified<'_> {
        self.bell.notify.notified()
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.bell.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}
