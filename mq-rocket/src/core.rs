//! What everything opened on one broker shares: settings, connections, routes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::away::Away;
use crate::config::RocketConfig;
use crate::error::{BACKEND, answer, error};
use crate::name_servers::NameServers;
use crate::names;
use crate::remoting::{Access, Command, Failure, Link, code};
use crate::route::{Node, Route};
use crate::routes::Routes;

/// A topic every broker has from its start: its route names all brokers.
const EVERYWHERE: &str = "SELF_TEST_TOPIC";
/// A route is asked for again after this long.
const ROUTE_AGE: Duration = Duration::from_secs(30);
/// The same, while a broker that was there is not.
const AWAITED: Duration = Duration::from_secs(1);
/// How long one of several brokers is tried to be reached before the others must do.
pub(crate) const REACH: Duration = Duration::from_secs(1);
/// How long one of several brokers may take to answer what several are asked.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct Core {
    pub(crate) config: RocketConfig,
    names: NameServers,
    links: Mutex<HashMap<String, Arc<Link>>>,
    pub(crate) routes: Routes,
    pub(crate) away: Away,
    closed: AtomicBool,
    ending: Notify,
    pub(crate) access: Arc<Access>,
}

impl Core {
    pub(crate) fn new(config: RocketConfig) -> Result<Arc<Self>> {
        let access = Arc::new(Access::new(&config)?);
        let names = NameServers::new(&config, &access);
        Ok(Arc::new_cyclic(|me| Self {
            config,
            names,
            links: Mutex::default(),
            routes: Routes::default(),
            away: Away::new(Weak::clone(me)),
            closed: AtomicBool::new(false),
            ending: Notify::new(),
            access,
        }))
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.connect_timeout
    }

    /// The connection to a broker that all share.
    pub(crate) fn link(&self, node: &Node) -> Arc<Link> {
        let address = self.routes.address(node);
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&address) {
            return Arc::clone(link);
        }
        Arc::clone(links.entry(address.clone()).or_insert_with(|| Arc::new(Link::new(&address, &self.access))))
    }

    /// Asks a broker something that may be asked twice without harm; waits for one that is away until `deadline`.
    pub(crate) async fn ask(&self, node: &Node, command: Command, deadline: Instant) -> Result<Command> {
        self.check_open()?;
        self.link(node).call(command, deadline).await.map_err(Failure::into_error)
    }

    /// The same, but where there are several brokers one that is away does not hold up the others.
    pub(crate) async fn ask_soon(&self, node: &Node, command: Command, deadline: Instant) -> Result<Command> {
        if self.routes.is_single() {
            return self.ask(node, command, deadline).await;
        }
        self.check_open()?;
        let now = Instant::now();
        let asked = async {
            let connection = self.link(node).ready(deadline.min(now + REACH)).await?;
            connection.call(command, deadline.min(now + ANSWER)).await.map_err(Failure::into_error)
        };
        asked.await.map_err(|cause| cause.with_context("broker", &node.name))
    }

    /// How long a broker is tried to be reached, where others can do the same or not.
    pub(crate) fn reach(deadline: Instant, others: bool) -> Instant {
        if others { deadline.min(Instant::now() + REACH) } else { deadline }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("broker").with_backend(BACKEND));
        }
        Ok(())
    }

    /// Asks all name servers, and returns every answer that came soon.
    pub(crate) async fn ask_names(&self, command: &Command, deadline: Instant) -> Result<Vec<Command>> {
        self.check_open()?;
        self.names.ask(command, deadline).await
    }

    /// Tells each name server that answers.
    pub(crate) async fn tell_names(&self, command: &Command, deadline: Instant) -> Result<()> {
        self.names.tell(command, deadline).await
    }

    /// Where a topic is, by the broker's own name of it; asked anew when it is older than `age`.
    pub(crate) async fn route_within(&self, topic: &str, age: Duration, deadline: Instant) -> Result<Arc<Route>> {
        if let Some(route) = self.routes.within(topic, age) {
            return Ok(route);
        }
        let answers = self.ask_route(topic, deadline).await?;
        let routes: Vec<Route> = answers
            .iter()
            .filter(|answer| answer.code == answer::SUCCESS)
            .map(|answer| Route::decode(&answer.body, &self.config.addresses))
            .collect::<Result<_>>()?;
        let refused = answers.into_iter().find(|answer| answer.code != answer::SUCCESS);
        let Some(refused) = refused.filter(|_| routes.is_empty()) else {
            let route = Arc::new(Route::merged(routes));
            self.routes.learn(topic, &route);
            return Ok(route);
        };
        if refused.code == answer::TOPIC_NOT_EXIST && topic != EVERYWHERE {
            self.check_names(deadline).await?;
        }
        self.routes.remove(topic);
        Err(refused.refusal().with_context("topic", names::shown(topic)))
    }

    async fn ask_route(&self, topic: &str, deadline: Instant) -> Result<Vec<Command>> {
        let command = Command::request(code::GET_ROUTE).field("topic", topic).field("acceptStandardJsonOnly", true);
        self.ask_names(&command, deadline).await
    }

    /// What a name server that was just started does not know is no news: no broker has registered there yet.
    async fn check_names(&self, deadline: Instant) -> Result<()> {
        let answers = self.ask_route(EVERYWHERE, deadline).await?;
        if answers.iter().all(|answer| answer.code == answer::TOPIC_NOT_EXIST) {
            return Err(error(ErrorKind::Unavailable, "the name server knows no broker yet")
                .with_hint("brokers register again within 30 s"));
        }
        Ok(())
    }

    pub(crate) async fn route(&self, topic: &str, deadline: Instant) -> Result<Arc<Route>> {
        // One that is awaited back is looked for sooner.
        let age = if self.routes.missing(topic).is_empty() { ROUTE_AGE } else { AWAITED };
        self.route_within(topic, age, deadline).await
    }

    pub(crate) async fn fresh_route(&self, topic: &str, deadline: Instant) -> Result<Arc<Route>> {
        self.route_within(topic, Duration::ZERO, deadline).await
    }

    /// The next question for this topic's route goes to the name servers.
    pub(crate) fn forget_route(&self, topic: &str) {
        self.routes.forget(topic);
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

    /// Brokers that were there a moment ago and are not now.
    pub(crate) fn missing_nodes(&self) -> Vec<String> {
        self.routes.missing(EVERYWHERE)
    }

    /// The next question for all brokers goes to the name servers.
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
        self.names.close();
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
