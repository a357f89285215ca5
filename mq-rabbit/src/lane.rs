//! A channel with confirms, pipelined, that says of each message what became of it.
//!
//! The client hands a returned (unroutable) message to whichever confirmation resolves next, so with several messages in
//! flight a return arrives at the wrong one. What holds on the wire and in the client: a return is queued before its own
//! confirmation resolves, and each resolution takes at most one return from the head of the queue. Hence
//!
//! - a message is released only as part of the longest resolved *prefix* of what is in flight, and only after the whole
//!   window was looked at once more: then the confirmation that took its return, if there was one, has been seen;
//! - once a return is seen, nothing is released until everything in flight at that moment has resolved: then no return
//!   of any of these messages is left in the queue;
//! - returns come in the order of publishing, so each belongs to the first message in flight with the same exchange,
//!   routing key, id and size.
//!
//! No message waits for another as long as nothing is returned. See docs/decisions/rabbit-returns.md.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use mq_core::driver::{Publish, Receipt};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Topic, TopicKind};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::{BACKEND, error, from_client, reply, was_never_sent};
use crate::link::Link;

/// A message of up to this size takes one place in flight.
const PLACE: usize = 32 * 1024;
/// How often the oldest message in flight is compared with its deadline.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Between two attempts to open a channel on a connection that has just broken.
const AGAIN: Duration = Duration::from_millis(20);

type Confirming = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// Who is told what became of a message; exactly once.
pub(crate) enum Done {
    /// A send of a user; `due` when it is delayed.
    Publish(Publish, Option<SystemTime>),
    /// Somebody who waits.
    Tell(oneshot::Sender<Result<()>>),
    /// Not decided yet.
    Nobody,
}

impl Done {
    fn complete(self, result: Result<()>) {
        match self {
            Self::Publish(publish, due) => {
                let result = result.map_err(|cause| with_way_out(cause, publish.message().topic()));
                publish.complete(result.map(|()| match due {
                    None => Receipt::default(),
                    Some(due) => Receipt::default().due(due, false),
                }));
            }
            // The one who asked may have gone.
            Self::Tell(tell) => drop(tell.send(result)),
            Self::Nobody => {}
        }
    }
}

fn with_way_out(cause: Error, topic: &Topic) -> Error {
    if cause.kind() != ErrorKind::Unroutable {
        return cause;
    }
    let cause = cause.with_context("topic", topic);
    match topic.kind() {
        TopicKind::Topic => cause.with_hint(format!(
            "no group would receive it: create one first (mq group create {topic} --group NAME), or one that selects it"
        )),
        TopicKind::Queue => cause.with_hint("the queue does not exist; its owner creates it"),
        _ => cause.with_hint("no queue is bound to the exchange for this routing key"),
    }
}

/// A message for a [`Lane`].
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
    /// Messages of one key must not overtake each other, not even over a lost channel.
    pub(crate) keyed: bool,
    /// False: at most once, done when handed to the connection.
    pub(crate) confirm: bool,
    /// Told exactly once.
    pub(crate) done: Done,
}

/// What binds a message from the moment it was sent, however long it waits for a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// When it must have its outcome.
    deadline: Instant,
    /// How many messages had been in flight on channels that broke: with more of them a keyed one must not go, since it
    /// would overtake them.
    breaks: usize,
}

/// A confirming channel with a bounded window; shared.
pub(crate) struct Lane {
    link: Link,
    writer: Mutex<Writer>,
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Vec<Flying>>,
}

#[derive(Default)]
struct Writer {
    confirming: Option<Arc<Line>>,
    plain: Option<Arc<Line>>,
}

/// A channel, and whether it was given up.
struct Line {
    channel: Channel,
    condemned: AtomicBool,
}

impl Line {
    fn is_usable(&self) -> bool {
        self.channel.status().connected() && !self.condemned.load(Ordering::Acquire)
    }
}

struct Shared {
    room: Semaphore,
    capacity: usize,
    in_flight: AtomicUsize,
    empty: Notify,
    /// Counts the channels that broke with messages in flight.
    breaks: AtomicUsize,
    send_timeout: Duration,
}

/// A message whose confirmation is awaited.
struct Flying {
    confirming: Confirming,
    outcome: Option<lapin::Result<bool>>,
    returned: Option<String>,
    line: Arc<Line>,
    exchange: ShortString,
    routing_key: ShortString,
    id: Option<ShortString>,
    size: usize,
    cost: usize,
    deadline: Instant,
    done: Done,
}

impl Lane {
    pub(crate) fn open(link: Link) -> Self {
        let capacity = link.config().max_in_flight;
        let shared = Arc::new(Shared {
            room: Semaphore::new(capacity),
            capacity,
            in_flight: AtomicUsize::new(0),
            empty: Notify::new(),
            breaks: AtomicUsize::new(0),
            send_timeout: link.config().send_timeout,
        });
        let (queue, incoming) = mpsc::unbounded_channel();
        tokio::spawn(Confirmer::new(incoming, Arc::clone(&shared), link.clone()).run());
        Self { link, writer: Mutex::default(), shared, queue }
    }

    /// What a message handed over now is bound by.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            deadline: Instant::now() + self.shared.send_timeout,
            breaks: self.shared.breaks.load(Ordering::Acquire),
        }
    }

    /// True while there is a connection to publish on.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.current().is_some()
    }

    /// Hands every message to the client, in order; waits for room at most the send deadline.
    pub(crate) async fn publish(&self, batch: Vec<Outgoing>) {
        self.publish_by(batch, self.terms()).await;
    }

    /// The same under the terms of the moment when they were sent.
    pub(crate) async fn publish_by(&self, batch: Vec<Outgoing>, Terms { deadline, breaks }: Terms) {
        let mut batch = Rest(batch.into());
        let Ok(mut writer) = tokio::time::timeout_at(deadline, self.writer.lock()).await else {
            return batch.fail(|| full("the client's queue is full"));
        };
        let mut flying = Handover { lane: self, items: Vec::with_capacity(batch.0.len()) };
        while let Some(next) = batch.0.front() {
            if self.link.blocked().is_some() {
                flying.hand_over();
                if !self.link.unblocked(deadline).await {
                    let reason = self.link.blocked().unwrap_or_else(|| "no reason given".into());
                    return batch.fail(|| full(&format!("the broker accepts nothing now ({reason})")));
                }
            }
            let cost = (next.body.len().div_ceil(PLACE)).clamp(1, self.shared.capacity);
            let Some(places) = self.room(cost, deadline, &mut flying).await else {
                return batch.fail(|| full("no confirmation came in time to make room"));
            };
            if writer.is_broken() {
                // What was in flight there has its outcome before anything goes on another channel: until then nobody
                // knows that a keyed message would overtake.
                flying.hand_over();
                let _ = self.flush(deadline.saturating_duration_since(Instant::now())).await;
            }
            let line = loop {
                match writer.channel(&self.link, next.confirm, deadline).await {
                    // The connection broke just now: what is sent next waits for another, and must not go before this.
                    Err(cause) if cause.kind() == ErrorKind::Unavailable && Instant::now() + AGAIN < deadline => {
                        flying.hand_over();
                        tokio::time::sleep(AGAIN).await;
                    }
                    line => break line,
                }
            };
            let line = match line {
                Ok(line) => line,
                Err(cause) => {
                    self.shared.room.add_permits(places);
                    let (kind, text) = (cause.kind(), cause.to_string());
                    let text = text.strip_prefix("rabbit: ").unwrap_or(&text).to_owned();
                    return batch.fail(|| error(kind, text.clone()));
                }
            };
            let Some(next) = batch.0.pop_front() else { return };
            if next.keyed && self.shared.breaks.load(Ordering::Acquire) != breaks {
                self.shared.room.add_permits(places);
                next.done.complete(Err(error(
                    ErrorKind::Fenced,
                    "the connection broke while earlier messages were in flight",
                )
                .with_hint("send the earlier messages of the key again first")));
                continue;
            }
            if next.confirm {
                flying.items.push(start(line, next, places, deadline));
            } else {
                self.shared.room.add_permits(places);
                fire(&line.channel, next, deadline).await;
            }
        }
    }

    async fn room(&self, cost: usize, deadline: Instant, flying: &mut Handover<'_>) -> Option<usize> {
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = match self.shared.room.try_acquire_many(permits) {
            Ok(permit) => permit,
            Err(_) => {
                // What is handed over now makes the room we wait for.
                flying.hand_over();
                let acquire = self.shared.room.acquire_many(permits);
                tokio::time::timeout_at(deadline, acquire).await.ok()?.ok()?
            }
        };
        permit.forget();
        Some(cost)
    }

    /// How many messages were in flight on channels that broke, since the start: what was known before may be wrong now.
    pub(crate) fn breaks(&self) -> usize {
        self.shared.breaks.load(Ordering::Acquire)
    }

    /// Sends one message and waits for what became of it.
    pub(crate) async fn send(&self, outgoing: impl FnOnce(Done) -> Outgoing) -> Result<()> {
        let (tell, told) = oneshot::channel();
        self.publish(vec![outgoing(Done::Tell(tell))]).await;
        // Longer than the lane itself waits: its own answer says more.
        let limit = self.shared.send_timeout + 2 * CHECK_EVERY;
        match tokio::time::timeout(limit, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(error(ErrorKind::Internal, "the outcome of the send was lost").ambiguous()),
            Err(_) => Err(Error::timeout(limit).with_backend(BACKEND).ambiguous()),
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn flush(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let empty = self.shared.empty.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            if self.shared.in_flight.load(Ordering::Acquire) == 0 {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, empty).await.is_err() {
                return Err(Error::timeout(limit).with_backend(BACKEND).with_operation("flush"));
            }
        }
    }

    /// Ends the channels; what is in flight was flushed before.
    pub(crate) async fn close(&self, limit: Duration) {
        let close = async {
            let mut writer = self.writer.lock().await;
            for line in [writer.confirming.take(), writer.plain.take()].into_iter().flatten() {
                let _ = line.channel.close(200, "closed by the application".into()).await;
            }
        };
        let _ = tokio::time::timeout(limit, close).await;
    }
}

impl Writer {
    /// True once a confirming channel was there that takes nothing any more.
    fn is_broken(&self) -> bool {
        self.confirming.as_ref().is_some_and(|line| !line.is_usable())
    }

    async fn channel(&mut self, link: &Link, confirm: bool, deadline: Instant) -> Result<Arc<Line>> {
        let place = if confirm { &mut self.confirming } else { &mut self.plain };
        if let Some(line) = place.as_ref().filter(|line| line.is_usable()) {
            return Ok(Arc::clone(line));
        }
        *place = None;
        let channel = link.channel(deadline).await?;
        if confirm {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            crate::error::within(left, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        }
        Ok(Arc::clone(place.insert(Arc::new(Line { channel, condemned: AtomicBool::new(false) }))))
    }
}

/// Messages not yet handed to the client; completed, whatever happens, also when the caller is cancelled.
struct Rest(VecDeque<Outgoing>);

impl Rest {
    fn fail(&mut self, cause: impl Fn() -> Error) {
        for outgoing in self.0.drain(..) {
            outgoing.done.complete(Err(cause()));
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.fail(|| error(ErrorKind::Unavailable, "the send was cancelled before it began"));
    }
}

/// Messages handed to the client, on their way to the confirmer; they arrive there also when the caller is cancelled.
struct Handover<'a> {
    lane: &'a Lane,
    items: Vec<Flying>,
}

impl Handover<'_> {
    fn hand_over(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let items = std::mem::take(&mut self.items);
        self.lane.shared.in_flight.fetch_add(items.len(), Ordering::AcqRel);
        if let Err(refused) = self.lane.queue.send(items) {
            // The confirmer ends only with the runtime.
            for item in refused.0 {
                item.done.complete(Err(error(ErrorKind::Closed, "the runtime is shutting down").ambiguous()));
            }
        }
    }
}

impl Drop for Handover<'_> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn full(text: &str) -> Error {
    error(ErrorKind::Backpressure, text.to_owned()).with_hint("send more slowly, or raise send_timeout")
}

/// Queues the frames. Polling once is enough for that; the rest of the future is the confirmation. Nobody waits for the
/// socket here, so the connection's thread writes many messages at once.
fn start(line: Arc<Line>, outgoing: Outgoing, cost: usize, deadline: Instant) -> Flying {
    let Outgoing { exchange, routing_key, properties, body, done, .. } = outgoing;
    let id = properties.message_id().clone();
    let size = body.len();
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let mut confirming: Confirming = {
        let (line, exchange, routing_key) = (Arc::clone(&line), exchange.clone(), routing_key.clone());
        Box::pin(
            async move { line.channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await },
        )
    };
    if let Poll::Ready(outcome) = confirming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        confirming = Box::pin(std::future::ready(outcome));
    }
    Flying { confirming, outcome: None, returned: None, line, exchange, routing_key, id, size, cost, deadline, done }
}

/// Without confirmation: done when the socket took it, which is what bounds the memory.
async fn fire(channel: &Channel, outgoing: Outgoing, deadline: Instant) {
    let Outgoing { exchange, routing_key, properties, body, done, .. } = outgoing;
    let options = BasicPublishOptions { mandatory: false, immediate: false };
    let written = channel.basic_publish(exchange, routing_key, options, &body, properties);
    done.complete(match tokio::time::timeout_at(deadline, written).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(cause)) => Err(from_client(&cause)),
        Err(_) => Err(full("the connection takes nothing")),
    });
}

impl Flying {
    fn resolve(&mut self, outcome: lapin::Result<Confirmation>, returns: &mut Vec<BasicReturnMessage>) {
        self.outcome = Some(outcome.map(|confirmation| {
            let stored = !confirmation.is_nack();
            returns.extend(confirmation.take_message());
            stored
        }));
    }

    fn is_the_one(&self, message: &BasicReturnMessage) -> bool {
        self.returned.is_none()
            && self.routing_key == message.delivery.routing_key
            && self.exchange == message.delivery.exchange
            && self.size == message.delivery.data.len()
            && self.id == *message.delivery.properties.message_id()
    }

    fn result(&mut self) -> Result<()> {
        let place = |cause: Error| {
            let cause = cause.with_context("exchange", &self.exchange);
            if self.routing_key.as_str().is_empty() {
                cause
            } else {
                cause.with_context("routing_key", &self.routing_key)
            }
        };
        if let Some(text) = &self.returned {
            let text = crate::error::printable(text);
            return Err(place(error(ErrorKind::Unroutable, format!("no queue takes the message ({text})"))));
        }
        match self.outcome.take() {
            Some(Ok(true)) => Ok(()),
            // With several queues behind an exchange some may hold it although one refused.
            Some(Ok(false)) => {
                let refused = error(ErrorKind::Backpressure, "a queue refused the message: it is full, or unavailable");
                let refused = if self.exchange.as_str().is_empty() { refused } else { refused.ambiguous() };
                Err(place(refused).with_hint("consume faster, or raise the queue's limit; send it again under its id"))
            }
            Some(Err(cause)) => Err(self.broken(&cause)),
            None => Err(error(ErrorKind::Timeout, "no confirmation came within the send deadline").ambiguous()),
        }
    }

    /// The channel ended with this message in flight: one message may be the reason, for the others nothing is known.
    fn broken(&self, cause: &lapin::Error) -> Error {
        if let Some((code, text)) = reply(cause) {
            let exchange = format!("exchange '{}'", self.exchange);
            let guilty = match code {
                404 | 403 => !self.exchange.as_str().is_empty() && text.contains(&exchange),
                406 if text.contains("message size") => text.contains(&format!("message size {} ", self.size)),
                _ => false,
            };
            if guilty {
                return from_client(cause);
            }
            return error(ErrorKind::Unavailable, format!("the channel was closed by another message ({code})"))
                .ambiguous();
        }
        let why = from_client(cause);
        if was_never_sent(cause) {
            return error(ErrorKind::Unavailable, format!("the channel ended before the message was sent: {why}"))
                .with_hint("send it again");
        }
        error(ErrorKind::Unavailable, format!("the connection ended before the confirmation: {why}")).ambiguous()
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("in_flight", &self.shared.in_flight).finish_non_exhaustive()
    }
}

/// Awaits confirmations and releases results; see the module.
struct Confirmer {
    incoming: mpsc::UnboundedReceiver<Vec<Flying>>,
    window: VecDeque<Flying>,
    /// Messages that left the window: the first in it has this number.
    released: u64,
    returns: Vec<BasicReturnMessage>,
    /// Nothing is released until the messages below this number have resolved.
    barrier: Option<u64>,
    shared: Arc<Shared>,
    link: Link,
}

impl Confirmer {
    fn new(incoming: mpsc::UnboundedReceiver<Vec<Flying>>, shared: Arc<Shared>, link: Link) -> Self {
        Self { incoming, window: VecDeque::new(), released: 0, returns: Vec::new(), barrier: None, shared, link }
    }

    async fn run(mut self) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut overdue = false;
            if self.window.is_empty() {
                match self.incoming.recv().await {
                    Some(items) => self.window.extend(items),
                    None => return,
                }
            } else {
                // While a return is being sorted out the first unresolved one is what we wait for.
                let first = self.window.iter_mut().find(|flying| flying.outcome.is_none());
                tokio::select! {
                    biased;
                    () = resolved(first, &mut self.returns) => {}
                    Some(items) = self.incoming.recv() => self.window.extend(items),
                    _ = check.tick() => overdue = true,
                }
            }
            while let Ok(items) = self.incoming.try_recv() {
                self.window.extend(items);
            }
            self.sweep();
            self.release();
            if overdue {
                self.expire();
            }
        }
    }

    /// Looks at the whole window once, in order.
    fn sweep(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for flying in &mut self.window {
            if flying.outcome.is_none()
                && let Poll::Ready(outcome) = flying.confirming.as_mut().poll(&mut context)
            {
                flying.resolve(outcome, &mut self.returns);
            }
        }
        if !self.returns.is_empty() {
            for message in self.returns.drain(..) {
                match self.window.iter_mut().find(|flying| flying.is_the_one(&message)) {
                    Some(flying) => flying.returned = Some(message.reply_text.to_string()),
                    // Cannot be by the rules above; then nothing in flight can be vouched for.
                    None => {
                        for flying in &mut self.window {
                            flying.returned.get_or_insert_with(|| "a return that matches no message".to_owned());
                        }
                    }
                }
            }
            self.barrier = Some(self.released + self.window.len() as u64);
        }
    }

    fn release(&mut self) {
        let resolved = self.window.iter().take_while(|flying| flying.outcome.is_some()).count();
        if let Some(barrier) = self.barrier {
            if self.released + (resolved as u64) < barrier {
                return;
            }
            self.barrier = None;
        }
        self.finish(resolved);
    }

    fn finish(&mut self, count: usize) {
        let mut places = 0;
        for mut flying in self.window.drain(..count) {
            if matches!(flying.outcome, None | Some(Err(_))) {
                self.shared.breaks.fetch_add(1, Ordering::AcqRel);
            }
            places += flying.cost;
            let result = flying.result();
            flying.done.complete(result);
        }
        self.released += count as u64;
        self.shared.room.add_permits(places);
        if count > 0 && self.shared.in_flight.fetch_sub(count, Ordering::AcqRel) == count {
            self.shared.empty.notify_waiters();
        }
    }

    /// The oldest message is past its deadline: the channel is given up, since a confirmation that comes later would
    /// otherwise be taken for another message's.
    fn expire(&mut self) {
        let now = Instant::now();
        let Some(oldest) = self.window.front() else { return };
        if oldest.deadline > now {
            return;
        }
        let overdue = self.window.iter().take_while(|flying| flying.deadline <= now).count();
        let line = Arc::clone(&oldest.line);
        line.condemned.store(true, Ordering::Release);
        if self.link.blocked().is_some() {
            self.link.restart();
        } else {
            tokio::spawn(async move {
                let close = line.channel.close(200, "a confirmation is overdue".into());
                let _ = tokio::time::timeout(Duration::from_secs(5), close).await;
            });
        }
        self.finish(overdue);
    }
}

/// Waits until the message has its confirmation.
async fn resolved(flying: Option<&mut Flying>, returns: &mut Vec<BasicReturnMessage>) {
    match flying {
        Some(flying) => {
            let outcome = flying.confirming.as_mut().await;
            flying.resolve(outcome, returns);
        }
        // All are resolved, and yet held: never, since a barrier falls with the last resolution.
        None => std::future::pending().await,
    }
}
