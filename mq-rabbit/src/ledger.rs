//! Attempts of messages that an ordered group holds for retry.
//!
//! Such a message stays with its consumer, so that nothing of its key overtakes it; AMQP cannot change a message that
//! lies in a queue. The attempt is recorded beside it, as a message of its own under the same id, and read again when
//! the broker delivers the held message once more. Records of messages long gone expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{MessageId, control};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{error, within};
use crate::lane::Outgoing;
use crate::names::short;
use crate::topology::default_exchange;
use crate::value;

/// More records than a group can hold messages is a leftover: then the oldest stay in the broker.
const MAX_RECORDS: usize = 10_000;

/// How long records of an earlier consumer may take to come back after the messages.
const COME_BACK: Duration = Duration::from_millis(100);

/// The recorded attempts of one topic's group.
#[derive(Debug)]
pub(crate) struct Ledger {
    core: Arc<Core>,
    queue: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channel: Option<Channel>,
    entries: HashMap<MessageId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    latest: Recorded,
    /// The records themselves, to be removed with the message.
    tags: Vec<u64>,
}

/// What is known of a held message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The attempt that comes next.
    pub(crate) attempt: u32,
    /// Not before.
    pub(crate) due: Option<SystemTime>,
}

impl Ledger {
    pub(crate) fn new(core: Arc<Core>, queue: String) -> Self {
        Self { core, queue, state: Mutex::default() }
    }

    /// Records which attempt comes next, and when.
    pub(crate) async fn record(&self, id: &MessageId, attempt: u32, due: SystemTime) -> Result<()> {
        let mut headers = FieldTable::default();
        headers.insert(short(control::ATTEMPT)?, AMQPValue::LongLongInt(i64::from(attempt)));
        headers.insert(short(control::DUE)?, AMQPValue::LongString(control::from_time(due).to_vec().into()));
        headers.insert(short(control::ID)?, AMQPValue::LongString(id.as_str().into()));
        let routing_key = short(&self.queue)?;
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let send = self.core.hops.send(|done| Outgoing {
            exchange: default_exchange(),
            routing_key,
            properties,
            body: bytes::Bytes::new(),
            keyed: false,
            confirm: true,
            done,
        });
        send.await
    }

    /// What is recorded for a message that was delivered before.
    ///
    /// Cancel safe: in a task of its own, because a question given up halfway would leave its record with the channel and
    /// not with us.
    pub(crate) async fn find(self: &Arc<Self>, id: &MessageId) -> Result<Option<Recorded>> {
        let (ledger, id) = (Arc::clone(self), id.clone());
        let found = tokio::spawn(async move {
            let mut state = ledger.state.lock().await;
            ledger.load(&mut state).await?;
            Ok(state.entries.get(&id).map(|entry| entry.latest))
        });
        found.await.unwrap_or_else(|_| Err(error(ErrorKind::Internal, "the look at recorded attempts broke off")))
    }

    /// Removes the records of a message that is settled.
    pub(crate) async fn forget(&self, id: &MessageId) -> Result<()> {
        let mut state = self.state.lock().await;
        self.load(&mut state).await?;
        let Some(entry) = state.entries.remove(id) else { return Ok(()) };
        if let Some(channel) = &state.channel {
            for tag in entry.tags {
                let ack = channel.basic_ack(tag, BasicAckOptions { multiple: false });
                within(self.core.config.connect_timeout, ack).await?;
            }
        }
        Ok(())
    }

    /// Takes new records out of the queue; they stay there for others if we die.
    async fn load(&self, state: &mut State) -> Result<()> {
        let loaded = self.load_on_channel(state).await;
        if loaded.is_err() {
            // A question that had no answer keeps its channel waiting: the next one must not queue up behind it. What
            // was taken out goes back.
            state.entries.clear();
            state.channel = None;
        }
        loaded
    }

    async fn load_on_channel(&self, state: &mut State) -> Result<()> {
        let limit = self.core.config.connect_timeout;
        if !state.channel.as_ref().is_some_and(|channel| channel.status().connected()) {
            state.entries.clear();
            // Records an earlier consumer had taken out go back when the broker notices its end, as the messages do, but
            // in no order between the two queues.
            tokio::time::sleep(COME_BACK).await;
            state.channel = Some(self.core.consuming.channel(Instant::now() + limit).await?);
        }
        let Some(channel) = state.channel.clone() else { return Ok(()) };
        while state.entries.len() < MAX_RECORDS {
            let get = channel.basic_get(short(&self.queue)?, BasicGetOptions { no_ack: false });
            let Some(record) = within(limit, get).await? else { break };
            let headers = record.delivery.properties.headers().clone().unwrap_or_default();
            let attempt = headers.inner().get(control::ATTEMPT).and_then(value::to_number);
            let attempt = attempt.and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(1);
            let id = headers.inner().get(control::ID).and_then(value::to_text).unwrap_or_default();
            let due = headers.inner().get(control::DUE).and_then(value::to_number);
            let due = due.and_then(|millis| u64::try_from(millis).ok());
            let due = due.and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
            let entry = state.entries.entry(MessageId::from(id)).or_default();
            if attempt >= entry.latest.attempt {
                entry.latest = Recorded { attempt, due };
            }
            entry.tags.push(record.delivery.delivery_tag);
        }
        Ok(())
    }

    /// Gives back what was taken out.
    pub(crate) async fn close(&self, limit: Duration) {
        let close = async {
            if let Some(channel) = self.state.lock().await.channel.take() {
                let _ = channel.close(200, "closed by the application".into()).await;
            }
        };
        let _ = tokio::time::timeout(limit, close).await;
    }
}
