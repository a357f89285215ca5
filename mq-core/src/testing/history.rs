//! What happened in a run, in order: the only thing the judge looks at, and what a failure tells of.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dead_letter::DeadLetterReason;
use crate::driver::{Origin, Settled, Token};
use crate::memory::SettledHow;
use crate::testing::fault::{Fault, Point};

/// One life of a simulated process: a crash or a clean stop ends it, the next start is another life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Which of the scenario's services it runs.
    pub service: usize,
    /// Which process, over all services.
    pub member: usize,
    /// How often it was started.
    pub life: u32,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}.{}", self.member + 1, self.life)
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// When, since the run began.
    pub at: Duration,
    /// In which process; `None` outside of them.
    pub life: Option<Life>,
    /// What.
    pub what: What,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  ", self.at.as_secs_f64())?;
        match self.life {
            Some(life) => write!(f, "{life}: {}", self.what),
            None => write!(f, "{}", self.what),
        }
    }
}

/// How a run of the handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the outcomes of a handler")]
pub enum RunEnd {
    Ok,
    Discard,
    Retry,
    DeadLetter,
    Decode,
    Unknown,
    Panic,
    /// Dropped before it ended: timed out, cancelled, or its process crashed.
    Dropped,
}

impl RunEnd {
    /// The message was handled.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::Discard)
    }
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names of the fields say it; the judge's rules say what follows")]
pub enum What {
    /// A producer begins to send; `again`: after an error.
    Sending {
        id: ByteString,
        key: Option<ByteString>,
        delayed: bool,
        again: bool,
    },
    Confirmed {
        id: ByteString,
        due: Option<Duration>,
    },
    SendFailed {
        id: ByteString,
        ambiguous: bool,
        error: String,
    },
    /// The producer sends it no more.
    GivenUp {
        id: ByteString,
    },
    Started,
    /// It is a member of the group.
    Joined,
    /// The worker could not go on, or could not stop cleanly.
    Ended {
        error: Option<String>,
    },
    Stopping,
    Crashed {
        at: Option<Point>,
    },
    /// The broker has noticed.
    CrashNoticed,
    Assigned(Vec<u32>),
    Revoking(u64, Vec<u32>),
    Revoked(u64),
    Lost(Vec<u32>),
    Disconnected,
    Reconnected,
    Delivered(Delivered),
    /// A message sent by a handler is stored, or is not.
    FollowUp {
        id: ByteString,
        error: Option<String>,
    },
    /// The handler begins.
    Running {
        run: u64,
        token: Token,
        id: ByteString,
        attempt: u32,
    },
    RanTo {
        run: u64,
        id: ByteString,
        end: RunEnd,
    },
    Settling {
        token: Token,
        id: ByteString,
        how: SettledHow,
        intent: Intent,
    },
    Settled {
        token: Token,
        id: ByteString,
        how: SettledHow,
        result: Result<Settled, String>,
    },
    Claimed {
        guard: usize,
        id: ByteString,
        redrives: u32,
        answer: &'static str,
    },
    Completing {
        guard: usize,
        id: ByteString,
        redrives: u32,
    },
    Completed {
        guard: usize,
        id: ByteString,
        redrives: u32,
        ok: bool,
    },
    Fault(Fault),
    Mended(&'static str),
    /// No more faults from here on.
    Calm,
    /// A dead letter is brought back.
    Redriven {
        service: usize,
        id: ByteString,
    },
    /// Everything is done, or there was no more waiting for it.
    Idle,
}

/// A delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(missing_docs, reason = "as in `Incoming`")]
pub struct Delivered {
    pub token: Token,
    pub id: ByteString,
    pub key: Option<ByteString>,
    pub attempt: u32,
    pub redeliveries: u32,
    pub redelivered: bool,
    pub redrives: u32,
    pub origin: Origin,
}

/// What a settlement asks for beside its kind.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
#[expect(missing_docs, reason = "as in `Settle`")]
pub struct Intent {
    pub attempt: Option<u32>,
    pub due: Option<Duration>,
    pub reason: Option<DeadLetterReason>,
}

/// Writes the history of one run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Inner>);

struct Inner {
    started: Instant,
    state: Mutex<State>,
    too_long: Notify,
}

struct State {
    events: Vec<Event>,
    runs: u64,
}

/// A run that makes more of them will never end.
const MOST: usize = 100_000;

impl Recorder {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State { events: Vec::with_capacity(512), runs: 0 });
        Self(Arc::new(Inner { started: Instant::now(), state, too_long: Notify::new() }))
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(crate) fn write(&self, life: Option<Life>, what: What) {
        let at = self.now();
        let mut state = self.state();
        if state.events.len() < MOST {
            state.events.push(Event { at, life, what });
        } else {
            self.0.too_long.notify_one();
        }
    }

    /// A number no run of a handler had before.
    pub(crate) fn new_run(&self) -> u64 {
        let mut state = self.state();
        state.runs += 1;
        state.runs
    }

    /// Completes when there is no end to it.
    pub(crate) async fn too_long(&self) {
        self.0.too_long.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("events", &self.state().events.len()).finish_non_exhaustive()
    }
}
