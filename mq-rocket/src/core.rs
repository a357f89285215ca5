//! What everything opened on one broker shares: settings, connections, routes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::RocketConfig;
use crate::error::{BACKEND, answer, error};
use crate::names;
use crate::remoting::{Access, Command, Failure, Link, code};
use crate::route::{Node, Route};

/// A topic every broker has from its start: its route names all brokers.
const EVERYWHERE: &str = "SELF_TEST_TOPIC";
/// A route is asked for again after this long.
const ROUTE_AGE: Duration = Duration::from_secs(30);
/// Between two rounds over the name servers.
const ROUND: Duration = Duration::from_millis(50);
/// How long one name server is waited for before the next is asked.
const NAME_SERVER: Duration = Duration::from_secs(3);

pub(crate) struct Core {
    pub(crate) config: RocketConfig,
    names: Vec<Arc<Link>>,
    /// The name server that answered last.
    favourite: AtomicUsize,
    links: Mutex<HashMap<String, Arc<Link>>>,
    routes: Mutex<HashMap<String, (Instant, Arc<Route>)>>,
    closed: AtomicBool,
    ending: Notify,
    pub(crate) access: Arc<Access>,
}

impl Core {
    pub(crate) fn new(config: RocketConfig) -> Result<Self> {
        let access = Arc::new(Access::new(&config)?);
        let names = config.name_servers().iter().map(|host| Arc::new(Link::new(host, &access))).collect();
        Ok(Self {
            config,
            names,
            favourite: AtomicUsize::new(0),
            links: Mutex::default(),
            routes: Mutex::default(),
            closed: AtomicBool::new(false),
            ending: Notify::new(),
            access,
        })
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.connect_timeout
    }

    /// The connection to a broker that all share.
    pub(crate) fn link(&self, address: &str) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(address.to_owned()).or_insert_with(|| Arc::new(Link::new(address, &self.access))))
    }

    /// Asks a broker something that may be asked twice without harm.
    pub(crate) async fn ask(&self, node: &Node, command: Command, deadline: Instant) -> Result<Command> {
        self.check_open()?;
        self.link(&node.address).call(command, deadline).await.map_err(Failure::into_error)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("broker").with_backend(BACKEND));
        }
        Ok(())
    }

    /// Asks the name servers in turn until one answers.
    pub(crate) async fn ask_names(&self, command: &Command, deadline: Instant) -> Result<Command> {
        self.check_open()?;
        let first = self.favourite.load(Ordering::Relaxed);
        let mut last = None;
        loop {
            for step in 0..self.names.len() {
                let index = (first + step) % self.names.len();
                let Some(link) = self.names.get(index) else { continue };
                let until = deadline.min(Instant::now() + NAME_SERVER);
                match link.call(command.clone(), until).await {
                    Ok(answer) => {
                        self.favourite.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(failure) => last = Some(failure.into_error()),
                }
            }
            let hopeless = last.as_ref().is_some_and(|cause| !cause.is_transient());
            if hopeless || Instant::now() >= deadline {
                let unknown = || error(ErrorKind::Unavailable, "no name server answers");
                let cause = last.unwrap_or_else(unknown);
                return Err(match cause.hint() {
                    Some(_) => cause,
                    None => cause.with_hint("is this the address of a name server?"),
                });
            }
            // One that ends every connection at once is not asked without a pause.
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Tells each name server that answers.
    pub(crate) async fn tell_names(&self, command: &Command, deadline: Instant) -> Result<()> {
        let mut told = false;
        let mut last = None;
        for link in &self.names {
            match link.call(command.clone(), deadline.min(Instant::now() + NAME_SERVER)).await {
                Ok(answer) => told |= answer.success().is_ok(),
                Err(failure) => last = Some(failure.into_error()),
            }
        }
        match last {
            Some(cause) if !told => Err(cause),
            _ => Ok(()),
        }
    }

    /// Where a topic is, by the broker's own name of it; asked anew when it is older than `age`.
    pub(crate) async fn route_within(&self, topic: &str, age: Duration, deadline: Instant) -> Result<Arc<Route>> {
        let known = {
            let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            routes.get(topic).map(|(asked, route)| (*asked, Arc::clone(route)))
        };
        if let Some((asked, route)) = known
            && asked.elapsed() < age
        {
            return Ok(route);
        }
        let command = Command::request(code::GET_ROUTE).field("topic", topic).field("acceptStandardJsonOnly", true);
        let answer = self.ask_names(&command, deadline).await?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.code != answer::SUCCESS {
            routes.remove(topic);
            return Err(answer.refusal().with_context("topic", names::shown(topic)));
        }
        let route = Arc::new(Route::decode(&answer.body, &self.config.addresses)?);
        routes.insert(topic.to_owned(), (Instant::now(), Arc::clone(&route)));
        Ok(route)
    }

    pub(crate) async fn route(&self, topic: &str, deadline: Instant) -> Result<Arc<Route>> {
        self.route_within(topic, ROUTE_AGE, deadline).await
    }

    pub(crate) async fn fresh_route(&self, topic: &str, deadline: Instant) -> Result<Arc<Route>> {
        self.route_within(topic, Duration::ZERO, deadline).await
    }

    /// The next question for this topic's route goes to a name server.
    pub(crate) fn forget_route(&self, topic: &str) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Every broker that takes messages; waits for one to register until `deadline`.
    pub(crate) async fn nodes(&self, deadline: Instant) -> Result<Vec<Arc<Node>>> {
        wait(deadline, async || {
            let found = match self.route(EVERYWHERE, deadline).await {
                Ok(route) => route.nodes.clone(),
                Err(cause) if cause.kind() == ErrorKind::NotFound => Vec::new(),
                Err(cause) => return Err(cause),
            };
            if found.is_empty() {
                self.forget_route(EVERYWHERE);
                return Ok(None);
            }
            Ok(Some(found))
        })
        .await?
        .ok_or_else(|| error(ErrorKind::Unavailable, "the name server knows no broker"))
    }

    /// The next question for all brokers goes to a name server.
    pub(crate) fn forget_nodes(&self) {
        self.forget_route(EVERYWHERE);
    }

    /// Waits until the broker is closed.
    pub(crate) async fn ended(&self) {
        let ending = self.ending.notified();
        if !self.closed.load(Ordering::Acquire) {
            ending.await;
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ending.notify_waiters();
        for link in &self.names {
            link.close();
        }
        let links: Vec<_> = self.links.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        for (_, link) in links {
            link.close();
        }
    }
}

/// Asks again every few milliseconds until there is something; `None` at the deadline.
pub(crate) async fn wait<T, F>(deadline: Instant, mut ask: impl FnMut() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<Option<T>>>,
{
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = ask().await? {
            return Ok(Some(found));
        }
        if Instant::now() + pause >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("hosts", &self.config.hosts).finish_non_exhaustive()
    }
}
