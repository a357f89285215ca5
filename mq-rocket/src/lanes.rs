//! The lanes of one topic: which one a message takes, and which it takes instead.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use mq_core::message::Message;
use mq_core::name::fnv1a;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::Core;
use crate::lane::{Lane, Outgoing};
use crate::route::{Node, Queue};

/// How often it is looked for queues at brokers that were not there before.
const LOOK: Duration = Duration::from_secs(30);

/// A lane for each queue. A key stays on its queue, also while a broker is away; a message without a key goes to any.
#[derive(Debug)]
pub(crate) struct Lanes {
    core: Arc<Core>,
    topic: Arc<str>,
    /// Of each lane how many messages it may hold.
    room: usize,
    lanes: RwLock<Vec<Entry>>,
    /// So many of them are for keys: those there were at first.
    keyed: usize,
    turn: AtomicUsize,
    gone: AtomicBool,
    looked: Mutex<Instant>,
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    sender: mpsc::Sender<Outgoing>,
}

impl Lanes {
    pub(crate) fn new(core: &Arc<Core>, topic: &str, keyed: &[Queue], room: usize) -> Arc<Self> {
        let lanes = Arc::new(Self {
            core: Arc::clone(core),
            topic: topic.into(),
            room,
            lanes: RwLock::default(),
            keyed: keyed.len(),
            turn: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            looked: Mutex::new(Instant::now()),
        });
        lanes.add(keyed.iter().cloned());
        lanes
    }

    fn add(self: &Arc<Self>, queues: impl IntoIterator<Item = Queue>) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            // Never full: the permits bound what is accepted.
            let (sender, accepted) = mpsc::channel(self.room);
            let node = Arc::clone(&queue.broker);
            let lane = Lane::new(Arc::clone(&self.core), Arc::clone(&self.topic), queue, Arc::downgrade(self));
            tokio::spawn(lane.run(accepted));
            lanes.push(Entry { node, sender });
        }
    }

    fn entries(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when the topic was seen to be gone: one of this name would be another.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// The lane of a message.
    pub(crate) fn of(&self, message: &Message) -> Option<mpsc::Sender<Outgoing>> {
        let entries = self.entries();
        let any = || pick(&entries, &self.turn, |entry| &entry.node, |node| !self.core.away.contains(node));
        let index = key_queue(message, self.keyed).or_else(any)?;
        entries.get(index).map(|entry| entry.sender.clone())
    }

    /// A lane to another broker, rather to one that is there.
    pub(crate) fn other_than(&self, node: &Node) -> Option<mpsc::Sender<Outgoing>> {
        let entries = self.entries();
        let others: Vec<&Entry> = entries.iter().filter(|entry| entry.node.name != node.name).collect();
        let index = pick(&others, &self.turn, |entry| &entry.node, |node| !self.core.away.contains(node))?;
        others.get(index).map(|entry| entry.sender.clone())
    }

    /// How many brokers have a lane.
    pub(crate) fn brokers(&self) -> usize {
        let entries = self.entries();
        entries.iter().map(|entry| entry.node.name.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// Looks now and then, in the background, for brokers that were not there at first: messages without a key go there
    /// too.
    pub(crate) fn look(self: &Arc<Self>) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK {
                return;
            }
            *looked = Instant::now();
        }
        let weak = Arc::downgrade(self);
        let (core, topic) = (Arc::clone(&self.core), Arc::clone(&self.topic));
        tokio::spawn(async move {
            let Ok(route) = core.route(&topic, core.deadline()).await else { return };
            let Some(lanes) = weak.upgrade() else { return };
            let known: BTreeSet<String> = lanes.entries().iter().map(|entry| entry.node.name.clone()).collect();
            lanes.add(route.writable.iter().filter(|queue| !known.contains(&queue.broker.name)).cloned());
        });
    }
}

/// The queue of a message's key among so many.
pub(crate) fn key_queue(message: &Message, count: usize) -> Option<usize> {
    let key = message.key_bytes()?;
    usize::try_from(fnv1a(key).checked_rem(u64::try_from(count).ok()?)?).ok()
}

/// The next in turn of those whose broker is there; of all when none is.
pub(crate) fn pick<T>(
    all: &[T],
    turn: &AtomicUsize,
    node: impl Fn(&T) -> &Node,
    there: impl Fn(&Node) -> bool,
) -> Option<usize> {
    let turn = turn.fetch_add(1, Ordering::Relaxed);
    let good: Vec<usize> = all.iter().enumerate().filter(|(_, one)| there(node(one))).map(|(index, _)| index).collect();
    match turn.checked_rem(good.len()) {
        Some(place) => good.get(place).copied(),
        None => turn.checked_rem(all.len()),
    }
}
