//! Whether handlers may start: paused by hand, or stopped by too many unknown errors in a row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Unknown errors in a row that open the breaker.
const LIMIT: u32 = 20;
/// The first wait before a trial; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Trials a message may fail before it is treated as its error says: it may itself be the cause.
const TRIALS: u32 = 3;

/// What an unknown error means for its message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// What the worker does with unknown errors.
    Treat,
    /// Keep it: the breaker is open.
    Keep,
    /// Keep it: the breaker has just opened, or opened again, for this long.
    Opened {
        /// Unknown errors in a row.
        failures: u32,
        /// Until the next trial.
        wait: Duration,
    },
}

/// The gate before every handler. One relaxed load while it is open.
#[derive(Debug)]
pub(crate) struct Gate {
    open: AtomicBool,
    /// Some unknown error was counted since the last success.
    counting: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    paused: bool,
    failures: u32,
    /// The breaker is open since it tripped.
    tripped: Option<Tripped>,
}

#[derive(Debug)]
struct Tripped {
    wait: Duration,
    next_trial: Instant,
    /// A trial is being made.
    trial: bool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            open: AtomicBool::new(true),
            counting: AtomicBool::new(false),
            state: Mutex::new(State { paused: false, failures: 0, tripped: None }),
            changed: Notify::new(),
        }
    }

    /// True when nothing holds handlers back.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(crate) fn is_paused(&self) -> bool {
        !self.is_open() && self.state().paused
    }

    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.state();
        state.paused = paused;
        self.publish(&state);
    }

    /// Waits until a handler may start. Cancel safe, except that a trial granted counts as made.
    pub(crate) async fn pass(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let mut state = self.state();
                let paused = state.paused;
                match (&mut state.tripped, paused) {
                    (None, false) => return,
                    (_, true) | (Some(Tripped { trial: true, .. }), _) => None,
                    (Some(tripped), false) if tripped.next_trial <= Instant::now() => {
                        tripped.trial = true;
                        return;
                    }
                    (Some(tripped), false) => Some(tripped.next_trial),
                }
            };
            match until {
                Some(until) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// A handler gave an answer that is no unknown error. True when that closed the breaker.
    pub(crate) fn success(&self) -> bool {
        if !self.counting.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state();
        state.failures = 0;
        self.counting.store(false, Ordering::Release);
        let closed = state.tripped.take().is_some();
        if closed {
            self.publish(&state);
        }
        closed
    }

    /// A trial ended without an answer (the message was given back): another may be made.
    pub(crate) fn no_answer(&self) {
        if self.is_open() {
            return;
        }
        if let Some(tripped) = &mut self.state().tripped {
            tripped.trial = false;
        }
        self.changed.notify_waiters();
    }

    /// A handler failed with an unknown error; `trials` is how often its message was kept before.
    pub(crate) fn failure(&self, trials: u32) -> OnFailure {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        self.counting.store(true, Ordering::Release);
        let failures = state.failures;
        let now = Instant::now();
        let outcome = match &mut state.tripped {
            None if failures < LIMIT => return OnFailure::Treat,
            None => {
                let wait = FIRST_WAIT;
                state.tripped = Some(Tripped { wait, next_trial: now + wait, trial: false });
                OnFailure::Opened { failures, wait }
            }
            Some(tripped) if tripped.trial => {
                let wait = (tripped.wait * 2).min(LONGEST_WAIT);
                *tripped = Tripped { wait, next_trial: now + wait, trial: false };
                OnFailure::Opened { failures, wait }
            }
            Some(_) => OnFailure::Keep,
        };
        self.publish(&state);
        if trials >= TRIALS { OnFailure::Treat } else { outcome }
    }

    fn publish(&self, state: &State) {
        self.open.store(!state.paused && state.tripped.is_none(), Ordering::Release);
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn twenty_in_a_row_open_it_and_one_success_closes_it() {
        let gate = Gate::new();
        for _ in 0..19 {
            assert_eq!(gate.failure(0), OnFailure::Treat);
        }
        assert!(!gate.success());
        for _ in 0..19 {
            assert_eq!(gate.failure(0), OnFailure::Treat);
        }
        assert_eq!(gate.failure(0), OnFailure::Opened { failures: 20, wait: FIRST_WAIT });
        assert!(!gate.is_open());
        assert_eq!(gate.failure(0), OnFailure::Keep, "one that was running when it opened");
        let started = Instant::now();
        gate.pass().await;
        assert_eq!(started.elapsed(), FIRST_WAIT);
        // Nobody else passes while the trial runs.
        assert!(tokio::time::timeout(Duration::from_secs(600), gate.pass()).await.is_err());
        assert_eq!(gate.failure(0), OnFailure::Opened { failures: 22, wait: FIRST_WAIT * 2 });
        gate.pass().await;
        assert!(gate.success());
        assert!(gate.is_open());
        gate.pass().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_fails_every_trial_does_not_hold_the_others() {
        let gate = Gate::new();
        for _ in 0..20 {
            gate.failure(0);
        }
        for trials in 0..3 {
            gate.pass().await;
            assert_ne!(gate.failure(trials), OnFailure::Treat);
        }
        gate.pass().await;
        assert_eq!(gate.failure(3), OnFailure::Treat);
        assert!(!gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn pause_holds_and_resume_lets_go() {
        let gate = Gate::new();
        gate.pause(true);
        assert!(gate.is_paused());
        assert!(tokio::time::timeout(Duration::from_secs(60), gate.pass()).await.is_err());
        gate.pause(false);
        gate.pass().await;
    }
}
