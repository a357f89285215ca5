//! The way into the client: records of the user's and of ours.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mq_core::driver::Publish;
use mq_core::error::Error;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::encode::{millis, plain};
use crate::first::{self, Sent, Ticket};
use crate::reports::{Outcome, Reports, Underway};

/// How long the number of a topic's partitions may take to come, from a broker that has just answered.
const COUNT: Duration = Duration::from_secs(1);

/// A record to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) headers: Option<OwnedHeaders>,
}

/// A record the client did not take.
pub(crate) struct Refused {
    /// Its queue is full.
    pub(crate) full: bool,
    pub(crate) error: Error,
    pub(crate) outcome: Outcome,
}

/// Hands records to the client; waits for nothing.
pub(crate) struct Way<'a>(pub(crate) &'a BaseProducer<Reports>);

impl Way<'_> {
    /// Hands over a message of the user's, or keeps it until it is its turn. Full: gives it back.
    pub(crate) fn publish(&self, publish: Publish) -> Result<(), Publish> {
        let Some(publish) = self.0.context().firsts.admit(publish, self) else { return Ok(()) };
        match first::Client::send(self, publish, None) {
            Sent::Full(publish) => Err(publish),
            Sent::Underway | Sent::Refused => Ok(()),
        }
    }

    /// Hands over a record. Full: gives the outcome back.
    pub(crate) fn try_send(
        &self,
        record: Outgoing<'_>,
        timestamp: Option<i64>,
        outcome: Outcome,
    ) -> Result<(), Refused> {
        let open = &self.0.context().room.open;
        open.fetch_add(1, Ordering::AcqRel);
        let record = BaseRecord {
            topic: record.topic,
            partition: None,
            payload: record.body,
            key: record.key,
            timestamp,
            headers: record.headers,
            delivery_opaque: Box::new(Underway { outcome, again: false }),
        };
        let Err((error, record)) = self.0.send(record) else { return Ok(()) };
        open.fetch_sub(1, Ordering::AcqRel);
        let full = error.rdkafka_error_code() == Some(Code::QueueFull);
        let topic = record.topic;
        let error = self.0.context().explain(&error, topic);
        Err(Refused { full, error, outcome: record.delivery_opaque.outcome })
    }
}

impl first::Client for Way<'_> {
    fn send(&self, publish: Publish, ticket: Option<Ticket>) -> Sent {
        let message = publish.message();
        let (topic, key, body) = (message.topic().clone(), message.key_bytes().cloned(), message.body_bytes().cloned());
        let record =
            Outgoing { topic: topic.name(), key: key.as_deref(), body: body.as_deref(), headers: plain(message) };
        let timestamp = message.made_at().map(millis);
        match self.try_send(record, timestamp, Outcome::Publish(publish, ticket)) {
            Err(Refused { full: true, outcome: Outcome::Publish(publish, _), .. }) => Sent::Full(publish),
            Err(Refused { error, outcome: Outcome::Publish(publish, _), .. }) => {
                publish.complete(Err(error));
                Sent::Refused
            }
            Ok(()) | Err(Refused { outcome: Outcome::Own(_), .. }) => Sent::Underway,
        }
    }

    fn partitions(&self, topic: &str) -> Option<u32> {
        let metadata = self.0.client().fetch_metadata(Some(topic), COUNT).ok()?;
        let found = metadata.topics().iter().find(|known| known.name() == topic)?;
        u32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)
    }
}
