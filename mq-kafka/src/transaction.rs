//! Several messages as one step: Kafka's transactions.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mq_core::driver::Token;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Message, MessageId};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::client::{Watch, checked, producer_config};
use crate::encode::{millis, plain};
use crate::error::{BACKEND, blocking, fault, from_client};
use crate::handoff::{Handoff, Places, stale};
use crate::link::Link;
use crate::shared::Shared;

/// How long one look for reports takes while the client's queue is full.
const LOOK: Duration = Duration::from_millis(10);

/// One transaction after the other, on a client of their own: it is opened by the first.
pub(crate) struct Transactions {
    link: Arc<Link>,
    id: String,
    state: tokio::sync::Mutex<State>,
}

enum State {
    /// No client, or its last transaction has no known end: opening one ends that, too.
    Closed,
    Open(Arc<Client>),
    /// Another producer took the id over.
    Fenced,
}

type Client = BaseProducer<Reports>;
/// Deliveries of one consumer to be acknowledged.
type Acks = (Arc<Shared>, Vec<Token>);

/// Keeps the first report that is none of success.
struct Reports {
    watch: Watch,
    failed: Mutex<Option<Error>>,
}

/// How a transaction ended.
enum End {
    Stored,
    /// Nothing of it is to be seen, ever. A client that could not say so to the broker is left behind.
    Nothing {
        error: Error,
        usable: bool,
    },
    /// All or nothing, but which is not known.
    Unknown(Error),
    /// Another producer has the id, and nothing of this is to be seen.
    Fenced,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.watch.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = report {
            self.fail(error, record.topic());
        }
    }
}

impl Reports {
    fn fail(&self, error: &KafkaError, topic: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| from_client(error, "atomic send").with_context("topic", topic));
    }

    fn take(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Transactions {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let given = link.config.producer.transactional_id.clone();
        let id =
            given.unwrap_or_else(|| format!("{}-{}", link.config.client_id, MessageId::generate(SystemTime::now())));
        Self { link, id, state: tokio::sync::Mutex::new(State::Closed) }
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
            State::Closed => match self.open().await {
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
                    *state = State::Open(client);
                    return Err(error);
                }
            }
        }
        let settling = !handoffs.is_empty();
        let (used, id) = (Arc::clone(&client), self.id.clone());
        let abandoned = Arc::new(AtomicBool::new(false));
        let late = Arc::clone(&abandoned);
        // What it holds of the consumers it ends itself: whoever waits here may go away.
        let run = move || {
            let end = transaction(&used, &batch, &handoffs, &id, limit);
            for handoff in handoffs {
                match &end {
                    _ if late.load(Ordering::Acquire) => handoff.unknown(),
                    End::Stored => handoff.committed(),
                    End::Unknown(_) => handoff.unknown(),
                    End::Nothing { .. } | End::Fenced => drop(handoff),
                }
            }
            Ok(end)
        };
        // Everything up to the end has the time of a send, giving up has it again. Without an end that is known the
        // client is left behind: `state` says closed.
        let end = blocking(limit * 2, "atomic send", run).await.map_err(|error| {
            abandoned.store(true, Ordering::Release);
            error.ambiguous()
        })?;
        match end {
            End::Stored => {
                *state = State::Open(client);
                Ok(())
            }
            End::Nothing { error, usable } => {
                if usable {
                    *state = State::Open(client);
                }
                Err(error)
            }
            End::Unknown(error) if error.kind() == ErrorKind::Closed => {
                *state = State::Fenced;
                Err(error.ambiguous())
            }
            End::Unknown(error) => {
                // The next client ends what this one left, and the group waits for that end.
                if settling && let Ok(next) = self.open().await {
                    *state = State::Open(next);
                }
                Err(error.ambiguous())
            }
            End::Fenced => {
                *state = State::Fenced;
                Err(fenced(&self.id))
            }
        }
    }

    async fn open(&self) -> Result<Arc<Client>> {
        let (link, id) = (Arc::clone(&self.link), self.id.clone());
        let limit = link.config.connect_timeout;
        blocking(limit, "open transactions", move || {
            let watch = Watch::new(&link.config);
            let mut config = producer_config(&link.config);
            config.set("transactional.id", &id);
            // The broker ends what nobody has ended by then.
            config.set("transaction.timeout.ms", link.config.send_timeout.as_millis().to_string());
            let reports = Reports { watch: watch.clone(), failed: Mutex::new(None) };
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
}

/// All of it within `limit`, when the broker would end it: what is not committed by then is given up.
fn transaction(client: &Client, batch: &[Message], handoffs: &[Handoff], id: &str, limit: Duration) -> End {
    drop(client.context().take());
    let until = Instant::now() + limit;
    let places: Result<Vec<Places>> = handoffs.iter().map(Handoff::places).collect();
    let places = match places {
        Ok(places) => places,
        Err(error) => return End::Nothing { error, usable: true },
    };
    if let Err(error) = client.begin_transaction() {
        let fenced = is_fenced(&error);
        let error = from_client(&error, "begin transaction");
        return if fenced { End::Fenced } else { End::Nothing { error, usable: false } };
    }
    let sent = send(client, batch, until).and_then(|()| settle(client, &places, until));
    match sent {
        Err(cause) => abort(client, &cause, until, limit),
        Ok(()) if Instant::now() >= until => abort(client, &Error::timeout(limit), until, limit),
        Ok(()) => commit(client, id, until, limit),
    }
}

fn send(client: &Client, batch: &[Message], until: Instant) -> Result<()> {
    for message in batch {
        if let Err((error, topic)) = hand_over(client, message, until) {
            client.context().fail(&error, &topic);
            break;
        }
    }
    if let Err(error) = client.flush(until.saturating_duration_since(Instant::now())) {
        client.context().fail(&error, batch.first().map_or("", |message| message.topic().name()));
    }
    client.context().take().map_or(Ok(()), Err)
}

/// Puts the places of groups into the transaction.
fn settle(client: &Client, places: &[Places], until: Instant) -> Result<()> {
    for (member, list) in places {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match client.send_offsets_to_transaction(list, member, left) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
                Err(error) => {
                    let lost = [Code::IllegalGeneration, Code::UnknownMemberId, Code::FencedInstanceId];
                    let code = error.rdkafka_error_code();
                    let is_stale = code.is_some_and(|code| lost.contains(&code));
                    return Err(if is_stale { stale() } else { from_client(&error, "hand off") });
                }
            }
        }
    }
    Ok(())
}

fn hand_over(client: &Client, message: &Message, until: Instant) -> std::result::Result<(), (KafkaError, String)> {
    loop {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord {
            topic: message.topic().name(),
            partition: None,
            payload: message.body_bytes().map(|body| &**body),
            key: message.key_bytes().map(|key| &**key),
            timestamp: message.made_at().map(millis),
            headers: plain(message),
            delivery_opaque: (),
        };
        match client.send(record) {
            Ok(()) => return Ok(()),
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) && Instant::now() < until => {
                client.poll(LOOK);
            }
            Err((error, _)) => return Err((error, message.topic().name().to_owned())),
        }
    }
}

fn commit(client: &Client, id: &str, until: Instant, limit: Duration) -> End {
    loop {
        match client.commit_transaction(until.saturating_duration_since(Instant::now())) {
            Ok(()) => return End::Stored,
            // The client asks several times: an earlier request may have been heard.
            Err(error) if is_fenced(&error) => return End::Unknown(fenced(id)),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                let cause = from_client(&KafkaError::Transaction(error), "commit transaction");
                return abort(client, &cause, until, limit);
            }
            Err(error) => return End::Unknown(from_client(&error, "commit transaction")),
        }
    }
}

/// Nothing was committed, so nothing will be seen, whether this succeeds or the broker does it when the time is up.
fn abort(client: &Client, cause: &Error, until: Instant, limit: Duration) -> End {
    let nothing = Error::new(cause.kind(), format!("nothing of it is stored: {cause}")).with_backend(BACKEND);
    let last = Instant::now() + limit;
    loop {
        match client.abort_transaction(last.saturating_duration_since(Instant::now())) {
            Ok(()) => return End::Nothing { error: nothing, usable: true },
            // Later it is the broker that has ended the transaction, with the same words.
            Err(error) if is_fenced(&error) && Instant::now() < until => return End::Fenced,
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < last => {}
            Err(error) => {
                tracing::warn!(%error, "a transaction is left to the broker to end");
                return End::Nothing { error: nothing, usable: false };
            }
        }
    }
}

fn is_fenced(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch))
}

fn fenced(id: &str) -> Error {
    fault(ErrorKind::Closed, "another producer has taken this one's place")
        .with_operation("atomic send")
        .with_context("transactional_id", id)
        .with_hint("give each process that runs at the same time a `producer.transactional_id` of its own")
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions").field("id", &self.id).finish_non_exhaustive()
    }
}
