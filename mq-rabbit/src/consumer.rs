//! Receiving: one channel for each consumer, replaced by itself when it ends.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytestring::ByteString;
use futures_util::{FutureExt, Stream};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use mq_core::capability::Feature;
use mq_core::config::Topology as Mode;
use mq_core::driver::{ConsumerDriver, ConsumerSpec, Event, Incoming, Origin, SettlerDriver, Token};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Control, MessageId, Position};
use mq_core::name::{Topic, TopicKind};
use mq_core::subscription::{GroupMode, Selector, StartFrom};
use tokio::time::Instant;

use crate::admin::spec_of;
use crate::core::Core;
use crate::error::{BACKEND, error, from_client, within};
use crate::names::{self, short};
use crate::session::Session;
use crate::settler::RabbitSettler;
use crate::source::Source;
use crate::topology::{self, private_queue};
use crate::wire;

/// Between two attempts to subscribe on a connection that stands.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Reads the queues of a group, or queues of its own.
pub(crate) struct RabbitConsumer {
    core: Arc<Core>,
    session: Arc<Session>,
    sources: Arc<[Source]>,
    prefetch: u16,
    ordered: bool,
    auto_ack: bool,
    own: Option<Own>,
    live: Option<Live>,
    /// Received and not yet handed out, because something must be looked up first.
    staged: Vec<Incoming>,
    /// In an ordered group: held by an earlier consumer and not due yet, and what follows under the same key.
    waiting: Vec<Incoming>,
    paused: bool,
    /// The stream asked first, so that no queue starves another.
    turn: usize,
}

/// What a broadcast subscription declares anew for every session.
struct Own {
    topics: Vec<(Topic, String)>,
    selector: Option<Selector>,
    delays: Vec<Duration>,
}

/// The present session.
struct Live {
    connection: Arc<Connection>,
    channel: Arc<Channel>,
    streams: Vec<(u32, lapin::Consumer)>,
    epoch: u32,
}

impl RabbitConsumer {
    /// Declares or verifies what the group needs, and subscribes.
    pub(crate) async fn open(
        core: Arc<Core>,
        spec: &ConsumerSpec,
    ) -> Result<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)> {
        let subscription = &spec.subscription;
        subscription.check()?;
        check_start(subscription.start_from())?;
        let ordered = subscription.group_mode() == GroupMode::Ordered;
        let mut sources = Vec::new();
        let mut own = None;
        match subscription.group() {
            Some(group) => {
                for topic in subscription.topics() {
                    let (mode, selector) = (subscription.group_mode(), subscription.selector());
                    let plan = topology::plan(&core.config, topic, group, mode, selector, &spec.retry_delays)?;
                    match core.config.topology {
                        Mode::Declare => {
                            core.declare_group(&spec_of(topic, group, mode, &spec.retry_delays), &plan).await?;
                        }
                        Mode::Verify => core.topology.verify(topic, &plan).await?,
                        Mode::Off => {}
                    }
                    sources.extend(Source::of_group(&core, topic, group, ordered));
                }
            }
            None => {
                let mut topics = Vec::new();
                for topic in subscription.topics() {
                    if topic.kind() == TopicKind::Queue {
                        return Err(Error::config("a queue gives each message to one consumer only: name a group")
                            .with_backend(BACKEND)
                            .with_context("topic", topic));
                    }
                    core.topology.require_topic(topic).await?;
                    let name = format!("mq-broadcast-{}", MessageId::generate(SystemTime::now()));
                    sources.extend(Source::private(topic, &name));
                    topics.push((topic.clone(), name));
                }
                let (selector, delays) = (subscription.selector().cloned(), spec.retry_delays.clone());
                own = Some(Own { topics, selector, delays });
            }
        }
        let window = spec.prefetch.saturating_add(spec.parking).max(1);
        let prefetch = u16::try_from(window).unwrap_or(u16::MAX);
        let session = Session::new(prefetch, spec.prefetch, ordered);
        let sources: Arc<[Source]> = sources.into();
        let settler = RabbitSettler::new(Arc::clone(&core), Arc::clone(&session), Arc::clone(&sources), spec.auto_ack);
        let mut consumer = Self {
            core,
            session,
            sources,
            prefetch,
            ordered,
            auto_ack: spec.auto_ack,
            own,
            live: None,
            staged: Vec::new(),
            waiting: Vec::new(),
            paused: false,
            turn: 0,
        };
        let deadline = Instant::now() + consumer.core.config.connect_timeout;
        consumer.live = Some(consumer.subscribe(deadline).await?);
        Ok((Box::new(consumer), Arc::new(settler)))
    }

    async fn subscribe(&self, deadline: Instant) -> Result<Live> {
        let limit = self.core.config.connect_timeout;
        let link = &self.core.consuming;
        let connection = link.ready(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let channel = within(left, connection.create_channel()).await?;
        within(limit, channel.basic_qos(self.prefetch, BasicQosOptions { global: false })).await?;
        if let Some(own) = &self.own {
            self.declare_own(&channel, own).await?;
        }
        let mut streams = Vec::with_capacity(self.sources.len());
        for (lane, source) in (0u32..).zip(self.sources.iter()) {
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consume = channel.basic_consume(short(&source.queue)?, names::short("")?, options, none);
            let stream = within(limit, consume).await.map_err(|cause| cause.with_context("queue", &source.queue))?;
            streams.push((lane, stream));
        }
        let channel = Arc::new(channel);
        let epoch = self.session.begin(Arc::clone(&channel));
        Ok(Live { connection, channel, streams, epoch })
    }

    async fn declare_own(&self, channel: &Channel, own: &Own) -> Result<()> {
        for (topic, name) in &own.topics {
            self.core.topology.declare_queue(channel, &private_queue(name)).await?;
            self.core.topology.bind_private(channel, topic.name(), name, own.selector.as_ref()).await?;
        }
        for source in self.sources.iter() {
            if source.queue == source.back && source.topic.is_foreign() {
                self.core.topology.declare_queue(channel, &private_queue(&source.queue)).await?;
            }
            for delay in &own.delays {
                self.core.topology.declare_queue(channel, &source.retry_queue(*delay)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes anew; false when it did not succeed by `deadline` and must be tried again.
    async fn resubscribe(&mut self, deadline: Instant) -> Result<bool> {
        // Not cut off by a short poll: what is half done would be thrown away each time.
        let patience = Instant::now() + self.core.config.connect_timeout;
        if tokio::time::timeout_at(deadline, self.core.consuming.ready(patience)).await.is_err() {
            return Ok(false);
        }
        match self.subscribe(patience).await {
            Ok(live) => {
                self.live = Some(live);
                Ok(true)
            }
            Err(cause) if cause.is_transient() => {
                tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_PAUSE)).await;
                Ok(false)
            }
            Err(cause) => Err(cause.with_operation("resubscribe")),
        }
    }

    /// Takes up to `max` messages out of the client's buffers.
    fn take(&mut self, context: &mut Context<'_>, max: usize) -> Poll<Option<ByteString>> {
        let Some(live) = self.live.as_mut() else { return Poll::Pending };
        let count = live.streams.len();
        let before = self.staged.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some((lane, stream)) = live.streams.get_mut(index) else { continue };
            while self.staged.len() < max {
                match Pin::new(&mut *stream).poll_next(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(delivery))) => {
                        if let Some(source) = self.sources.get(index) {
                            self.staged.push(receive(source, *lane, live.epoch, delivery));
                        }
                    }
                    Poll::Ready(Some(Err(cause))) => return Poll::Ready(Some(from_client(&cause).to_string().into())),
                    Poll::Ready(None) => {
                        return Poll::Ready(Some(ByteString::from_static("the broker ended the subscription")));
                    }
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
        if self.staged.len() > before { Poll::Ready(None) } else { Poll::Pending }
    }

    fn disconnected(&mut self, events: &mut Vec<Event>, why: ByteString) {
        self.session.end();
        self.live = None;
        self.staged.clear();
        self.waiting.clear();
        events.push(Event::Disconnected(why));
    }

    /// The channel has ended, whatever is still in its buffers.
    fn is_over(&self) -> bool {
        self.live.as_ref().is_none_or(|live| !live.channel.status().connected())
    }

    /// Waits until the connection of the present session is not the one in use any more.
    fn lost(&self) -> impl Future<Output = ()> + use<> {
        let live = self.live.as_ref().map(|live| (self.core.consuming.clone(), Arc::clone(&live.connection)));
        async move {
            if let Some((link, connection)) = live {
                link.lost(&connection).await;
            }
        }
    }

    /// Hands out what is staged, after what must come before it.
    async fn hand_out(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let mut over = false;
        if self.ordered {
            // It may wait for another connection, while this session ends: then what is staged belongs to somebody else.
            let lost = self.lost();
            tokio::select! {
                biased;
                () = lost => over = true,
                looked_up = self.look_up_attempts() => looked_up?,
            }
        }
        if over || self.is_over() {
            self.disconnected(events, ByteString::from_static("the session ended"));
            return Ok(());
        }
        if self.auto_ack && !self.staged.is_empty() {
            // At most once: nobody sees a message before the broker has read its acknowledgement.
            let tokens: Vec<Token> = self.staged.iter().map(|incoming| incoming.token).collect();
            self.session.ack(&tokens);
            if let Err(cause) = self.session.flush(self.core.config.connect_timeout).await {
                self.disconnected(events, cause.to_string().into());
                return Ok(());
            }
        }
        if self.ordered {
            self.hand_out_due(events);
        } else {
            events.extend(self.staged.drain(..).map(Event::Message));
        }
        Ok(())
    }

    /// What an earlier consumer held for retry is not due just because that consumer ended.
    fn hand_out_due(&mut self, events: &mut Vec<Event>) {
        self.waiting.append(&mut self.staged);
        let now = SystemTime::now();
        let early = |incoming: &Incoming| incoming.control.due.is_some_and(|due| due > now);
        if !self.waiting.iter().any(early) {
            events.extend(self.waiting.drain(..).map(Event::Message));
            return;
        }
        let mut keys = HashSet::new();
        for incoming in std::mem::take(&mut self.waiting) {
            let key = incoming.message.key_bytes();
            if early(&incoming) || key.is_some_and(|key| keys.contains(key)) {
                keys.extend(key.cloned());
                self.waiting.push(incoming);
            } else {
                events.push(Event::Message(incoming));
            }
        }
    }

    /// When the first of those that wait is due.
    fn next_due(&self) -> Option<Instant> {
        let due = self.waiting.iter().filter_map(|incoming| incoming.control.due).min()?;
        Some(Instant::now() + due.duration_since(SystemTime::now()).unwrap_or_default())
    }

    async fn look_up_attempts(&mut self) -> Result<()> {
        for incoming in &mut self.staged {
            let Some(id) = incoming.message.message_id().cloned() else { continue };
            let lane = usize::try_from(incoming.token.lane).ok();
            let ledger = lane.and_then(|lane| self.sources.get(lane)).and_then(|source| source.ledger.as_ref());
            let mut recorded = None;
            if let Some(ledger) = ledger.filter(|_| incoming.redelivered) {
                recorded = ledger.find(&id).await?;
            }
            if let Some(recorded) = recorded {
                incoming.control.attempt = incoming.control.attempt.max(recorded.attempt);
                incoming.control.due = recorded.due;
            }
            self.session.hold(incoming.token, id, recorded.is_some());
        }
        Ok(())
    }
}

pub(crate) fn check_start(start: &StartFrom) -> Result<()> {
    let way_out = "a queue holds only what was sent since its group was created: create the group before sending";
    let feature = match start {
        StartFrom::SinceDeclared | StartFrom::Latest => return Ok(()),
        StartFrom::Time(_) => Feature::SeekTime,
        StartFrom::Position(_) => Feature::SeekPosition,
        _ => Feature::Replay,
    };
    Err(Error::unsupported(feature, BACKEND, way_out))
}

fn receive(source: &Source, lane: u32, epoch: u32, delivery: Delivery) -> Incoming {
    let Delivery { delivery_tag, exchange, routing_key, redelivered, properties, data, .. } = delivery;
    // What is for this group alone comes through the default exchange; through the topic's anybody may send anything.
    let ours = source.trusted && exchange.as_str().is_empty();
    let decoded = wire::decode(&source.topic, source.trusted, exchange, routing_key, properties, data);
    let control =
        if ours && !decoded.reserved.is_empty() { Control::read(&decoded.reserved) } else { Control::default() };
    let origin = match (&control.group, control.redrives) {
        (None, _) => Origin::Topic,
        (Some(_), 1..) if control.attempt == 1 => Origin::Redrive,
        (Some(_), _) => Origin::Retry,
    };
    Incoming {
        token: Token { epoch, lane, major: delivery_tag, minor: 0 },
        message: decoded.message,
        position: Position::None,
        control,
        redeliveries: decoded.redeliveries,
        redelivered,
        origin,
    }
}

#[async_trait]
impl ConsumerDriver for RabbitConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + wait;
        if self.live.is_none() {
            if !self.resubscribe(deadline).await? {
                return Ok(());
            }
            events.push(Event::Reconnected);
            return Ok(());
        }
        if self.paused || max == 0 {
            if tokio::time::timeout_at(deadline, self.lost()).await.is_ok() {
                self.disconnected(events, "the connection was lost".into());
            }
            return Ok(());
        }
        if self.staged.is_empty() {
            let until = self.next_due().map_or(deadline, |due| due.min(deadline));
            let taken = std::future::poll_fn(|context| self.take(context, max));
            match tokio::time::timeout_at(until, taken).await {
                Err(_) if until == deadline => return Ok(()),
                Err(_) => {}
                // What was received before the end is void with it.
                Ok(Some(why)) => {
                    self.disconnected(events, why);
                    return Ok(());
                }
                Ok(None) => {}
            }
        }
        match self.hand_out(events).await {
            Err(cause) if cause.is_transient() => {
                self.disconnected(events, cause.to_string().into());
                Ok(())
            }
            result => result,
        }
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        // What the broker sent ahead stays with us, bounded by the prefetch; it sends no more than that.
        self.paused = paused;
        self.session.pause(paused);
        Ok(())
    }

    async fn revoked(&mut self, _: u64) -> Result<()> {
        Err(error(ErrorKind::Internal, "RabbitMQ revokes no partitions"))
    }

    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        let Some(live) = self.live.take() else { return Ok(()) };
        let until = Instant::now() + deadline;
        let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        // In an ordered group the next consumer would begin as soon as this one is cancelled, while what is given back
        // here is still on its way: the end of the channel does both at once.
        for (_, stream) in live.streams.iter().filter(|_| !self.ordered) {
            // A failure shows again at the flush.
            let _ = within(left(), live.channel.basic_cancel(stream.tag(), BasicCancelOptions::default())).await;
        }
        // A channel that ended by itself has given everything back already.
        let gone = !live.channel.status().connected();
        let flushed = if gone { Ok(()) } else { self.session.flush(left()).await };
        self.session.end();
        // Records first: whoever receives the messages next looks for them.
        for source in self.sources.iter() {
            if let Some(ledger) = &source.ledger {
                ledger.close(left()).await;
            }
        }
        if gone {
            return Ok(());
        }
        // The broker takes back what is not settled when the channel closes.
        let closed = within(left(), live.channel.close(200, "closed by the application".into())).await;
        flushed.and(closed)
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        // The settler may live on; the channel must not.
        self.session.end();
        if let Some(live) = &self.live {
            // Before the streams, whose end would cancel the consumers while their messages are still out: the next one
            // of an ordered group would begin at once. Polling once queues the frame.
            let _ = live.channel.close(200, "dropped".into()).now_or_never();
        }
    }
}

impl fmt::Debug for RabbitConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConsumer").field("sources", &self.sources).finish_non_exhaustive()
    }
}
