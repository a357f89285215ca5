//! One task sends what is accepted, in order, in pipelines; answers complete each message.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mq_core::driver::{Destination, Publish, Receipt};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Position, control};
use mq_core::name::fnv1a;
use redis::{Cmd, Value};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::core::{Core, no_topic};
use crate::error::{about, copy, error, from_server, unexpected};
use crate::names::Keys;
use crate::reply::{self, EntryId};
use crate::{script, wire};

/// Messages in one pipeline.
const PIPELINE: usize = 256;
/// Bytes after which a pipeline is not made longer.
const PIPELINE_BYTES: usize = 512 * 1024;
/// Pipelines under way at once, however short: the server works on one while the answers to the other travel. What comes
/// meanwhile makes the next one longer: each costs as much as several messages.
const SHORT: usize = 2;
/// Full pipelines under way at once: enough to keep the connection busy.
const AT_ONCE: usize = 8;

/// How long a pipeline waits for replicas: the next ones wait behind it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// An accepted message.
pub(crate) struct Item {
    pub(crate) publish: Publish,
    pub(crate) place: Place,
    pub(crate) accepted: Instant,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// Where a message goes.
pub(crate) struct Place {
    /// Those of every partition of its topic.
    pub(crate) keys: Arc<[Keys]>,
    pub(crate) partition: u32,
}

impl Place {
    fn keys(&self) -> Result<&Keys> {
        let keys = usize::try_from(self.partition).ok().and_then(|partition| self.keys.get(partition));
        keys.ok_or_else(|| error(ErrorKind::Internal, "a partition without keys"))
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.publish.fmt(f)
    }
}

/// Sends what comes until the producer is gone, and waits for the last answers.
pub(crate) async fn send(core: Arc<Core>, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut under_way: VecDeque<BoxFuture<'static, ()>> = VecDeque::new();
    let failed = Arc::new(Failed::default());
    let mut kept: VecDeque<Item> = VecDeque::new();
    let (mut open, mut number) = (true, 0);
    while open || !under_way.is_empty() || !kept.is_empty() {
        failed.refuse_followers(&mut items, &mut kept);
        let mut batch = Vec::new();
        if let Some(item) = kept.pop_front() {
            batch.push(item);
        } else {
            let room = under_way.len() < if items.len() < PIPELINE { SHORT } else { AT_ONCE };
            tokio::select! {
                biased;
                item = items.recv(), if open && room => match item {
                    Some(item) => batch.push(item),
                    None => open = false,
                },
                () = first(&mut under_way) => { under_way.pop_front(); }
            }
        }
        let Some(item) = batch.first() else { continue };
        let mut bytes = item.publish.message().size();
        while batch.len() < PIPELINE && bytes < PIPELINE_BYTES {
            let Some(item) = kept.pop_front().or_else(|| items.try_recv().ok()) else { break };
            bytes += item.publish.message().size();
            batch.push(item);
        }
        let deadline = batch.first().map_or_else(Instant::now, |item| item.accepted) + core.config.send_timeout;
        // While there is no connection nothing is sent, and what waits is refused in time.
        match wait_for_connection(&core, deadline, &mut under_way).await {
            Err(cause) => refuse(batch, &cause),
            Ok(live) => {
                if live.number != number {
                    // What went by the connection of before has failed, and what follows it must not overtake it.
                    while let Some(pipeline) = under_way.pop_front() {
                        pipeline.await;
                    }
                    number = live.number;
                    if failed.any() {
                        batch.into_iter().rev().for_each(|item| kept.push_front(item));
                        continue;
                    }
                }
                let mut pipeline = transmit(Arc::clone(&core), live, batch, deadline, Arc::clone(&failed)).boxed();
                // Polled once, so that the pipelines are handed over in this order.
                if (&mut pipeline).now_or_never().is_none() {
                    under_way.push_back(pipeline);
                }
            }
        }
    }
}

/// The keys of sends with an unknown outcome: what was accepted after one of them must not be stored before it.
#[derive(Debug, Default)]
struct Failed(Mutex<HashSet<u64>>);

impl Failed {
    fn any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn note<'i>(&self, items: impl Iterator<Item = &'i (usize, Option<Item>)>) {
        let keys = items.filter_map(|(_, item)| item.as_ref().and_then(key_of));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// Refuses what is queued behind them. What comes later the core keeps in order.
    fn refuse_followers(&self, items: &mut mpsc::UnboundedReceiver<Item>, kept: &mut VecDeque<Item>) {
        let keys = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return;
        }
        while let Ok(item) = items.try_recv() {
            kept.push_back(item);
        }
        for item in std::mem::take(kept) {
            if key_of(&item).is_some_and(|key| keys.contains(&key)) {
                let behind = error(ErrorKind::Unavailable, "a message of this key before it has an unknown outcome");
                item.publish.complete(Err(behind.with_operation("send")));
            } else {
                kept.push_back(item);
            }
        }
    }
}

fn key_of(item: &Item) -> Option<u64> {
    let message = item.publish.message();
    let key = message.key_bytes()?;
    Some(fnv1a(message.topic().as_str().as_bytes()).rotate_left(17) ^ fnv1a(key))
}

async fn first(under_way: &mut VecDeque<BoxFuture<'static, ()>>) {
    match under_way.front_mut() {
        Some(pipeline) => pipeline.await,
        None => std::future::pending().await,
    }
}

async fn wait_for_connection(
    core: &Core,
    deadline: Instant,
    under_way: &mut VecDeque<BoxFuture<'static, ()>>,
) -> Result<crate::link::Live> {
    if let Some(live) = core.publishing.current() {
        return Ok(live);
    }
    let ready = core.publishing.ready(deadline);
    tokio::pin!(ready);
    loop {
        tokio::select! {
            live = &mut ready => return live,
            () = first(under_way) => { under_way.pop_front(); }
        }
    }
}

fn refuse(batch: Vec<Item>, cause: &Error) {
    for item in batch {
        item.publish.complete(Err(copy(cause).with_operation("send")));
    }
}

async fn transmit(
    core: Arc<Core>,
    mut live: crate::link::Live,
    batch: Vec<Item>,
    deadline: Instant,
    failed: Arc<Failed>,
) {
    let mut commands = redis::pipe();
    let mut sent = Vec::with_capacity(batch.len());
    for item in batch {
        match command(&item) {
            Ok(command) => {
                commands.add_command(command);
                sent.push(item);
            }
            Err(cause) => item.publish.complete(Err(cause.with_operation("send"))),
        }
    }
    let replicas = core.config.replicas;
    let wait = wait_for_copies(&core, deadline.saturating_duration_since(Instant::now()));
    if sent.is_empty() {
        return;
    }
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let (unconfirmed, sent): (Vec<_>, Vec<_>) = sent
        .into_iter()
        .map(Some)
        .enumerate()
        .partition(|(_, item)| item.as_ref().is_some_and(|item| !item.publish.wants_confirm()));
    let asked = core.publishing.run(&mut live, &commands, wait.as_ref(), left);
    for (_, item) in unconfirmed {
        if let Some(item) = item {
            item.publish.complete(Ok(Receipt::at(Position::None)));
        }
    }
    let mut answers: Vec<_> = asked.await.into_iter().map(Some).collect();
    // Before the senders know.
    failed.note(sent.iter().filter(|(at, _)| matches!(answers.get(*at), Some(Some(Err(_))) | None)));
    for (at, item) in sent {
        let Some(item) = item else { continue };
        let result = match answers.get_mut(at).and_then(Option::take) {
            Some(Ok(answer)) => {
                let short = answer.copies.is_some_and(|copies| copies < i64::from(replicas));
                match outcome(&core, &item, answer.value).await {
                    Ok(_) if short => Err(too_few_copies()),
                    result => result,
                }
            }
            Some(Err(cause)) => Err(cause),
            None => Err(unexpected("a pipeline").ambiguous()),
        };
        let result = result.map_err(|cause| about(cause, item.publish.message().topic()).with_operation("send"));
        item.publish.complete(result);
    }
}

/// The `WAIT` that is sent behind messages, when replicas are demanded.
pub(crate) fn wait_for_copies(core: &Core, left: Duration) -> Option<Cmd> {
    let replicas = core.config.replicas;
    (replicas > 0).then(|| {
        // Over before the send is: a connection that is still waiting would count as lost.
        let wait = (left / 2).min(LONGEST_WAIT);
        let mut command = redis::cmd("WAIT");
        command.arg(replicas).arg(crate::session::millis(wait).max(1));
        command
    })
}

pub(crate) fn too_few_copies() -> Error {
    error(ErrorKind::Unavailable, "too few replicas have the message in time")
        .ambiguous()
        .with_hint("look at the replicas, or set `replicas` lower")
}

fn command(item: &Item) -> Result<Cmd> {
    let message = item.publish.message();
    let keys = item.place.keys()?;
    let due = item.publish.deliver_at().filter(|due| *due > SystemTime::now());
    let mut command = match (item.publish.destination(), due) {
        (Destination::Topic, None) => {
            // Its bytes are put into it once, and not moved.
            let arguments = 4 + 2 * wire::count(message);
            let mut command = Cmd::with_capacity(arguments, message.size() + keys.stream.len() + 192);
            command.arg("XADD").arg(&keys.stream).arg("NOMKSTREAM").arg("*");
            command
        }
        (Destination::Group(group), None) => {
            let mut command = redis::cmd("XADD");
            command.arg(keys.inbox(group.as_str())).arg("NOMKSTREAM").arg("*").arg(wire::RECORD).arg(0);
            command
        }
        (Destination::Topic, Some(due)) => {
            let named = [&*keys.stream, &keys.delayed(), &keys.delayed_bodies(), &keys.delayed_counter()];
            let mut command = script::call(&script::DELAY, &named);
            command.arg(&*control::from_time(due));
            command
        }
        _ => return Err(error(ErrorKind::Unsupported, "a message for one group cannot be delayed")),
    };
    wire::encode(message, &mut command)?;
    Ok(command)
}

async fn outcome(core: &Core, item: &Item, answer: Value) -> Result<Receipt> {
    let (topic, partition) = (item.publish.message().topic(), item.place.partition);
    let gone = || {
        core.forget(topic);
        Err(no_topic(topic))
    };
    match answer {
        Value::ServerError(cause) if cause.code() == "NOSCRIPT" => {
            if let Some(mut live) = core.publishing.current() {
                core.publishing.load(&mut live, core.limit()).await?;
            }
            Err(error(ErrorKind::Unavailable, "the broker had forgotten its scripts; send again"))
        }
        Value::ServerError(cause) => Err(from_server(&cause)),
        Value::Nil => gone(),
        Value::Int(0) => gone(),
        Value::Int(_) => match item.publish.deliver_at() {
            Some(due) => Ok(Receipt::at(Position::None).due(due, true)),
            None => Err(unexpected("XADD").ambiguous()),
        },
        id => {
            let id =
                reply::bytes(id).and_then(|id| EntryId::parse(&id)).ok_or_else(|| unexpected("XADD").ambiguous())?;
            let receipt = Receipt::at(Position::Entry { partition, id: id.to_string().into() });
            Ok(match item.publish.deliver_at() {
                Some(due) => receipt.due(due, false),
                None => receipt,
            })
        }
    }
}
