//! The readers of one consumer: one for each broker of each of its topics, also for brokers that come later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mq_core::config::Topology as Mode;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::subscription::StartFrom;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::Core;
use crate::gaps::Gaps;
use crate::reader::Reader;
use crate::remoting::Link;
use crate::route::{Node, Route};
use crate::session::Session;
use crate::source::Source;
use crate::topology::{self, Place};

/// How often it is looked for brokers that came, or came back.
const LOOK: Duration = Duration::from_secs(5);

/// What the readers of a consumer share.
#[derive(Debug)]
pub(crate) struct Readers {
    pub(crate) core: Arc<Core>,
    pub(crate) session: Arc<Session>,
    pub(crate) sources: Arc<[Source]>,
    /// One for each topic, which has two sources.
    places: Vec<Place>,
    pub(crate) group: Arc<str>,
    pub(crate) ordered: bool,
    /// Where the group starts at a broker that was away when it was declared.
    start: StartFrom,
    state: Mutex<State>,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// The consumer's own connections: their end takes waiting questions back.
    links: Vec<Arc<Link>>,
    /// What is read, by lane, broker, address and queue.
    known: BTreeSet<(u32, String, String, Option<u32>)>,
    /// Brokers that refuse what a lane asks.
    refusing: BTreeMap<u32, BTreeSet<String>>,
}

/// What a reader does about a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    Stop,
}

impl Readers {
    pub(crate) fn new(
        core: &Arc<Core>,
        session: &Arc<Session>,
        sources: &Arc<[Source]>,
        places: Vec<Place>,
        group: Arc<str>,
        ordered: bool,
        start: &StartFrom,
    ) -> Arc<Self> {
        let start = match start {
            // What it has stored since is for the group.
            StartFrom::Latest => StartFrom::Time(SystemTime::now()),
            start => start.clone(),
        };
        Arc::new(Self {
            core: Arc::clone(core),
            session: Arc::clone(session),
            sources: Arc::clone(sources),
            places,
            group,
            ordered,
            start,
            state: Mutex::default(),
            count: AtomicUsize::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many share the consumer's window.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed).max(1)
    }

    /// Starts those there can be now; an error when no broker can be reached.
    pub(crate) async fn open(self: &Arc<Self>, deadline: Instant) -> Result<JoinSet<()>> {
        let mut readers = Vec::new();
        for (lane, source) in (0u32..).zip(self.sources.iter()) {
            readers.extend(self.lacking(lane, &*self.core.route(&source.from, deadline).await?));
        }
        let links = self.state().links.clone();
        // The others are waited for in the background.
        let mut ready: FuturesUnordered<_> = links.iter().map(|link| link.ready(deadline)).collect();
        let mut last = None;
        let reached = loop {
            match ready.next().await {
                Some(Ok(_)) => break true,
                Some(Err(cause)) => last = Some(cause),
                None => break false,
            }
        };
        if let Some(cause) = last.filter(|_| !reached) {
            return Err(cause);
        }
        let mut tasks = JoinSet::new();
        for reader in readers {
            tasks.spawn(reader.run());
        }
        Ok(tasks)
    }

    /// Looks for brokers that came until the session closes, and reads from them too.
    pub(crate) async fn watch(self: Arc<Self>, mut tasks: JoinSet<()>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK.mul_f64(0.8 + fastrand::f64() * 0.4)) => {}
                () = self.session.closing() => {
                    // What the broker hands out now still finds somebody.
                    while tasks.join_next().await.is_some() {}
                    return;
                }
            }
            while tasks.try_join_next().is_some() {}
            for (lane, source) in (0u32..).zip(self.sources.iter()) {
                match self.core.route_within(&source.from, LOOK / 2, self.core.deadline()).await {
                    Ok(route) => {
                        for reader in self.lacking(lane, &route) {
                            tracing::info!(broker = reader.node.name, topic = source.from, "reads from a broker more");
                            tasks.spawn(reader.run());
                        }
                    }
                    Err(cause) => tracing::debug!(%cause, topic = source.from, "where a topic is is not known now"),
                }
            }
        }
    }

    /// Readers of what nobody reads yet. In order, each queue has its own: one answer should hold as much as possible of
    /// it, as what does not fit waits until the rest is settled.
    fn lacking(self: &Arc<Self>, lane: u32, route: &Route) -> Vec<Reader> {
        let mut state = self.state();
        let mut readers = Vec::new();
        for node in &route.nodes {
            let queues: Vec<Option<u32>> = match self.ordered {
                true => {
                    route.readable.iter().filter(|queue| queue.broker == *node).map(|queue| Some(queue.id)).collect()
                }
                false => vec![None],
            };
            for queue in queues {
                if !state.known.insert((lane, node.name.clone(), node.address.clone(), queue)) {
                    continue;
                }
                let link = self.link(&mut state, node);
                let gaps = queue.map(|queue| Arc::new(Gaps::new(node, &self.group, &self.from(lane), queue)));
                self.count.fetch_add(1, Ordering::Relaxed);
                readers.push(Reader { readers: Arc::clone(self), link, node: Arc::clone(node), lane, queue, gaps });
            }
        }
        readers
    }

    fn from(&self, lane: u32) -> String {
        let source = usize::try_from(lane).ok().and_then(|lane| self.sources.get(lane));
        source.map(|source| source.from.clone()).unwrap_or_default()
    }

    fn link(&self, state: &mut State, node: &Node) -> Arc<Link> {
        if let Some(link) = state.links.iter().find(|link| link.address() == node.address) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link::new(&node.address, &self.core.access));
        state.links.push(Arc::clone(&link));
        link
    }

    /// Ends the connections.
    pub(crate) fn close(&self) {
        self.state().links.iter().for_each(|link| link.close());
    }

    /// A reader has ended: another may be started.
    pub(crate) fn ended(&self, reader: &Reader) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.state();
        state.known.remove(&(reader.lane, reader.node.name.clone(), reader.node.address.clone(), reader.queue));
    }

    /// The broker answers as it should.
    pub(crate) fn well(&self, reader: &Reader) {
        if let Some(refusing) = self.state().refusing.get_mut(&reader.lane) {
            refusing.remove(&reader.node.name);
        }
    }

    /// One broker says that there is no such topic or group, or that we may not read. When all of them do, the
    /// subscription ends; one alone may have been away when they were made.
    pub(crate) async fn refused(&self, reader: &Reader, cause: Error, served: bool) -> Next {
        let (lane, name) = (reader.lane, &reader.node.name);
        let (all, first) = {
            let mut state = self.state();
            let known: BTreeSet<String> =
                state.known.iter().filter(|known| known.0 == lane).map(|known| known.1.clone()).collect();
            let refusing = state.refusing.entry(lane).or_default();
            let first = refusing.insert(name.clone());
            (known.iter().all(|broker| refusing.contains(broker)), first)
        };
        if all {
            self.session.fail(cause.with_operation("receive"));
            return Next::Stop;
        }
        if first {
            tracing::warn!(%cause, broker = name, "one broker refuses: the others are read");
        }
        if cause.kind() == ErrorKind::NotFound && !served {
            match self.catch_up(reader).await {
                Ok(next) => return next,
                Err(cause) => tracing::debug!(%cause, broker = name, "the group is not made there yet"),
            }
        }
        Next::Again
    }

    /// Makes the group where it was not declared.
    async fn catch_up(&self, reader: &Reader) -> Result<Next> {
        let deadline = self.core.deadline();
        let route = self.core.fresh_route(&self.from(reader.lane), deadline).await?;
        if !route.nodes.iter().any(|node| node.name == reader.node.name) {
            return Ok(Next::Stop);
        }
        let place = usize::try_from(reader.lane / 2).ok().and_then(|index| self.places.get(index));
        if let Some(place) = place.filter(|_| self.core.config.topology == Mode::Declare) {
            topology::catch_up(&self.core, place, &reader.node, &self.start, self.ordered, deadline).await?;
        }
        Ok(Next::Again)
    }
}
