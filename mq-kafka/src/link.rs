//! The producer all parts of a broker share, and the way to know that the brokers answer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer as _};
use tokio::sync::oneshot;

use crate::client::{Watch, checked, producer_config};
use crate::config::Config;
use crate::error::{BACKEND, blocking, fault, from_client};
use crate::handoff::Members;
use crate::outgoing::{Outgoing, Refused, Way};
use crate::reports::{Outcome, Reports, Room};
use crate::stranded::retire_producer;

/// How long the polling thread waits for delivery reports.
const POLL: Duration = Duration::from_secs(1);
/// The topic asked for to hear whether a broker answers; it need not exist.
const PROBE: &str = "mq--probe";
/// One look whether the brokers answer.
const LOOK: Duration = Duration::from_millis(250);

type Client = BaseProducer<Reports>;

/// The shared producer and its polling thread, which ends with the last handle.
pub(crate) struct Link {
    /// Replaced only by the polling thread.
    producer: Arc<RwLock<Arc<Client>>>,
    room: Arc<Room>,
    watch: Watch,
    stop: Arc<AtomicBool>,
    pub(crate) config: Arc<Config>,
    pub(crate) members: Members,
}

fn open(config: &Config, watch: &Watch, room: &Arc<Room>) -> Result<Arc<Client>> {
    let reports = Reports::new(watch.clone(), Arc::clone(room), config.send_timeout);
    let producer: Arc<Client> =
        Arc::new(checked(producer_config(config).create_with_context(reports), "open producer")?);
    producer.context().come_from(&producer);
    Ok(producer)
}

/// Hears the reports until `stop`.
fn run(current: &RwLock<Arc<Client>>, stop: &AtomicBool, renew: impl Fn() -> Result<Arc<Client>>, limit: Duration) {
    let mut polled = Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner));
    while !stop.load(Ordering::Acquire) {
        polled.poll(POLL);
        if !polled.context().stranded.is_certain() {
            continue;
        }
        match renew() {
            Ok(fresh) => {
                tracing::warn!("the client has lost every broker and looks for none: another takes its place");
                *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
                retire_producer(std::mem::replace(&mut polled, fresh), limit);
            }
            Err(error) => tracing::warn!(%error, "the client has lost every broker, and no other can be made now"),
        }
    }
}

impl Link {
    /// Makes the client; does not wait for a connection.
    pub(crate) fn open(config: Arc<Config>) -> Result<Arc<Self>> {
        let watch = Watch::new(&config);
        let room = Arc::<Room>::default();
        let producer = Arc::new(RwLock::new(open(&config, &watch, &room)?));
        let stop = Arc::new(AtomicBool::new(false));
        let (current, stopped, limit) = (Arc::clone(&producer), Arc::clone(&stop), config.send_timeout);
        let renew = {
            let (config, watch, room) = (Arc::clone(&config), watch.clone(), Arc::clone(&room));
            move || open(&config, &watch, &room)
        };
        std::thread::Builder::new()
            .name("mq-kafka-reports".to_owned())
            .spawn(move || run(&current, &stopped, renew, limit))
            .map_err(|error| fault(ErrorKind::Internal, "cannot start a thread").with_source(error))?;
        Ok(Arc::new(Self { producer, room, watch, stop, config, members: Members::default() }))
    }

    /// Waits until a broker answers, at most the connect deadline; refused credentials end the wait.
    pub(crate) async fn connected(self: &Arc<Self>) -> Result<()> {
        self.answers(self.config.connect_timeout).await
    }

    pub(crate) async fn answers(self: &Arc<Self>, limit: Duration) -> Result<()> {
        let link = Arc::clone(self);
        // One topic, there or not: the answer is small, whatever the cluster holds.
        blocking(limit, "connect", move || link.ask(Some(PROBE), limit, LOOK).map(drop)).await
    }

    /// Asks the cluster in short looks: librdkafka tells only by callback why there is no answer.
    fn ask(&self, topic: Option<&str>, limit: Duration, look: Duration) -> Result<Metadata> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client().client().fetch_metadata(topic, look.min(left)) {
                Ok(metadata) => return Ok(metadata),
                Err(_) if let Some(refused) = self.watch.refused() => return Err(refused.with_operation("connect")),
                Err(_) if left.is_zero() => {
                    let seen = self.watch.seen().unwrap_or_else(|| Error::timeout(limit).with_backend(BACKEND));
                    return Err(seen
                        .with_operation("connect")
                        .with_context("brokers", self.config.brokers.join(","))
                        .with_context("waited", humantime::format_duration(limit)));
                }
                // Some errors come at once: no busy loop.
                Err(_) => std::thread::sleep(Duration::from_millis(20).min(left)),
            }
        }
    }

    /// What the cluster says of a topic, or of all.
    pub(crate) async fn metadata(self: &Arc<Self>, topic: Option<&str>) -> Result<Metadata> {
        let link = Arc::clone(self);
        let topic = topic.map(str::to_owned);
        let limit = self.config.connect_timeout;
        blocking(limit, "fetch metadata", move || link.ask(topic.as_deref(), limit, Duration::from_secs(1))).await
    }

    /// The first and the next offset of a partition.
    pub(crate) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.client()
            .client()
            .fetch_watermarks(topic, partition, self.config.connect_timeout)
            .map_err(|error| from_client(&error, "fetch watermarks"))
    }

    /// Hands a record to the client. Full: gives the outcome back.
    pub(crate) fn try_send(
        &self,
        record: Outgoing<'_>,
        timestamp: Option<i64>,
        outcome: Outcome,
    ) -> Result<(), Refused> {
        Way(&self.client()).try_send(record, timestamp, outcome)
    }

    /// Waits for room in the client's queue until `deadline`; false when it passed.
    pub(crate) async fn room(&self, deadline: tokio::time::Instant) -> bool {
        self.room.waiting.fetch_add(1, Ordering::AcqRel);
        let freed = self.room.freed.notified();
        // A report between the refusal and here is not missed for long.
        let slice = (tokio::time::Instant::now() + Duration::from_millis(20)).min(deadline);
        let _ = tokio::time::timeout_at(slice, freed).await;
        self.room.waiting.fetch_sub(1, Ordering::AcqRel);
        tokio::time::Instant::now() < deadline
    }

    /// Stores a record of ours and waits until the broker has it.
    pub(crate) async fn store(&self, record: &Outgoing<'_>) -> Result<Position> {
        let receiver = self.start(record).await?;
        self.stored(receiver).await
    }

    /// Hands over a record of ours, waiting for room; its outcome comes later.
    pub(crate) async fn start(&self, record: &Outgoing<'_>) -> Result<oneshot::Receiver<Result<Position>>> {
        let limit = self.config.send_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let (mut sender, receiver) = oneshot::channel();
        loop {
            let outgoing = Outgoing { headers: record.headers.clone(), ..*record };
            match self.try_send(outgoing, None, Outcome::Own(sender)) {
                Ok(()) => return Ok(receiver),
                Err(Refused { full: true, outcome: Outcome::Own(back), error, .. }) => {
                    if !self.room(deadline).await {
                        return Err(error);
                    }
                    sender = back;
                }
                Err(refused) => return Err(refused.error),
            }
        }
    }

    /// Waits for the outcome of a record of ours.
    pub(crate) async fn stored(
        &self,
        receiver: impl Future<Output = Result<Result<Position>, oneshot::error::RecvError>>,
    ) -> Result<Position> {
        let limit = self.config.send_timeout;
        // The client ends every record within the send deadline; the margin is for its report.
        match tokio::time::timeout(limit + Duration::from_secs(2), receiver).await {
            Ok(Ok(result)) => result,
            _ => Err(Error::timeout(limit).with_backend(BACKEND).ambiguous()),
        }
    }

    /// Waits until everything handed over is reported.
    pub(crate) async fn flush(&self, limit: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        while self.room.open.load(Ordering::Acquire) > 0 || self.client().context().firsts.held() > 0 {
            if !self.room(deadline).await {
                return Err(Error::timeout(limit).with_backend(BACKEND).with_operation("flush"));
            }
        }
        Ok(())
    }

    /// The client of this moment.
    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("brokers", &self.config.brokers).finish_non_exhaustive()
    }
}
