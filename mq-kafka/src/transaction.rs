//! Several messages as one step: Kafka's transactions.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::driver::Token;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Message, MessageId};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use tokio::sync::oneshot;

use crate::client::{Watch, checked, producer_config};
use crate::error::{BACKEND, blocking, fault, from_client};
use crate::handoff::{Handoff, Places};
use crate::link::Link;
use crate::shared::Shared;
use crate::step::{Client, End, Reports, fenced, is_fenced, step};

/// Between two looks at a step under way, and between two attempts to end what one has left open.
const LOOK: Duration = Duration::from_millis(250);

/// One transaction after the other, on a client of their own: it is opened by the first.
pub(crate) struct Transactions {
    link: Arc<Link>,
    id: String,
    state: Arc<tokio::sync::Mutex<State>>,
}

enum State {
    /// No client, or its last transaction has no known end: opening one ends that, too.
    Closed,
    Open(Arc<Client>),
    /// Another producer took the id over.
    Fenced,
}

/// Deliveries of one consumer to be acknowledged.
type Acks = (Arc<Shared>, Vec<Token>);

/// Waits for a step; dropped before its end, the step is abandoned.
struct Waiting<'a>(Option<&'a Client>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.0 {
            client.context().abandon();
        }
    }
}

impl Transactions {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let given = link.config.producer.transactional_id.clone();
        let id =
            given.unwrap_or_else(|| format!("{}-{}", link.config.client_id, MessageId::generate(SystemTime::now())));
        Self { link, id, state: Arc::new(tokio::sync::Mutex::new(State::Closed)) }
    }

    /// Stores all and settles all, or nothing; an ambiguous error says that it is not known which.
    pub(crate) async fn store(&self, batch: Vec<Message>, acks: Vec<Acks>) -> Result<()> {
        let limit = self.link.config.send_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let Ok(mut state) = tokio::time::timeout_at(deadline, self.state.lock()).await else {
            return Err(fault(ErrorKind::Backpressure, "another atomic send is still underway"));
        };
        let client = match std::mem::replace(&mut *state, State::Closed) {
            State::Open(client) => client,
            State::Closed => match open(&self.link, &self.id).await {
                Ok(client) => client,
                Err(error) => {
                    if error.kind() == ErrorKind::Closed {
                        *state = State::Fenced;
                    }
                    return Err(error);
                }
            },
            State::Fenced => {
                *state = State::Fenced;
                return Err(fenced(&self.id));
            }
        };
        let mut handoffs = Vec::with_capacity(acks.len());
        for (consumer, tokens) in acks {
            match Handoff::begin(consumer, tokens, deadline).await {
                Ok(handoff) => handoffs.push(handoff),
                Err(error) => {
                    handoffs.into_iter().for_each(Handoff::nothing);
                    *state = State::Open(client);
                    return Err(error);
                }
            }
        }
        let settling = !handoffs.is_empty();
        let places: Result<Vec<Places>> = handoffs.iter().map(Handoff::places).collect();
        let end = match places {
            Ok(places) => self.run(&client, batch, places).await,
            Err(error) => End::Nothing { error, usable: true },
        };
        for handoff in handoffs {
            match &end {
                End::Stored => handoff.committed(),
                End::Nothing { .. } | End::Fenced => handoff.nothing(),
                End::Unknown(_) => drop(handoff),
            }
        }
        let (next, result) = match end {
            End::Stored => (State::Open(client), Ok(())),
            End::Nothing { error, usable: true } => (State::Open(client), Err(error)),
            End::Nothing { error, usable: false } => (State::Closed, Err(error)),
            End::Unknown(error) if error.kind() == ErrorKind::Closed => (State::Fenced, Err(error.ambiguous())),
            End::Unknown(error) => (State::Closed, Err(error.ambiguous())),
            End::Fenced => (State::Fenced, Err(fenced(&self.id))),
        };
        if settling && matches!(next, State::Closed) {
            tokio::spawn(end_what_is_open(Arc::clone(&self.link), self.id.clone(), Arc::clone(&self.state)));
        }
        *state = next;
        result
    }

    /// Everything up to the end has the time of a send, giving up has it again. The client's wait for a group's
    /// coordinator has no end when the client has lost every broker: then it is left behind, with its thread.
    async fn run(&self, client: &Arc<Client>, batch: Vec<Message>, places: Vec<Places>) -> End {
        let (limit, id, used) = (self.link.config.send_timeout, self.id.clone(), Arc::clone(client));
        let (tell, told) = oneshot::channel();
        // No thread of the runtime's: that would wait for it at its own end.
        let thread = std::thread::Builder::new().name("mq-kafka-step".to_owned());
        let started = thread.spawn(move || drop(tell.send(step(&used, &batch, &places, &id, limit))));
        if let Err(error) = started {
            let error = fault(ErrorKind::Internal, "cannot start a thread").with_source(error);
            return End::Nothing { error, usable: true };
        }
        tokio::pin!(told);
        let mut waiting = Waiting(Some(client));
        let until = tokio::time::Instant::now() + limit * 2 + LOOK;
        while tokio::time::Instant::now() < until {
            match tokio::time::timeout(LOOK, &mut told).await {
                Ok(Ok(end)) => {
                    waiting.0 = None;
                    return end;
                }
                Ok(Err(_)) => return End::Unknown(fault(ErrorKind::Internal, "the thread of the step panicked")),
                Err(_) => {}
            }
            // While the thread waits for an answer nobody else hears what the client tells of itself.
            client.poll(Duration::ZERO);
            if client.context().stranded.is_certain() {
                tracing::warn!("the client of transactions has lost every broker: it is left behind");
                return End::Unknown(fault(ErrorKind::Unavailable, "the client has lost every broker"));
            }
        }
        End::Unknown(Error::timeout(limit * 2).with_backend(BACKEND))
    }
}

async fn open(link: &Arc<Link>, id: &str) -> Result<Arc<Client>> {
    let (link, id) = (Arc::clone(link), id.to_owned());
    let limit = link.config.connect_timeout;
    blocking(limit, "open transactions", move || {
        let watch = Watch::new(&link.config);
        let mut config = producer_config(&link.config);
        config.set("transactional.id", &id);
        // A step just behind another is sent away until that is written everywhere: for a few milliseconds.
        config.set("retry.backoff.ms", "10");
        // The broker ends what nobody has ended by then.
        config.set("transaction.timeout.ms", link.config.send_timeout.as_millis().to_string());
        let reports = Reports::new(watch.clone());
        let client: Client = checked(config.create_with_context(reports), "open transactions")?;
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match client.init_transactions(left) {
                Ok(()) => return Ok(Arc::new(client)),
                Err(error) if is_fenced(&error) => return Err(fenced(&id)),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
                Err(error) => {
                    let seen = watch.seen().unwrap_or_else(|| from_client(&error, "open transactions"));
                    return Err(seen.with_operation("open transactions"));
                }
            }
        }
    })
    .await
}

/// The group's places wait for the end of what the last client left open, and the next client of the id ends it: that
/// must not wait until there is something to send. After the time of a send the broker ends it itself.
async fn end_what_is_open(link: Arc<Link>, id: String, state: Arc<tokio::sync::Mutex<State>>) {
    let until = Instant::now() + link.config.send_timeout;
    while Instant::now() < until {
        let mut state = state.lock().await;
        if !matches!(*state, State::Closed) {
            return;
        }
        match open(&link, &id).await {
            Ok(client) => {
                *state = State::Open(client);
                return;
            }
            Err(error) if error.kind() == ErrorKind::Closed => {
                *state = State::Fenced;
                return;
            }
            Err(error) => tracing::debug!(%error, "a transaction is still open"),
        }
        drop(state);
        tokio::time::sleep(LOOK).await;
    }
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::Config;

    fn one(body: &'static str) -> Vec<Message> {
        vec![Message::to(mq_core::name::Topic::parse("orders").unwrap()).body(body)]
    }

    /// The client's own wait may have no end then.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_ends_when_its_client_has_lost_every_broker() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let config = Config { brokers: vec![cluster.bootstrap_servers()], ..Config::default() };
        let limit = config.send_timeout;
        let transactions = Arc::new(Transactions::new(Link::open(Arc::new(config)).unwrap()));
        transactions.store(one("one"), Vec::new()).await.unwrap();
        let client = match &*transactions.state.lock().await {
            State::Open(client) => Arc::clone(client),
            _ => panic!("no client is kept"),
        };
        cluster.broker_round_trip_time(1, Duration::from_secs(600)).unwrap();
        let began = Instant::now();
        let waiting = tokio::spawn({
            let transactions = Arc::clone(&transactions);
            async move { transactions.store(one("two"), Vec::new()).await }
        });
        while !waiting.is_finished() {
            // What it would tell of itself.
            (0..2).for_each(|_| client.context().stranded.look(br#"{"brokers":{}}"#));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = waiting.await.unwrap().unwrap_err();
        assert!(error.is_ambiguous(), "{error}");
        assert!(began.elapsed() < limit, "it took {:?}", began.elapsed());
        cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
        transactions.store(one("three"), Vec::new()).await.unwrap();
    }
}
