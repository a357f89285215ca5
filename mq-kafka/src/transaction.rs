//! Several messages as one step: Kafka's transactions.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
use crate::link::Link;

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

/// Keeps the first report that is none of success.
struct Reports {
    watch: Watch,
    failed: Mutex<Option<Error>>,
}

/// How a transaction ended.
enum End {
    Stored,
    /// Nothing of it is to be seen, ever.
    Nothing(Error),
    /// All or nothing, but which is not known.
    Unknown(Error),
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

    /// Stores all or nothing; an ambiguous error says that it is not known which.
    pub(crate) async fn store(&self, batch: Vec<Message>) -> Result<()> {
        let limit = self.link.config.send_timeout;
        let Ok(mut state) = tokio::time::timeout(limit, self.state.lock()).await else {
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
        // Sending, ending and giving up each have the time of a send.
        let (used, id) = (Arc::clone(&client), self.id.clone());
        let run = move || Ok(transaction(&used, &batch, limit));
        // Without an end that is known the client is left behind: `state` says closed.
        let end = blocking(limit * 3, "atomic send", run).await.map_err(Error::ambiguous)?;
        match end {
            End::Stored => {
                *state = State::Open(client);
                Ok(())
            }
            End::Nothing(error) => {
                *state = State::Open(client);
                Err(error)
            }
            End::Unknown(error) => Err(error.ambiguous()),
            End::Fenced => {
                *state = State::Fenced;
                Err(fenced(&id))
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

fn transaction(client: &Client, batch: &[Message], limit: Duration) -> End {
    drop(client.context().take());
    if let Err(error) = client.begin_transaction() {
        return if is_fenced(&error) { End::Fenced } else { End::Unknown(from_client(&error, "begin transaction")) };
    }
    let until = Instant::now() + limit;
    for message in batch {
        if let Err((error, topic)) = hand_over(client, message, until) {
            client.context().fail(&error, &topic);
            break;
        }
    }
    if let Err(error) = client.flush(until.saturating_duration_since(Instant::now())) {
        client.context().fail(&error, batch.first().map_or("", |message| message.topic().name()));
    }
    match client.context().take() {
        Some(error) => abort(client, &error, limit),
        None => commit(client, limit),
    }
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

fn commit(client: &Client, limit: Duration) -> End {
    let until = Instant::now() + limit;
    loop {
        match client.commit_transaction(until.saturating_duration_since(Instant::now())) {
            Ok(()) => return End::Stored,
            Err(error) if is_fenced(&error) => return End::Fenced,
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                return abort(client, &from_client(&KafkaError::Transaction(error), "commit transaction"), limit);
            }
            Err(error) => return End::Unknown(from_client(&error, "commit transaction")),
        }
    }
}

/// Nothing was committed, so nothing will be seen, whether this succeeds or the broker does it when the time is up.
fn abort(client: &Client, cause: &Error, limit: Duration) -> End {
    let nothing = Error::new(cause.kind(), format!("nothing of the batch is stored: {cause}")).with_backend(BACKEND);
    let until = Instant::now() + limit;
    loop {
        match client.abort_transaction(until.saturating_duration_since(Instant::now())) {
            Ok(()) => return End::Nothing(nothing),
            Err(error) if is_fenced(&error) => return End::Fenced,
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
            Err(error) => {
                tracing::warn!(%error, "a transaction is left to the broker to end");
                return End::Unknown(nothing);
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
