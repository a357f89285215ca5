//! The record of a scenario: everything that happened to every message, with times.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;

/// What a program did with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Handled, and acknowledged.
    Ack,
    /// Given back for redelivery; no attempt spent.
    Requeue,
    /// Given back without having been started; also what dropping a delivery or closing its consumer does.
    Release,
    /// Failed, and to be tried again: the next attempt.
    Retry,
    /// Set aside.
    DeadLetter,
    /// Brought back from the dead letters: attempts begin again at 1.
    Redrive,
}

/// One thing that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The program began to send it. `due`: never to be delivered before.
    Sent {
        /// Its key.
        key: Option<Bytes>,
        /// When it may be delivered, since the beginning of the record.
        due: Option<Duration>,
    },
    /// The send was `Ok`.
    Confirmed,
    /// The send failed.
    Refused {
        /// True when it may have been stored all the same.
        ambiguous: bool,
        /// The error as printed.
        error: String,
    },
    /// A consumer was handed it.
    Delivered {
        /// The attempt it claims to be.
        attempt: u32,
    },
    /// A handler began with it.
    Started,
    /// The handler ended.
    Finished,
    /// Settled, or asked to be. Recorded before the call, so that no redelivery can seem to precede it.
    Settled {
        /// What becomes of it.
        action: Action,
        /// For a retry: never to be delivered again before.
        due: Option<Duration>,
    },
    /// Found among the dead letters.
    Dead,
    /// Anything else worth telling.
    Note(String),
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Since the beginning of the record.
    pub at: Duration,
    /// The message's id; empty for what happens to all of them, such as a fault.
    pub id: Arc<str>,
    /// The group it happened in; empty for what happens to all of them.
    pub group: Arc<str>,
    /// What happened.
    pub what: What,
}

/// The record of a scenario. Cloning shares it.
#[derive(Debug, Clone)]
pub struct History {
    began: Instant,
    began_at: SystemTime,
    entries: Arc<Mutex<Vec<Entry>>>,
    changed: Arc<Notify>,
}

/// So far two clocks of one machine are taken to differ: what is left after reading both at once, and what a step of
/// the wall clock by its time service adds.
const CLOCKS: Duration = Duration::from_millis(5);

impl Default for History {
    fn default() -> Self {
        let (began, began_at) = both_clocks();
        Self { began, began_at, entries: Arc::default(), changed: Arc::default() }
    }
}

/// One moment on both clocks: the reading that took the least time of a few, as a thread may be put aside between the
/// two.
fn both_clocks() -> (Instant, SystemTime) {
    let read = || {
        let before = Instant::now();
        let at = SystemTime::now();
        (before.elapsed(), before, at)
    };
    let (_, began, began_at) = (0..8).map(|_| read()).min_by_key(|(took, ..)| *took).unwrap_or_else(read);
    (began, began_at)
}

impl History {
    /// How long the record has been running: what times in it mean.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// When that was, or will be, since the beginning of the record.
    pub fn time_of(&self, when: SystemTime) -> Duration {
        when.duration_since(self.began_at).unwrap_or_default()
    }

    /// Writes a line, at this moment.
    pub fn note(&self, id: impl AsRef<str>, group: impl AsRef<str>, what: What) {
        let mut entries = self.lock();
        // Taken under the lock: the order of lines is the order of times.
        let at = self.began.elapsed();
        entries.push(Entry { at, id: Arc::from(id.as_ref()), group: Arc::from(group.as_ref()), what });
        drop(entries);
        self.changed.notify_waiters();
    }

    /// Writes a line for what happened in another process at `when`. Lines are in order of their times only once they
    /// are [sorted](Self::sorted).
    pub fn note_at(&self, when: SystemTime, id: impl AsRef<str>, group: impl AsRef<str>, what: What) {
        let at = self.time_of(when);
        self.lock().push(Entry { at, id: Arc::from(id.as_ref()), group: Arc::from(group.as_ref()), what });
        self.changed.notify_waiters();
    }

    /// Everything so far, in the order of the times. A message is never told to have come before it was sent, where
    /// that is a matter of two clocks.
    pub fn sorted(&self) -> Vec<Entry> {
        let mut entries = self.entries();
        let mut sent: HashMap<Arc<str>, Duration> = HashMap::new();
        for entry in entries.iter().filter(|entry| matches!(entry.what, What::Sent { .. })) {
            sent.entry(Arc::clone(&entry.id)).and_modify(|at| *at = entry.at.min(*at)).or_insert(entry.at);
        }
        for entry in &mut entries {
            if let Some(sent) = sent.get(&entry.id).filter(|sent| sent.saturating_sub(entry.at) <= CLOCKS) {
                entry.at = entry.at.max(*sent);
            }
        }
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// Waits, at most `limit`, until the lines of `group` are as `right` wants them. False when they never were.
    pub async fn until(&self, group: &str, limit: Duration, right: impl Fn(&[Entry]) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let lines: Vec<Entry> = self.lock().iter().filter(|entry| &*entry.group == group).cloned().collect();
            if right(&lines) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Everything so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// How many lines are of this group and match.
    pub fn count(&self, group: &str, matching: impl Fn(&What) -> bool) -> usize {
        self.lock().iter().filter(|entry| &*entry.group == group && matching(&entry.what)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of these lines end a delivery with `action`.
pub(crate) fn ended(entries: &[Entry], action: Action) -> usize {
    let is = |entry: &&Entry| matches!(entry.what, What::Settled { action: ended, .. } if ended == action);
    entries.iter().filter(is).count()
}

/// The story of one message: its lines in order, for people. Lines that say the same one after the other are one; long
/// stories are cut in the middle.
pub fn story(entries: &[Entry], id: &str) -> String {
    const SHOWN: usize = 80;
    let mut lines: Vec<(Duration, String, usize)> = Vec::new();
    for entry in entries.iter().filter(|entry| &*entry.id == id || entry.id.is_empty()) {
        let group = if entry.group.is_empty() { String::new() } else { format!(" [{}]", entry.group) };
        let words = format!("{group} {}", describe(&entry.what));
        match lines.last_mut().filter(|(_, last, _)| *last == words) {
            Some((_, _, times)) => *times += 1,
            None => lines.push((entry.at, words, 1)),
        }
    }
    let mut text = format!("the story of message {id}:");
    let cut = lines.len().saturating_sub(SHOWN);
    for (index, (at, words, times)) in lines.iter().enumerate() {
        if cut > 0 && index == SHOWN / 2 {
            text.push_str(&format!("\n    … {cut} more …"));
        }
        if cut > 0 && (SHOWN / 2..SHOWN / 2 + cut).contains(&index) {
            continue;
        }
        let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        text.push_str(&format!("\n    {:>9.3} s{words}{times}", at.as_secs_f64()));
    }
    text
}

/// The story of the first message that was sent and has not come to `group`.
pub(crate) fn first_unseen(entries: &[Entry], group: &str) -> String {
    let came = |id: &str| {
        let delivered = |entry: &Entry| matches!(entry.what, What::Delivered { .. });
        entries.iter().any(|entry| &*entry.id == id && &*entry.group == group && delivered(entry))
    };
    let sent = entries.iter().filter(|entry| matches!(entry.what, What::Sent { .. }));
    sent.map(|entry| &*entry.id).find(|id| !came(id)).map_or_else(String::new, |id| story(entries, id))
}

/// The story of the first message that was sent and is not confirmed; without one what concerns everybody.
pub(crate) fn unconfirmed(entries: &[Entry]) -> String {
    let confirmed = |entry: &&Entry| matches!(entry.what, What::Confirmed);
    let confirmed: HashSet<&str> = entries.iter().filter(confirmed).map(|entry| &*entry.id).collect();
    let sent = entries.iter().filter(|entry| matches!(entry.what, What::Sent { .. }));
    let open = sent.map(|entry| &*entry.id).find(|id| !confirmed.contains(id));
    story(entries, open.unwrap_or_default())
}

fn describe(what: &What) -> String {
    let key = |key: &Option<Bytes>| key.as_ref().map_or(String::new(), |key| format!(", key {}", key.escape_ascii()));
    let due = |due: &Option<Duration>| due.map_or(String::new(), |due| format!(", due at {:.3} s", due.as_secs_f64()));
    match what {
        What::Sent { key: k, due: d } => format!("sent{}{}", key(k), due(d)),
        What::Confirmed => "confirmed".into(),
        What::Refused { ambiguous, error } => {
            format!("send failed{}: {error}", if *ambiguous { " (may be stored)" } else { "" })
        }
        What::Delivered { attempt } => format!("delivered, attempt {attempt}"),
        What::Started => "handler started".into(),
        What::Finished => "handler ended".into(),
        What::Settled { action, due: d } => format!("settled: {action:?}{}", due(d)),
        What::Dead => "found among the dead letters".into(),
        What::Note(text) => text.clone(),
    }
}
