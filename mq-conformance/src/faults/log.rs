//! What members do, told in the same words whether they run in this process or in another.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::faults::judge::CANCELLED;
use crate::history::{Action, History, What};

/// One thing a member did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// It is subscribed.
    Ready,
    /// A handler began.
    Began { id: String, attempt: u32 },
    /// A handler is about to end with success.
    Succeeded { id: String },
    /// A handler is about to end: not before `due` again.
    Failed { id: String, due: SystemTime },
    /// A handler is about to end: the message is hopeless.
    GaveUp { id: String },
    /// A handler was stopped before its end.
    Cancelled { id: String },
    /// Anything else worth telling.
    Said(String),
    /// It stopped as it was asked to.
    Stopped,
}

/// A deed with its time, as it is told by another process: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) at: SystemTime,
    pub(crate) deed: Deed,
}

impl Told {
    pub(crate) fn now(deed: Deed) -> Self {
        Self { at: SystemTime::now(), deed }
    }
}

/// Where a member tells what it does.
pub(crate) trait Ear: Send + Sync + fmt::Debug + 'static {
    fn hear(&self, told: Told);
}

/// The record of a load with faults, and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) history: History,
    pub(crate) group: Arc<str>,
    state: Arc<Mutex<State>>,
    progress: watch::Sender<Progress>,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Messages confirmed.
    pub(crate) confirmed: usize,
    /// Messages that have been handled or set aside once.
    pub(crate) handled: usize,
    /// Messages that were handled or set aside, and confirmed.
    pub(crate) done: usize,
    /// Handlers that ended.
    pub(crate) ended: usize,
}

#[derive(Debug, Default)]
struct State {
    messages: HashMap<String, Fate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    confirmed: bool,
    handled: bool,
    /// Handled with success once: whatever becomes of a repetition.
    succeeded: bool,
    done: bool,
}

/// How a handler ended, as far as progress is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Began,
    Failed,
    Succeeded,
    GaveUp,
}

impl Record {
    pub(crate) fn new(history: History, group: &str) -> Self {
        Self {
            history,
            group: Arc::from(group),
            state: Arc::default(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until the load is far enough; false when it was not within `limit`.
    pub(crate) async fn until(&self, limit: Duration, far: impl FnMut(&Progress) -> bool) -> bool {
        tokio::time::timeout(limit, self.watch().wait_for(far)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// A line for everybody: a fault.
    pub(crate) fn fault(&self, text: impl Into<String>) {
        self.history.note("", "", What::Note(format!("── {}", text.into())));
    }

    /// A message was confirmed.
    pub(crate) fn confirmed(&self, id: &str) {
        let mut state = self.lock();
        let fate = state.messages.entry(id.to_owned()).or_default();
        let fresh = !std::mem::replace(&mut fate.confirmed, true);
        drop(state);
        self.progress.send_if_modified(|progress| {
            progress.confirmed += usize::from(fresh);
            fresh
        });
    }

    fn fate(&self, id: &str, step: Step) {
        let mut state = self.lock();
        let fate = state.messages.entry(id.to_owned()).or_default();
        let before = *fate;
        fate.succeeded |= step == Step::Succeeded;
        fate.handled |= matches!(step, Step::Succeeded | Step::GaveUp);
        // What was set aside may come again, if that was not stored.
        fate.done = fate.succeeded || step == Step::GaveUp;
        let now = *fate;
        self.progress.send_modify(|progress| {
            progress.handled += usize::from(now.handled && !before.handled);
            progress.done = (progress.done + usize::from(now.done)).saturating_sub(usize::from(before.done));
            progress.ended += usize::from(step != Step::Began);
        });
    }

    /// Messages that were confirmed and are not done.
    pub(crate) fn open(&self) -> Vec<String> {
        let state = self.lock();
        let open = state.messages.iter().filter(|(_, fate)| fate.confirmed && !fate.done);
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Writes down what `member` did.
    pub(crate) fn write(&self, member: &str, told: Told) {
        let Told { at, deed } = told;
        let note = |id: &str, what: What| self.history.note_at(at, id, &*self.group, what);
        match deed {
            Deed::Ready => note("", What::Note(format!("{member} is subscribed"))),
            Deed::Stopped => note("", What::Note(format!("{member} has stopped"))),
            Deed::Said(text) => note("", What::Note(format!("{member}: {text}"))),
            Deed::Began { id, attempt } => {
                note(&id, What::Delivered { attempt });
                note(&id, What::Started);
                note(&id, What::Note(format!("by {member}")));
                self.fate(&id, Step::Began);
            }
            Deed::Succeeded { id } => {
                note(&id, What::Finished);
                note(&id, What::Settled { action: Action::Ack, due: None });
                self.fate(&id, Step::Succeeded);
            }
            Deed::Failed { id, due } => {
                note(&id, What::Finished);
                let due = self.history.time_of(due);
                note(&id, What::Settled { action: Action::Retry, due: Some(due) });
                self.fate(&id, Step::Failed);
            }
            Deed::GaveUp { id } => {
                note(&id, What::Finished);
                note(&id, What::Settled { action: Action::DeadLetter, due: None });
                self.fate(&id, Step::GaveUp);
            }
            Deed::Cancelled { id } => {
                note(&id, What::Finished);
                note(&id, What::Note(format!("{CANCELLED}{member}")));
            }
        }
    }
}
