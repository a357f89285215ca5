//! A simulated process: it can crash at any step, and does nothing afterwards.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::Notify;

use crate::driver::Token;
use crate::testing::fault::Point;
use crate::testing::history::{Life, Recorder, What};
use crate::testing::weather::Weather;

/// One life of a process, shared by everything that runs in it.
pub(crate) struct Process {
    pub(crate) life: Life,
    pub(crate) recorder: Recorder,
    pub(crate) weather: Arc<Weather>,
    state: Mutex<State>,
    died: Notify,
}

#[derive(Default)]
struct State {
    dead: bool,
    trap: Option<Trap>,
    aftermath: Aftermath,
    /// Which message a delivery is.
    names: HashMap<Token, ByteString>,
}

/// A crash to come.
#[derive(Clone, Copy)]
pub(crate) struct Trap {
    pub(crate) point: Point,
    pub(crate) nth: u32,
    pub(crate) aftermath: Aftermath,
}

/// What follows a crash.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aftermath {
    /// When the broker notices.
    pub(crate) noticed: Duration,
    /// When the process is started again.
    pub(crate) restarted: Duration,
}

impl Process {
    pub(crate) fn new(life: Life, recorder: Recorder, weather: Arc<Weather>) -> Self {
        Self { life, recorder, weather, state: Mutex::default(), died: Notify::new() }
    }

    /// Writes what happened here.
    pub(crate) fn write(&self, what: What) {
        if !self.is_dead() {
            self.recorder.write(Some(self.life), what);
        }
    }

    /// Writes what the broker did for this process; true whether it lives to see it or not.
    pub(crate) fn write_fact(&self, what: What) {
        self.recorder.write(Some(self.life), what);
    }

    /// Passes a point, or ends there: then nothing of this process goes on.
    pub(crate) async fn reach(&self, point: Point) {
        if self.would_die_at(point) {
            self.die(Some(point));
        }
        self.alive().await;
    }

    /// Returns only while the process lives.
    pub(crate) async fn alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts a point; true when this is where the process is to crash.
    pub(crate) fn would_die_at(&self, point: Point) -> bool {
        let mut state = self.state();
        let Some(trap) = state.trap.as_mut().filter(|trap| trap.point == point) else { return false };
        trap.nth = trap.nth.saturating_sub(1);
        if trap.nth > 0 {
            return false;
        }
        let aftermath = trap.aftermath;
        state.trap = None;
        state.aftermath = aftermath;
        true
    }

    pub(crate) fn arm(&self, trap: Trap) {
        self.state().trap = Some(trap);
    }

    pub(crate) fn disarm(&self) {
        self.state().trap = None;
    }

    /// Crashes now, with this to follow.
    pub(crate) fn kill(&self, aftermath: Aftermath) {
        self.state().aftermath = aftermath;
        self.die(None);
    }

    pub(crate) fn die(&self, at: Option<Point>) {
        self.write(What::Crashed { at });
        self.state().dead = true;
        self.died.notify_one();
    }

    /// It was ended by itself: nothing of it may go on, and nothing of it counts any more.
    pub(crate) fn bury(&self) {
        self.state().dead = true;
    }

    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(crate) fn aftermath(&self) -> Aftermath {
        self.state().aftermath
    }

    pub(crate) fn remember(&self, token: Token, id: ByteString) {
        self.state().names.insert(token, id);
    }

    pub(crate) fn name_of(&self, token: Token) -> ByteString {
        self.state().names.get(&token).cloned().unwrap_or_else(|| ByteString::from_static("?"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("life", &self.life).field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}
