//! Keeps later sends of a key from overtaking one whose outcome is unknown.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, MessageId};
use crate::name::fnv1a;

/// The most keys remembered; beyond it the producer refuses every keyed send until some are resolved.
const MAX: usize = 10_000;

/// Keys of which sends ended ambiguous, and the ids under which they must be sent again, one after the other.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// False while the map is empty, so that the usual send takes no lock.
    any: AtomicBool,
    keys: Mutex<HashMap<u64, Vec<Unresolved>>>,
}

/// A send nobody knows the outcome of. Of a key as many as were in flight at once, oldest first: they end in any order.
#[derive(Debug)]
struct Unresolved {
    made: Option<SystemTime>,
    id: Option<MessageId>,
}

impl Fence {
    pub(super) fn check(&self, message: &Message) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(place) = place(message) else { return Ok(()) };
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let fenced = match keys.get(&place).and_then(|unresolved| unresolved.first()) {
            Some(first) => first.id.is_none() || first.id.as_ref() != message.message_id(),
            None => keys.len() >= MAX,
        };
        if !fenced {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "an earlier send of this key ended ambiguous; this one must not overtake it")
            .with_hint("send the earlier message again under the same id first, or give up its place with forget_key"))
    }

    /// As [`check`](Self::check), for messages that are stored in one step: the first of a key speaks for the others.
    pub(super) fn check_all(&self, batch: &[Message]) -> Result<()> {
        let mut free = HashSet::new();
        for message in batch {
            if place(message).is_none_or(|place| free.insert(place)) {
                self.check(message)?;
            }
        }
        Ok(())
    }

    pub(super) fn ambiguous(&self, message: &Message) {
        if let Some(place) = place(message) {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let unresolved = keys.entry(place).or_default();
            let (made, id) = (message.made_at(), message.message_id().cloned());
            if !unresolved.iter().any(|one| one.id == id) {
                let behind = unresolved.partition_point(|one| one.made <= made);
                unresolved.insert(behind, Unresolved { made, id });
            }
            self.any.store(true, Ordering::Release);
        }
    }

    /// A send of the key was stored: when no other is unresolved, the fence is lifted.
    pub(super) fn stored(&self, message: &Message) {
        if self.any.load(Ordering::Acquire)
            && let Some(place) = place(message)
        {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unresolved) = keys.get_mut(&place) {
                unresolved.retain(|one| one.id.as_ref() != message.message_id());
                if unresolved.is_empty() {
                    keys.remove(&place);
                }
            }
            self.any.store(!keys.is_empty(), Ordering::Release);
        }
    }

    pub(super) fn forget(&self, message: &Message) {
        if let Some(place) = place(message) {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.remove(&place);
            self.any.store(!keys.is_empty(), Ordering::Release);
        }
    }
}

fn place(message: &Message) -> Option<u64> {
    let key = message.key_bytes()?;
    Some(fnv1a(message.topic().as_str().as_bytes()).rotate_left(17) ^ fnv1a(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(id: &str) -> Message {
        Message::new("t").unwrap().key("k").id(id)
    }

    #[test]
    fn only_the_same_id_lifts_it() {
        let fence = Fence::default();
        fence.ambiguous(&keyed("1"));
        assert_eq!(fence.check(&keyed("2")).unwrap_err().kind(), ErrorKind::Fenced);
        assert!(fence.check(&Message::new("t").unwrap().key("other")).is_ok());
        fence.stored(&keyed("2"));
        assert!(fence.check(&keyed("2")).is_err());
        assert!(fence.check(&keyed("1")).is_ok());
        assert!(fence.check_all(&[keyed("2"), keyed("1")]).is_err());
        assert!(fence.check_all(&[keyed("1"), keyed("2")]).is_ok());
        fence.stored(&keyed("1"));
        assert!(fence.check(&keyed("2")).is_ok());
    }

    /// Two were in flight, and the later one ended first: the earlier one goes first again, then the other.
    #[test]
    fn the_oldest_goes_first_whichever_ended_first() {
        let made = |id: &str, seconds| {
            keyed(id).with_timestamp(Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)))
        };
        let fence = Fence::default();
        fence.ambiguous(&made("2", 2));
        fence.ambiguous(&made("1", 1));
        assert!(fence.check(&made("2", 3)).is_err(), "it would overtake the first");
        assert!(fence.check(&made("1", 3)).is_ok());
        fence.ambiguous(&made("1", 3));
        assert!(fence.check(&made("1", 4)).is_ok(), "its place is that of the first try");
        fence.stored(&made("1", 4));
        assert!(fence.check(&made("3", 4)).is_err(), "the second is still unresolved");
        assert!(fence.check(&made("2", 5)).is_ok());
        fence.stored(&made("2", 5));
        assert!(fence.check(&made("3", 6)).is_ok());
    }
}
