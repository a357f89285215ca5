//! librdkafka through its Rust wrapper, with the settings `mq` uses.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mq::config::Url;
use mq::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::cases::Place;
use crate::pair::{Cost, cost};

/// Messages between two commits: what a careful user of the raw client would batch.
const COMMIT_EVERY: u64 = 1000;

pub(crate) struct Client {
    settings: ClientConfig,
    producer: FutureProducer,
}

impl Client {
    pub(crate) fn connect(url: &Url) -> Result<Self> {
        let hosts: Vec<String> =
            url.hosts.iter().map(|(host, port)| format!("{host}:{}", port.unwrap_or(9092))).collect();
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", hosts.join(","));
        let mut sending = settings.clone();
        sending
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("batch.size", "16384")
            .set("linger.ms", "0")
            .set("partitioner", "murmur2_random");
        let producer = sending.create().map_err(failed)?;
        Ok(Self { settings, producer })
    }

    pub(crate) async fn send(&self, place: &Place, body: &Bytes, window: usize, messages: u64) -> Result<()> {
        let mut pending = VecDeque::with_capacity(window);
        for _ in 0..messages {
            if pending.len() == window
                && let Some(oldest) = pending.pop_front()
            {
                confirmed(oldest).await?;
            }
            let id = mq::MessageId::generate(std::time::SystemTime::now()).to_string();
            let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: "mq-id", value: Some(&id) });
            let record: FutureRecord<'_, (), [u8]> =
                FutureRecord::to(place.topic.name()).payload(&body[..]).headers(headers);
            pending.push_back(self.producer.send_result(record).map_err(|(error, _)| failed(error))?);
        }
        for pending in pending {
            confirmed(pending).await?;
        }
        Ok(())
    }

    pub(crate) async fn consume(&self, place: &Place, messages: u64) -> Result<Cost> {
        let consumer: BaseConsumer = self
            .settings
            .clone()
            .set("group.id", format!("raw-{:08x}", fastrand::u32(..)))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            // The adapter's own settings: by default a queue found full makes the client pause for a second, and the
            // raw client would be compared at a fraction of its rate.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384")
            .create()
            .map_err(failed)?;
        consumer.subscribe(&[place.topic.name()]).map_err(failed)?;
        let work = tokio::task::spawn_blocking(move || {
            // A poll also ends, with nothing, when the group is formed.
            let deadline = Instant::now() + Duration::from_secs(30);
            while consumer.poll(Duration::from_secs(1)).transpose().map_err(failed)?.is_none() {
                if Instant::now() > deadline {
                    return Err(Error::new(ErrorKind::Timeout, "the raw consumer got no first message"));
                }
            }
            let spent = tokio::runtime::Handle::current().block_on(cost(async { read(&consumer, messages) }));
            let _ = consumer.unassign();
            spent
        });
        work.await.map_err(|error| Error::new(ErrorKind::Internal, "the raw consumer died").with_source(error))?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Everything was confirmed already: nothing to report.
        let _ = self.producer.flush(Duration::from_secs(5));
    }
}

fn read(consumer: &BaseConsumer, messages: u64) -> Result<()> {
    let mut done = 1;
    while done < messages {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else {
            return Err(Error::new(ErrorKind::Timeout, "the raw consumer got no more messages"));
        };
        let message = message.map_err(failed)?;
        // What any user of the client needs: the bytes, out of the client's memory, and the headers looked at.
        std::hint::black_box(message.payload().map(Bytes::copy_from_slice));
        std::hint::black_box(message.headers().is_some());
        done += 1;
        if done % COMMIT_EVERY == 0 || done == messages {
            let mode = if done == messages { CommitMode::Sync } else { CommitMode::Async };
            consumer.commit_message(&message, mode).map_err(failed)?;
        }
    }
    Ok(())
}

async fn confirmed(pending: rdkafka::producer::DeliveryFuture) -> Result<()> {
    match pending.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(failed(error)),
        Err(_) => Err(Error::new(ErrorKind::Internal, "the raw producer forgot a message")),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("raw kafka client: {error}"))
}
