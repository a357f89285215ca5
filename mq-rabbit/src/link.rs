//! One connection, kept: its supervisor connects, watches and reconnects.
//!
//! The client's own recovery stays off: it replays what it remembers, while we must know when a session ended, because
//! every delivery and every open confirmation of before is then void.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, Event};
use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::RabbitConfig;
use crate::error::{BACKEND, error, within};

/// Events of a lost connection are prompt, but may be missed between connecting and listening.
const CHECK_EVERY: Duration = Duration::from_millis(250);
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// A connection that comes back. Cheap to clone; the connection ends with [`Link::close`] or with the last clone.
#[derive(Clone)]
pub(crate) struct Link {
    config: Arc<RabbitConfig>,
    state: watch::Receiver<State>,
    orders: Arc<watch::Sender<Order>>,
}

#[derive(Clone, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Why the broker reads nothing from us now.
    blocked: Option<Arc<str>>,
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Failure {
    kind: ErrorKind,
    text: String,
    hint: Option<String>,
}

impl Failure {
    fn lost(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unavailable, text: text.into(), hint: None }
    }

    /// Without the prefix every outer error repeats; the hint apart.
    fn of(cause: &Error) -> Self {
        let text = cause.to_string();
        let hint = cause.hint().map(str::to_owned);
        let suffix = hint.as_ref().map(|hint| format!("; hint: {hint}"));
        let text = suffix.as_ref().and_then(|suffix| text.strip_suffix(suffix.as_str())).unwrap_or(&text);
        Self { kind: cause.kind(), text: text.strip_prefix("rabbit: ").unwrap_or(text).to_owned(), hint }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// Drop the present connection and make a new one.
    Restart(u64),
    Close,
}

impl Link {
    /// Starts connecting; `role` names the connection in the management pages.
    pub(crate) fn open(config: Arc<RabbitConfig>, role: &'static str) -> Self {
        let (publish, state) = watch::channel(State::default());
        let (orders, wanted) = watch::channel(Order::Run);
        tokio::spawn(supervise(Arc::clone(&config), role, publish, wanted));
        Self { config, state, orders: Arc::new(orders) }
    }

    pub(crate) fn config(&self) -> &Arc<RabbitConfig> {
        &self.config
    }

    /// The connection, waiting for it until `deadline`. Refused credentials and the like fail at once.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<Arc<Connection>> {
        let mut state = self.state.clone();
        let wait = state.wait_for(|state| {
            usable(state).is_some() || state.failure.as_ref().is_some_and(|failure| is_final(failure.kind))
        });
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(found)) => match (usable(&found), &found.failure) {
                (Some(connection), _) => Ok(connection),
                (None, failure) => Err(explain(failure.as_ref())),
            },
            Ok(Err(_)) => Err(Error::closed("broker connection").with_backend(BACKEND)),
            Err(_) => Err(explain(self.state.borrow().failure.as_ref())),
        }
    }

    /// The connection, if it stands now.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        usable(&self.state.borrow())
    }

    /// A new channel on the connection.
    pub(crate) async fn channel(&self, deadline: Instant) -> Result<Channel> {
        let connection = self.ready(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        within(left, connection.create_channel()).await
    }

    /// Why the broker reads nothing from this connection now.
    pub(crate) fn blocked(&self) -> Option<Arc<str>> {
        self.state.borrow().blocked.clone()
    }

    /// Waits until the broker reads again; false when `deadline` came first.
    pub(crate) async fn unblocked(&self, deadline: Instant) -> bool {
        let mut state = self.state.clone();
        tokio::time::timeout_at(deadline, state.wait_for(|state| state.blocked.is_none())).await.is_ok()
    }

    /// Waits until `connection` is no longer the one in use.
    pub(crate) async fn lost(&self, connection: &Arc<Connection>) {
        let mut state = self.state.clone();
        let gone = |state: &State| !state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection));
        // An error means that the supervisor ended, and the connection with it.
        let _ = state.wait_for(gone).await;
    }

    /// Why there is no connection, for people.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.state.borrow().failure.as_ref().map(|failure| match &failure.hint {
            Some(hint) => format!("{}; hint: {hint}", failure.text),
            None => failure.text.clone(),
        })
    }

    /// Gives up the connection, whose state is no longer known, and makes another.
    pub(crate) fn restart(&self) {
        self.orders.send_modify(|order| {
            *order = match *order {
                Order::Close => Order::Close,
                Order::Run => Order::Restart(0),
                Order::Restart(count) => Order::Restart(count.wrapping_add(1)),
            };
        });
    }

    /// Ends the connection.
    pub(crate) async fn close(&self, deadline: Duration) {
        self.orders.send_replace(Order::Close);
        let mut state = self.state.clone();
        // The supervisor drops its sender when it is done.
        let ended = async { while state.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(deadline, ended).await;
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connected", &usable(&self.state.borrow()).is_some()).finish_non_exhaustive()
    }
}

fn usable(state: &State) -> Option<Arc<Connection>> {
    state.connection.as_ref().filter(|connection| connection.status().connected()).cloned()
}

/// Trying again cannot help while nobody changes the settings.
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Auth | ErrorKind::Config | ErrorKind::NotFound)
}

fn explain(failure: Option<&Failure>) -> Error {
    match failure {
        Some(failure) => {
            let error = error(failure.kind, failure.text.clone());
            match &failure.hint {
                Some(hint) => error.with_hint(hint.clone()),
                None => error,
            }
        }
        None => error(ErrorKind::Unavailable, "there is no connection yet"),
    }
}

async fn supervise(
    config: Arc<RabbitConfig>,
    role: &'static str,
    state: watch::Sender<State>,
    mut orders: watch::Receiver<Order>,
) {
    let mut delay = FIRST_DELAY;
    loop {
        if *orders.borrow_and_update() == Order::Close {
            return;
        }
        let attempt = tokio::select! {
            attempt = crate::tls::connect(&config, role) => attempt,
            closed = wait_for_close(&mut orders) => return closed,
        };
        let failure = match attempt {
            Ok(connection) => {
                delay = FIRST_DELAY;
                let Some(failure) = watch_over(connection, &state, &mut orders).await else { return };
                failure
            }
            Err(cause) => Failure::of(&cause),
        };
        tracing::debug!(role, reason = %failure.text, "no connection to RabbitMQ");
        state.send_modify(|state| *state = State { failure: Some(failure), ..State::default() });
        // Full jitter: a thousand clients of a broker that comes back must not arrive together.
        let pause = delay.mul_f64(fastrand::f64());
        delay = (delay * 2).min(config.max_reconnect_delay.max(FIRST_DELAY));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            closed = wait_for_close(&mut orders) => return closed,
        }
    }
}

/// Returns why the connection ended; `None` when it was closed on order.
async fn watch_over(
    connection: Connection,
    state: &watch::Sender<State>,
    orders: &mut watch::Receiver<Order>,
) -> Option<Failure> {
    let mut events = std::pin::pin!(connection.events_listener());
    let connection = Arc::new(connection);
    state.send_modify(|state| *state = State { connection: Some(Arc::clone(&connection)), ..State::default() });
    let mut check = tokio::time::interval(CHECK_EVERY);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    state.send_modify(|state| state.blocked = Some(crate::error::printable(&reason).into()));
                }
                Some(Event::ConnectionUnblocked) => state.send_modify(|state| state.blocked = None),
                Some(Event::Error(cause)) if !connection.status().connected() => {
                    let cause = Failure::of(&crate::error::from_client(&cause));
                    return Some(Failure { kind: ErrorKind::Unavailable, ..cause });
                }
                Some(_) => {}
                None => return Some(Failure::lost("the connection ended")),
            },
            _ = check.tick() => {
                if !connection.status().connected() {
                    return Some(Failure::lost("the connection was lost"));
                }
            }
            changed = orders.changed() => {
                if changed.is_err() || *orders.borrow_and_update() == Order::Close {
                    state.send_modify(|state| state.connection = None);
                    let _ = connection.close(200, "closed by the application".into()).await;
                    return None;
                }
                if let Order::Restart(_) = *orders.borrow() {
                    // Never waited for: a blocked connection cannot even say good-bye.
                    let old = Arc::clone(&connection);
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(CHECK_EVERY, old.close(200, "restarted".into())).await;
                    });
                    return Some(Failure::lost("the connection was restarted"));
                }
            }
        }
    }
}

async fn wait_for_close(orders: &mut watch::Receiver<Order>) {
    // The sender is gone when the last handle is: closed, too.
    let _ = orders.wait_for(|order| *order == Order::Close).await;
}
