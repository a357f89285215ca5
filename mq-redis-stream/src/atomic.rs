//! Messages, and acknowledgements with them, in one step: a script that checks everything before it writes anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_core::capability::Feature;
use mq_core::driver::{Settle, Settlement};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Message;
use mq_core::name::Topic;
use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::core::{Core, no_topic};
use crate::error::{BACKEND, about, error, from_server, unexpected};
use crate::state::{INBOX, Shared, key};
use crate::{outgoing, producer, reply, script, slots, wire};

/// Messages in one step: while a script runs the server does nothing else.
const MESSAGES: usize = 10_000;
/// Their bytes.
const BYTES: usize = 64 * 1024 * 1024;
/// Acknowledgements in one step.
const ACKS: usize = 10_000;

/// What a step is made of.
struct Step {
    topics: Vec<Topic>,
    /// The streams of messages, then the keys of each group of acknowledgements.
    keys: Vec<String>,
    streams: usize,
    acks: Vec<Acks>,
    /// Each message with the number of its stream.
    messages: Vec<(usize, Message)>,
}

/// Acknowledgements of one partition by one member.
struct Acks {
    lane: u32,
    inbox: bool,
    member: String,
    group: String,
    ordered: bool,
    ids: Vec<String>,
    consumer: Arc<Shared>,
}

/// Stores all and settles all, or nothing. `next` chooses the partitions of messages without keys.
pub(crate) async fn store(
    core: &Core,
    batch: Vec<Message>,
    settlements: Vec<Settlement>,
    next: &AtomicU32,
) -> Result<()> {
    if batch.is_empty() && settlements.is_empty() {
        return Ok(());
    }
    let bytes: usize = batch.iter().map(Message::size).sum();
    if batch.len() > MESSAGES || settlements.len() > ACKS || bytes > BYTES {
        let text = format!("{} messages of {bytes} B and {} settlements", batch.len(), settlements.len());
        return Err(error(ErrorKind::TooLarge, format!("one step is to take {text}"))
            .with_context("limit", format!("{MESSAGES} messages of {BYTES} B and {ACKS} settlements"))
            .with_hint("the server does nothing else during the step: make several of it"));
    }
    let mut step = Step { topics: Vec::new(), keys: Vec::new(), streams: 0, acks: Vec::new(), messages: Vec::new() };
    place(core, &mut step, batch, next).await?;
    take_acks(core, &mut step, &settlements)?;
    if core.publishing.is_cluster() {
        one_slot(&step)?;
    }
    let (answer, short) = run(core, &command(&step)?).await.map_err(|cause| match step.topics.first() {
        Some(topic) => about(cause, topic),
        None => cause,
    })?;
    let mut parts = reply::items(answer).into_iter();
    match parts.next().and_then(reply::text).as_deref() {
        Some("ok") => {}
        Some("stale") => return Err(stale()),
        Some("nowhere") => {
            let at = parts.next().as_ref().and_then(reply::number).and_then(|at| usize::try_from(at - 1).ok());
            let topic = at.and_then(|at| step.topics.get(at)).ok_or_else(|| unexpected("a script"))?;
            core.forget(topic);
            return Err(no_topic(topic));
        }
        _ => return Err(unexpected("a script").ambiguous()),
    }
    for acks in &step.acks {
        let mut state = acks.consumer.lock();
        for Settlement { token, .. } in &settlements {
            if token.epoch == state.epoch {
                state.settled(*token);
            }
        }
        drop(state);
        acks.consumer.room.notify_one();
    }
    if short { Err(outgoing::too_few_copies()) } else { Ok(()) }
}

fn stale() -> Error {
    error(ErrorKind::Rejected, "the session of these deliveries is over: nothing was stored, and they come again")
}

/// Finds the stream of each message. On a cluster those without keys go where the others go, or to one partition
/// together.
async fn place(core: &Core, step: &mut Step, batch: Vec<Message>, next: &AtomicU32) -> Result<()> {
    let together = core.publishing.is_cluster();
    let chosen = next.fetch_add(1, Ordering::Relaxed);
    let mut keyed: Option<(Topic, u32)> = None;
    if let Some(message) = batch.iter().find(|message| together && message.key_bytes().is_some()) {
        let count = core.partitions(message.topic()).await?;
        keyed = Some((message.topic().clone(), producer::partition(message, count, 0)));
    }
    for message in batch {
        let count = core.partitions(message.topic()).await?;
        let keyless = match &keyed {
            _ if !together => next.fetch_add(1, Ordering::Relaxed),
            Some((topic, partition)) if topic == message.topic() => *partition,
            _ => chosen,
        };
        let partition = producer::partition(&message, count, keyless);
        let stream = core.keys(message.topic(), partition).stream;
        let at = match step.keys.iter().position(|known| *known == stream) {
            Some(at) => at,
            None => {
                step.keys.push(stream);
                step.topics.push(message.topic().clone());
                step.keys.len() - 1
            }
        };
        step.messages.push((at, message));
    }
    step.streams = step.keys.len();
    Ok(())
}

/// Finds whose deliveries these are; each must be in the hands of its consumer.
fn take_acks(core: &Core, step: &mut Step, settlements: &[Settlement]) -> Result<()> {
    for Settlement { token, action } in settlements {
        if !matches!(action, Settle::Ack) {
            return Err(Error::unsupported(
                Feature::AtomicHandoff,
                BACKEND,
                "in one step with messages only acknowledge; retry or dead-letter by itself",
            ));
        }
        let consumer = core.consumer(token.epoch).ok_or_else(stale)?;
        let state = consumer.lock();
        if token.epoch != state.epoch || !state.live || !state.out.contains_key(&key(*token)) {
            return Err(stale());
        }
        let member = state.member.clone();
        drop(state);
        let (lane, inbox, id) = (token.lane, token.minor & INBOX != 0, wire::entry_id(*token).to_string());
        let same = |acks: &&mut Acks| (acks.lane, acks.inbox) == (lane, inbox) && acks.member == member;
        if let Some(acks) = step.acks.iter_mut().find(same) {
            acks.ids.push(id);
            continue;
        }
        let group = consumer.group.as_str().to_owned();
        let of = consumer.lane(lane).ok_or_else(stale)?;
        step.keys.extend([
            of.stream(&group, inbox),
            of.keys.attempts(&group, inbox),
            of.keys.members(&group),
            of.keys.owner(&group),
        ]);
        let ordered = consumer.ordered;
        step.acks.push(Acks { lane, inbox, member, group, ordered, ids: vec![id], consumer });
    }
    Ok(())
}

/// On a cluster a script reaches the keys of one slot.
fn one_slot(step: &Step) -> Result<()> {
    let mut slots = step.keys.iter().map(|key| slots::slot(key.as_bytes()));
    let first = slots.next();
    if slots.all(|slot| Some(slot) == first) {
        return Ok(());
    }
    let feature = if step.acks.is_empty() { Feature::AtomicBatch } else { Feature::AtomicHandoff };
    Err(Error::unsupported(
        feature,
        BACKEND,
        "on a cluster one step reaches one partition of one topic: give the messages of the step one key, or none; else \
         use a single server, or an outbox in your own database transaction",
    ))
}

fn command(step: &Step) -> Result<Cmd> {
    let keys: Vec<&str> = step.keys.iter().map(String::as_str).collect();
    let mut command = script::call(&script::ATOMIC, &keys);
    command.arg(step.streams).arg(step.acks.len());
    for acks in &step.acks {
        command.arg(&acks.member).arg(&acks.group).arg(u8::from(acks.ordered)).arg(acks.ids.len());
        command.arg(&acks.ids);
    }
    for (stream, message) in &step.messages {
        command.arg(stream + 1).arg(wire::count(message) * 2);
        wire::encode(message, &mut command)?;
    }
    Ok(command)
}

/// Sent once: what was lost on the way is ambiguous. Also says whether too few replicas have it.
async fn run(core: &Core, command: &Cmd) -> Result<(Value, bool)> {
    let deadline = Instant::now() + core.config.send_timeout;
    let mut live = core.publishing.ready(deadline).await?;
    let mut commands = redis::pipe();
    commands.add_command(command.clone());
    for again in [true, false] {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let wait = outgoing::wait_for_copies(core, left);
        let answer = core.publishing.run(&mut live, &commands, wait.as_ref(), left).await.pop();
        let answer = answer.ok_or_else(|| unexpected("a script").ambiguous())??;
        match answer.value {
            Value::ServerError(cause) if cause.code() == "NOSCRIPT" && again => {
                core.publishing.load(&mut live, left).await?;
            }
            Value::ServerError(cause) => return Err(from_server(&cause)),
            value => {
                let short = answer.copies.is_some_and(|copies| copies < i64::from(core.config.replicas));
                return Ok((value, short));
            }
        }
    }
    Err(error(ErrorKind::Unavailable, "the broker forgets its scripts as fast as they are loaded"))
}
