//! One transaction, from its beginning to an end that is known or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::client::{Stranded, Watch};
use crate::encode::{millis, plain};
use crate::error::{BACKEND, fault, from_client};
use crate::handoff::{Places, stale};

/// How long one look for reports takes while the client's queue is full.
const LOOK: Duration = Duration::from_millis(10);
/// One look for the reports of what was sent: as long as it takes a broker near by.
const REPORTS: Duration = Duration::from_millis(1);

pub(crate) type Client = BaseProducer<Reports>;

/// Keeps the first report that is none of success.
pub(crate) struct Reports {
    watch: Watch,
    failed: Mutex<Option<Error>>,
    pub(crate) stranded: Stranded,
    /// Nobody waits for the step any more: it must not be committed, since what it settles is read again.
    abandoned: AtomicBool,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.watch.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats_raw(&self, figures: &[u8]) {
        self.stranded.look(figures);
    }
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
    pub(crate) fn new(watch: Watch) -> Self {
        Self { watch, failed: Mutex::default(), stranded: Stranded::default(), abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    fn fail(&self, error: &KafkaError, topic: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| from_client(error, "atomic send").with_context("topic", topic));
    }

    fn take(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// How a transaction ended.
pub(crate) enum End {
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

/// All of it within `limit`, when the broker would end it: what is not committed by then is given up.
pub(crate) fn step(client: &Client, batch: &[Message], places: &[Places], id: &str, limit: Duration) -> End {
    drop(client.context().take());
    let until = Instant::now() + limit;
    if let Err(error) = client.begin_transaction() {
        let fenced = is_fenced(&error);
        let error = from_client(&error, "begin transaction");
        return if fenced { End::Fenced } else { End::Nothing { error, usable: false } };
    }
    let sent = send(client, batch, until).and_then(|()| settle(client, places, until));
    match sent {
        Err(cause) => abort(client, &cause, until, limit),
        // Once places are in the transaction whoever reads them waits for its end: from here on it may be committed.
        Ok(()) if client.context().abandoned.load(Ordering::Acquire) => {
            abort(client, &fault(ErrorKind::Closed, "nobody waits for the step"), until, limit)
        }
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
    if let Err(error) = flush(client, until) {
        client.context().fail(&error, batch.first().map_or("", |message| message.topic().name()));
    }
    client.context().take().map_or(Ok(()), Err)
}

/// The client's own wait looks for reports every 100 ms only.
fn flush(client: &Client, until: Instant) -> std::result::Result<(), KafkaError> {
    loop {
        match client.flush(Duration::ZERO) {
            Err(_) if Instant::now() < until => client.poll(REPORTS),
            flushed => return flushed,
        }
    }
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

pub(crate) fn is_fenced(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch))
}

pub(crate) fn fenced(id: &str) -> Error {
    fault(ErrorKind::Closed, "another producer has taken this one's place")
        .with_operation("atomic send")
        .with_context("transactional_id", id)
        .with_hint("give each process that runs at the same time a `producer.transactional_id` of its own")
}
