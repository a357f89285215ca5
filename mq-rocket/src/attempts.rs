//! The failed attempts of what an ordered group holds for a retry: in a topic of the group's own.
//!
//! A message that keeps its place stays with its consumer, so its attempt is written beside it. Who takes it after a
//! crash reads the records back from their end. That is short: of an ordered group a queue's next messages come only when
//! those delivered are settled, so the records of what is open are the last ones of its queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use mq_core::driver::{Hold, Incoming};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Headers, Message, control};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::error;
use crate::names;
use crate::pull::{STEP, pull};
use crate::receipt::Receipt;
use crate::remoting::code;
use crate::route::{Node, Queue};
use crate::sending::{call, failed, single, stored};
use crate::source::Source;
use crate::stored::Stored;
use crate::topology;
use crate::wire;

/// What a record is about: `own` or `retry`, the queue, the offset.
const OF: &str = "mq-held";
/// Instead of the offset.
const SOUGHT: &str = "sought";
/// So far back records are looked for. A queue has at most 32 open messages, each with its attempts.
const MOST: usize = 1024;

/// What is recorded of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    attempt: u32,
    due: Option<SystemTime>,
}

/// One entry of the topic.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// Of the message at this offset.
    Attempt(i64, Record),
    /// The group was set to another position: what is before this is over.
    Sought,
}

impl Entry {
    /// Unless it is about another queue.
    fn read(source: &Source, queue: u32, stored: Stored) -> Option<Self> {
        let reserved = wire::decode(&source.topic, stored).reserved;
        let of = reserved.get_str(OF)?.strip_prefix(&about(source, queue))?;
        if of == SOUGHT {
            return Some(Self::Sought);
        }
        let attempt = control::number(&reserved, control::ATTEMPT).and_then(|attempt| u32::try_from(attempt).ok())?;
        let due = control::millis(&reserved, control::DUE);
        Some(Self::Attempt(of.parse().ok()?, Record { attempt: attempt.max(1), due }))
    }
}

fn about(source: &Source, queue: u32) -> String {
    format!("{} {queue} ", if source.trusted { "retry" } else { "own" })
}

/// Records the attempt to come of a message that stays with its consumer.
pub(crate) async fn note(core: &Core, source: &Source, receipt: &Receipt, hold: &Hold) -> Result<()> {
    let mut patch = Headers::with_capacity(3);
    patch.append(OF, format!("{}{}", about(source, receipt.queue), receipt.offset));
    patch.append(control::ATTEMPT, hold.attempt.to_string());
    patch.append(control::DUE, control::from_time(hold.due));
    store(core, source, &receipt.node, receipt.queue, &patch).await
}

/// Records that the group begins elsewhere in a queue: what comes again from there has failed never.
pub(crate) async fn forget(core: &Core, source: &Source, queue: &Queue) -> Result<()> {
    let of = format!("{}{SOUGHT}", about(source, queue.id));
    let patch: Headers = [(OF, of)].into_iter().collect();
    store(core, source, &queue.broker, queue.id, &patch).await
}

async fn store(core: &Core, source: &Source, node: &Arc<Node>, queue: u32, patch: &Headers) -> Result<()> {
    let deadline = Instant::now() + core.config.send_timeout;
    let place = place(core, source, node, queue, deadline).await?;
    let record = wire::hop(&Message::to(source.topic.clone()), patch)?;
    let command = single(&source.attempts, &place, &record);
    let answer = call(&core.link(&place.broker), &command, deadline, deadline).await.map_err(failed)?;
    stored(&answer).map(drop).map_err(|cause| cause.with_context("topic", names::shown(&source.attempts)))
}

/// Gives what came again the attempts recorded of it. `came` is of one queue of `node`.
pub(crate) async fn recall<'a>(
    core: &Core,
    source: &Source,
    node: &Arc<Node>,
    came: impl Iterator<Item = (&'a mut Incoming, &'a Receipt)>,
) -> Result<()> {
    let mut came: Vec<_> = came.collect();
    let Some((queue, first)) = came.iter().map(|(_, receipt)| (receipt.queue, receipt.offset)).min() else {
        return Ok(());
    };
    let records = read(core, source, node, queue, first, core.deadline()).await?;
    for (incoming, receipt) in &mut came {
        if let Some(record) = records.get(&receipt.offset) {
            incoming.control.attempt = record.attempt;
            incoming.control.due = record.due;
        }
    }
    Ok(())
}

/// The latest record of each message of a queue from `first` on.
async fn read(
    core: &Core,
    source: &Source,
    node: &Arc<Node>,
    queue: u32,
    first: i64,
    deadline: Instant,
) -> Result<HashMap<i64, Record>> {
    let place = place(core, source, node, queue, deadline).await?;
    let start = topology::bound(core, &source.attempts, &place, code::GET_MIN_OFFSET, deadline).await?;
    let mut end = topology::bound(core, &source.attempts, &place, code::GET_MAX_OFFSET, deadline).await?;
    let step = i64::try_from(STEP).unwrap_or(1);
    let mut records = HashMap::new();
    for _ in 0..MOST / STEP {
        let from = end.saturating_sub(step).max(start);
        let came =
            pull(core, names::group(&source.group).as_str(), &source.attempts, &place, (from, end), STEP).await?;
        let mut found = false;
        for stored in came.into_iter().rev() {
            match Entry::read(source, queue, stored) {
                Some(Entry::Attempt(offset, record)) if offset >= first => {
                    found = true;
                    records.entry(offset).or_insert(record);
                }
                Some(Entry::Sought) => return Ok(records),
                _ => {}
            }
        }
        // A broker that was killed may have gone back a little, so older ones stand among them, but not as many.
        if !found || from == start {
            break;
        }
        end = from;
    }
    Ok(records)
}

/// Where the records of a queue are: at its own broker.
async fn place(core: &Core, source: &Source, node: &Arc<Node>, queue: u32, deadline: Instant) -> Result<Queue> {
    let route = core.route(&source.attempts, deadline).await?;
    let there: Vec<&Queue> = route.writable.iter().filter(|queue| queue.broker.name == node.name).collect();
    let index = usize::try_from(queue).unwrap_or(0).checked_rem(there.len());
    let found = index.and_then(|index| there.get(index)).map(|queue| (*queue).clone());
    found.ok_or_else(|| {
        error(ErrorKind::Unavailable, "the broker has no place for the attempts of what is held")
            .with_context("topic", names::shown(&source.attempts))
            .with_context("broker", &node.name)
            .with_hint("declare the group anew, as ordered: mq group create --mode ordered")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mq_core::name::{Group, Topic};
    use proptest::prelude::*;

    use super::*;
    use crate::stored::{Properties, read_properties};

    fn sources() -> [Source; 2] {
        Source::of_group(&Topic::parse("t").unwrap(), &Group::parse("g").unwrap()).unwrap()
    }

    fn came(properties: Properties) -> Stored {
        let born = SystemTime::UNIX_EPOCH;
        Stored { queue: 0, offset: 0, born, redeliveries: 0, body: "x".into(), properties }
    }

    #[test]
    fn records_come_back_to_their_own_message() {
        let [own, retry] = sources();
        let topic = &own.topic;
        let due = SystemTime::UNIX_EPOCH + Duration::from_millis(7);
        let mut patch = Headers::new();
        patch.append(OF, format!("{}41", about(&own, 3)));
        patch.append(control::ATTEMPT, "2");
        patch.append(control::DUE, control::from_time(due));
        let text = wire::hop(&Message::to(topic.clone()), &patch).unwrap().text();
        let read = |source, queue| Entry::read(source, queue, came(read_properties(&text)));
        assert_eq!(read(&own, 3), Some(Entry::Attempt(41, Record { attempt: 2, due: Some(due) })));
        assert_eq!(read(&own, 33), None);
        assert_eq!(read(&retry, 3), None);
    }

    proptest! {
        #[test]
        fn any_record_is_read(of in ".{0,20}", attempt in ".{0,20}", due in ".{0,20}") {
            let [own, _] = sources();
            let names = [(OF, format!("{}{of}", about(&own, 0))), (control::ATTEMPT, attempt), (control::DUE, due)];
            let properties = names.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let _ = Entry::read(&own, 0, came(properties));
        }
    }
}
