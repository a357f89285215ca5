//! A connection that is made again whenever it is lost: to one server, or to the nodes of a cluster.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mq_core::error::{Error, ErrorKind, Result};
use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{self, Nodes};
use crate::config::{Deployment, RedisConfig};
use crate::connection::{connect, keep, without_backend};
use crate::error::{BACKEND, error};
use crate::slots::Address;
use crate::tls;

/// A connection that stands, as far as is known.
#[derive(Clone)]
pub(crate) struct Live {
    /// Changes with every connection, and in a cluster whenever slots have moved: what was sent under another number
    /// must be answered before anything is sent under this one, or it might be overtaken.
    pub(crate) number: u64,
    /// Changes only when a connection was lost.
    pub(crate) standing: u64,
    pub(crate) to: To,
}

#[derive(Clone)]
pub(crate) enum To {
    One(MultiplexedConnection),
    Many(Arc<Nodes>),
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Makes connections, and keeps one, or one to each node that has keys.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) address: Address,
    /// Of Sentinels, that of the master of now.
    pub(crate) client: Mutex<Client>,
    pub(crate) role: Role,
    pub(crate) live: watch::Sender<Option<Live>>,
    failure: Mutex<Option<(ErrorKind, String, Option<String>)>>,
    pub(crate) lost: Notify,
    closed: AtomicBool,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What is connected to.
pub(crate) enum Role {
    /// A server by itself.
    Single,
    /// A node of a cluster; it is of use only while the cluster serves.
    Member,
    /// The master that Sentinels name.
    Master,
    /// A cluster: the links to its nodes.
    Cluster(Mutex<HashMap<Address, Link>>),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.shared.address).finish()
    }
}

impl Link {
    /// Begins to connect; [`Link::ready`] waits for it.
    pub(crate) fn open(config: Arc<RedisConfig>) -> Result<Self> {
        let address = Address(config.host.clone(), config.port);
        match config.deployment {
            Deployment::Single => Self::start(config, address, Role::Single, keep),
            Deployment::Sentinel => Self::start(config, address, Role::Master, keep),
            Deployment::Cluster => Self::start(config, address, Role::Cluster(Mutex::default()), cluster::keep),
        }
    }

    /// Begins to connect to one node of a cluster.
    pub(crate) fn member(config: Arc<RedisConfig>, address: Address) -> Result<Self> {
        Self::start(config, address, Role::Member, keep)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        config: Arc<RedisConfig>,
        address: Address,
        role: Role,
        keep: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<Self> {
        let client = tls::client(&config, address.clone())?;
        let shared = Arc::new(Shared {
            config,
            address,
            client: Mutex::new(client),
            role,
            live: watch::Sender::new(None),
            failure: Mutex::default(),
            lost: Notify::new(),
            closed: AtomicBool::new(false),
            keeper: Mutex::default(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        *shared.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(Self { shared })
    }

    /// True when keys lie on several servers: a read that blocks waits for keys of one slot only.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.shared.role, Role::Cluster(_))
    }

    /// A connection of the caller's own, beside the kept ones, to where this key is: for reads that block.
    pub(crate) async fn another(&self, key: &str) -> Result<MultiplexedConnection> {
        if self.is_closed() {
            return Err(closed());
        }
        let limit = self.shared.config.connect_timeout;
        if !self.is_cluster() {
            return connect(&self.shared.config, &self.client(), limit).await;
        }
        let address = cluster::owner(&self.ready(Instant::now() + limit).await?, key)?;
        connect(&self.shared.config, &tls::client(&self.shared.config, address)?, limit).await
    }

    /// The client that makes the connections; of a cluster, that of the first node named.
    pub(crate) fn client(&self) -> Client {
        self.shared.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection, as soon as there is one. What no waiting mends, such as a refused password, fails at once.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<Live> {
        let mut watch = self.shared.live.subscribe();
        loop {
            if self.is_closed() {
                return Err(closed());
            }
            if let Some(live) = watch.borrow_and_update().clone() {
                return Ok(live);
            }
            if let Some(failure) = self.failure().filter(|failure| !failure.is_transient()) {
                return Err(failure);
            }
            if tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
                let late = || Error::timeout(self.shared.config.connect_timeout).with_backend(BACKEND);
                return Err(self.failure().unwrap_or_else(late));
            }
        }
    }

    pub(crate) fn current(&self) -> Option<Live> {
        self.shared.live.borrow().clone()
    }

    /// Returns when a connection of that standing is no longer kept.
    pub(crate) async fn gone(&self, standing: u64) {
        let mut watch = self.shared.live.subscribe();
        // An error: the link itself is gone.
        let _ = watch.wait_for(|live| live.as_ref().is_none_or(|live| live.standing != standing)).await;
    }

    /// That connection does not answer, or was closed.
    pub(crate) fn report(&self, number: u64) {
        let was = self.shared.live.send_if_modified(|live| {
            let is = live.as_ref().is_some_and(|live| live.number == number);
            if is {
                *live = None;
            }
            is
        });
        if was {
            self.shared.lost.notify_one();
        }
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|(kind, text, hint)| {
            let error = error(*kind, text.clone());
            match hint {
                Some(hint) => error.with_hint(hint.clone()),
                None => error,
            }
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.live.send_replace(None);
        let keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        if let Role::Cluster(links) = &self.shared.role {
            for (_, link) in links.lock().unwrap_or_else(PoisonError::into_inner).drain() {
                link.close();
            }
        }
    }
}

impl Shared {
    /// The links to the nodes of a cluster.
    pub(crate) fn links(&self) -> Option<std::sync::MutexGuard<'_, HashMap<Address, Link>>> {
        match &self.role {
            Role::Cluster(links) => Some(links.lock().unwrap_or_else(PoisonError::into_inner)),
            _ => None,
        }
    }

    /// Why there is no connection; whoever waits looks at it.
    pub(crate) fn failed(&self, cause: &Error) {
        let kept = (cause.kind(), without_backend(cause), cause.hint().map(str::to_owned));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        self.live.send_modify(|_| {});
    }

    pub(crate) fn succeeded(&self, live: Live) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.live.send_replace(Some(live));
    }
}

fn closed() -> Error {
    Error::closed("broker").with_backend(BACKEND)
}
