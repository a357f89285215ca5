//! An address, and the connection to it as long as one stands.

use std::fmt;
use std::sync::{Arc, Mutex as Short, PoisonError};
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::access::Access;
use super::connection::{Connection, Failure, Question};
use super::frame::Command;
use crate::error::{again, error};

/// The first pause between two attempts to connect; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long one attempt may take before another is made.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Connects when it is needed, and again when the connection was lost.
pub(crate) struct Link {
    address: String,
    access: Arc<Access>,
    questions: Option<mpsc::Sender<Question>>,
    current: Short<Option<Arc<Connection>>>,
    /// Held by the one that connects; others wait for what it gets.
    connecting: Mutex<()>,
    failure: Short<Option<Error>>,
}

impl Link {
    pub(crate) fn new(address: &str, access: &Arc<Access>) -> Self {
        Self {
            address: address.to_owned(),
            access: Arc::clone(access),
            questions: None,
            current: Short::default(),
            connecting: Mutex::default(),
            failure: Short::default(),
        }
    }

    /// What the broker asks of its own accord goes there.
    pub(crate) fn questions(mut self, questions: mpsc::Sender<Question>) -> Self {
        self.questions = Some(questions);
        self
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The connection, if one stands.
    pub(crate) fn standing(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| !connection.is_lost()).map(Arc::clone)
    }

    /// The connection, made if there is none; waits for a broker that is away until `deadline`.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<Arc<Connection>> {
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let connect = self.connect(deadline, false);
        tokio::time::timeout_at(deadline, connect).await.unwrap_or_else(|_| Err(self.unreachable()))
    }

    /// As [`ready`](Self::ready), but does not wait for what refuses the connection: somebody else can be asked.
    pub(crate) async fn ready_at_once(&self, deadline: Instant) -> Result<Arc<Connection>> {
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let connect = self.connect(deadline, true);
        tokio::time::timeout_at(deadline, connect).await.unwrap_or_else(|_| Err(self.unreachable()))
    }

    async fn connect(&self, deadline: Instant, once: bool) -> Result<Arc<Connection>> {
        let _alone = self.connecting.lock().await;
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(connection) = self.standing() {
                return Ok(connection);
            }
            let open = Connection::open(&self.address, &self.access, self.questions.clone());
            match tokio::time::timeout(ATTEMPT, open).await {
                Ok(Ok(connection)) => {
                    let connection = Arc::new(connection);
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                // No waiting mends these.
                Ok(Err(cause)) if !cause.is_transient() => return Err(cause.with_context("host", &self.address)),
                Ok(Err(cause)) => self.failed(cause),
                Err(_) => self.failed(error(
                    ErrorKind::Unavailable,
                    format!("no connection to {} within {ATTEMPT:?}", self.address),
                )),
            }
            if once || Instant::now() + pause >= deadline {
                return Err(self.unreachable());
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(self.access.max_pause.max(FIRST_PAUSE));
        }
    }

    fn failed(&self, why: Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn unreachable(&self) -> Error {
        let why = self.failure.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(again);
        let why = why.unwrap_or_else(|| error(ErrorKind::Unavailable, format!("no connection to {}", self.address)));
        match why.hint() {
            Some(_) => why,
            None => why.with_hint("is RocketMQ running, and is this the address of a name server, or one it names?"),
        }
    }

    /// Asks, connecting first if need be, and waits for the answer until `deadline`.
    pub(crate) async fn call(&self, command: Command, deadline: Instant) -> Result<Command, Failure> {
        let connection = self.ready(deadline).await.map_err(Failure::NotSent)?;
        connection.call(command, deadline).await
    }

    /// Ends the connection, if there is one; another is made when it is needed.
    pub(crate) fn close(&self) {
        if let Some(connection) = self.current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            connection.close();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}
