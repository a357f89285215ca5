//! What an ordered group has settled behind a message that it gave back.
//!
//! Of an ordered group the broker keeps one number for each queue: the first message that is not acknowledged. When that
//! one is given back, everything behind it is handed out again too, acknowledged or not. So whoever gives it back first
//! writes down what is done behind it, and whoever then takes it acknowledges that unseen. It is written as the position
//! of the group in a queue of the topic that does not exist: a number of 63 bits that the broker keeps like any other.

use std::collections::BTreeSet;
use std::sync::Arc;

use mq_core::error::Result;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::answer;
use crate::remoting::{Command, code};
use crate::route::Node;

/// Added to a queue's number: no topic has so many queues.
const BESIDE: u32 = 1 << 24;
/// How many messages behind the first one a number has room for. The broker hands out at most 32 at once.
const BITS: u32 = 31;

/// One queue of an ordered group, as one of its members takes from it.
#[derive(Debug)]
pub(crate) struct Gaps {
    node: Arc<Node>,
    group: Arc<str>,
    topic: String,
    queue: u32,
    /// Locked while the broker is told: what is told last must be all there is.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is done of the last answer, and behind it.
    settled: BTreeSet<i64>,
    /// The first one given back.
    back: Option<i64>,
    /// Behind the last answer. What begins there was nobody else's meanwhile.
    next: Option<i64>,
    /// The note, as last read.
    noted: i64,
}

/// What is known of an answer's messages.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// A member before has settled them.
    pub(crate) done: BTreeSet<i64>,
    /// Somebody may have had some of them: the queue does not go on where this member left it.
    pub(crate) seen: bool,
}

impl Gaps {
    pub(crate) fn new(node: &Arc<Node>, group: &Arc<str>, topic: &str, queue: u32) -> Self {
        let (node, group, topic) = (Arc::clone(node), Arc::clone(group), topic.to_owned());
        Self { node, group, topic, queue, state: Mutex::default() }
    }

    /// Takes in which messages the broker handed out of the queue, and `again` when some of them were
    /// handed out before.
    pub(crate) async fn begin(&self, core: &Core, offsets: &[i64], again: bool, deadline: Instant) -> Begun {
        let (Some(&first), Some(&last)) = (offsets.iter().min(), offsets.iter().max()) else { return Begun::default() };
        let mut state = self.state.lock().await;
        let goes_on = !again && state.next == Some(first);
        state.next = Some(last.saturating_add(1));
        if !goes_on {
            state.noted = self.read(core, deadline).await.unwrap_or_else(|cause| {
                tracing::warn!(%cause, topic = self.topic, "what is done of a queue is not known: it comes twice");
                0
            });
        }
        // Not to be believed for ever: the group may be set back by others.
        if is_passed(state.noted, first)
            && let Ok(()) = self.clear(core, deadline).await
        {
            state.noted = 0;
        }
        let room = first..first.saturating_add(2 * i64::from(BITS));
        state.settled = room.filter(|offset| holds(state.noted, *offset)).collect();
        state.back = None;
        let done = offsets.iter().copied().filter(|offset| state.settled.contains(offset)).collect();
        Begun { done, seen: !goes_on }
    }

    /// To be called before the acknowledgement: with it somebody else may take what was given back.
    pub(crate) async fn settle(&self, core: &Core, offset: i64, deadline: Instant) {
        let mut state = self.state.lock().await;
        state.settled.insert(offset);
        if state.back.is_some_and(|back| back < offset) {
            self.tell(core, &state, deadline).await;
        }
    }

    /// To be called before it is given back.
    pub(crate) async fn give_back(&self, core: &Core, offset: i64, deadline: Instant) {
        let mut state = self.state.lock().await;
        state.back = Some(state.back.map_or(offset, |back| back.min(offset)));
        if state.settled.range(offset..).next().is_some() {
            self.tell(core, &state, deadline).await;
        }
    }

    /// Where it cannot be told, messages come twice: as after a crash.
    async fn tell(&self, core: &Core, state: &State, deadline: Instant) {
        let Some(back) = state.back else { return };
        let value = encode(back, state.settled.range(back..).copied());
        if let Err(cause) = self.write(core, value, deadline).await {
            tracing::warn!(%cause, topic = self.topic, "what is done behind a message given back is not noted: it comes again");
        }
    }

    async fn write(&self, core: &Core, value: i64, deadline: Instant) -> Result<()> {
        let command = self.command(code::UPDATE_CONSUMER_OFFSET).field("commitOffset", value);
        core.ask(&self.node, command, deadline).await?.success().map(drop)
    }

    fn command(&self, code: i32) -> Command {
        Command::request(code)
            .field("consumerGroup", &self.group)
            .field("topic", &self.topic)
            .field("queueId", self.queue.saturating_add(BESIDE))
    }

    async fn read(&self, core: &Core, deadline: Instant) -> Result<i64> {
        let command = self.command(code::QUERY_CONSUMER_OFFSET).field("setZeroIfNotFound", false);
        let answer = core.ask(&self.node, command, deadline).await?;
        match answer.code {
            answer::SUCCESS => answer.number("offset"),
            answer::QUERY_NOT_FOUND => Ok(0),
            _ => Err(answer.refusal()),
        }
    }

    /// Nothing is noted any more: positions may be handed out anew after a seek.
    pub(crate) async fn clear(&self, core: &Core, deadline: Instant) -> Result<()> {
        self.write(core, 0, deadline).await
    }
}

/// The lower half of the first position, and a bit for each of those behind it that is done.
fn encode(first: i64, settled: impl Iterator<Item = i64>) -> i64 {
    let bits = settled.filter_map(|offset| place(first, offset)).fold(0, |bits, place| bits | (1_i64 << place));
    ((first & i64::from(u32::MAX)) << BITS) | bits
}

fn holds(value: i64, offset: i64) -> bool {
    let lower = i64::from(u32::MAX);
    let distance = (offset & lower).wrapping_sub(value >> BITS) & lower;
    value > 0 && place(0, distance).is_some_and(|place| value & (1_i64 << place) != 0)
}

/// True when nobody needs the note any more, as the queue goes on at `first`.
fn is_passed(value: i64, first: i64) -> bool {
    let lower = i64::from(u32::MAX);
    let distance = (first & lower).wrapping_sub(value >> BITS) & lower;
    value > 0 && (i64::from(BITS) + 1..1 << 31).contains(&distance)
}

/// The bit of a position behind the first one.
fn place(first: i64, offset: i64) -> Option<u32> {
    let place = u32::try_from(offset.checked_sub(first)?.checked_sub(1)?).ok()?;
    (place < BITS).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_noted() {
        for first in [0, 7, 5_000_000_007, i64::from(u32::MAX) - 2] {
            let value = encode(first, [first, first + 1, first + 3, first + 31, first + 32, first - 1].into_iter());
            assert!(value >= 0, "the broker takes no negative position");
            let noted: Vec<i64> = (first - 40..first + 80).filter(|offset| holds(value, *offset)).collect();
            assert_eq!(noted, [first + 1, first + 3, first + 31]);
            let passed: Vec<i64> = (first - 40..first + 35).filter(|next| is_passed(value, *next)).collect();
            assert_eq!(passed, [first + 32, first + 33, first + 34]);
        }
        assert!((0..100).all(|offset| !holds(0, offset) && !is_passed(0, offset)), "cleared");
        assert!((0..100).all(|offset| !holds(-1, offset) && !is_passed(-1, offset)), "never written by us");
    }
}
