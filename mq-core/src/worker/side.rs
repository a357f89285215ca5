//! Settlements that publish first, each in a task of its own so that none delays an acknowledgement.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use crate::worker::shared::Shared;

/// The tasks. Bounded by what was delivered: each delivery has at most one.
#[derive(Default)]
pub(crate) struct Side {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: JoinSet<()>,
    /// The partition of each that runs.
    lanes: Vec<u32>,
}

impl Side {
    fn spawn(&self, shared: &Arc<Shared>, lane: u32, task: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(shared);
        let mut state = self.state();
        while state.tasks.try_join_next().is_some() {}
        state.lanes.push(lane);
        state.tasks.spawn(async move {
            // On a panic in a user's hook too the task is over.
            let ended = Ended { shared: &shared, lane };
            task.await;
            drop(ended);
        });
    }

    /// True when none runs for a partition `pred` holds for.
    pub(crate) fn idle(&self, pred: impl Fn(u32) -> bool) -> bool {
        !self.state().lanes.iter().any(|lane| pred(*lane))
    }

    /// Stops all of them: their messages stay unsettled.
    pub(crate) fn abort(&self) {
        self.state().tasks.abort_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Ended<'a> {
    shared: &'a Shared,
    lane: u32,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.side.state();
        if let Some(index) = state.lanes.iter().position(|lane| *lane == self.lane) {
            state.lanes.swap_remove(index);
        }
        drop(state);
        self.shared.poke();
    }
}

/// Runs `task`, which belongs to a message of partition `lane`.
pub(crate) fn spawn(shared: &Arc<Shared>, lane: u32, task: impl Future<Output = ()> + Send + 'static) {
    shared.side.spawn(shared, lane, task);
}
