//! Half messages: kept apart until they are decided.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::driver::{Decision, Destination};
use crate::error::{ErrorKind, Result};
use crate::memory::state::{State, fail, no_topic};
use crate::memory::storing::Full;
use crate::message::Message;
use crate::name::Group;

/// How many are asked about together.
const AT_ONCE: usize = 16;

/// A message nobody sees yet.
pub(super) struct HalfEntry {
    name: Group,
    message: Message,
    topic: u32,
    size: usize,
    /// When a producer of its name is asked.
    ask: SystemTime,
}

/// By the order they were taken in.
pub(super) type Halves = BTreeMap<u64, HalfEntry>;

impl State {
    /// Keeps a message apart; its number. The outer error says that there is no room now.
    pub(super) fn prepare(&mut self, name: &Group, message: &Message) -> Result<Result<u64>, Full> {
        if let Err(error) = self.check_up() {
            return Ok(Err(error));
        }
        if self.plan.blocked || self.plan.stalled {
            return Err(Full::Blocked);
        }
        let (topic, size) = match self.check(message) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let fault = self.plan.sends.pop_front();
        if let Some(fault) = fault
            && !fault.stores()
        {
            return Ok(Err(fault.error()));
        }
        let now = self.clock.now();
        if !self.make_room(topic, size, now) {
            self.plan.sends.extend(fault);
            return Err(Full::Capacity);
        }
        self.sequence += 1;
        let ask = self.clock.after(self.config.check_back);
        let entry = HalfEntry { name: name.clone(), message: message.clone(), topic, size, ask };
        self.halves.insert(self.sequence, entry);
        Ok(match fault {
            None => Ok(self.sequence),
            Some(fault) => Err(fault.error()),
        })
    }

    /// Makes it visible, or forgets it.
    pub(super) fn decide(&mut self, number: u64, decision: Decision) -> Result<()> {
        self.check_up()?;
        let Some(entry) = self.halves.remove(&number) else {
            return Err(fail(ErrorKind::Rejected, "the half message was decided already")
                .with_hint("the check may have been asked before; what it answered counts"));
        };
        let now = self.clock.now();
        let Some(state) = self.topics.get_mut(&entry.topic) else { return Err(no_topic(entry.message.topic())) };
        match decision {
            Decision::Commit => {
                self.place(entry.topic, &entry.message, entry.size, &Destination::Topic, None, now).map(drop)
            }
            Decision::Rollback => {
                state.forget(entry.size);
                Ok(())
            }
        }
    }

    /// What producers of this name are to be asked about now, and when there will be more. Each is asked about again
    /// after another while, unless it was decided.
    pub(super) fn ask_back(&mut self, name: &Group) -> (Vec<(u64, Message)>, Option<SystemTime>) {
        if self.plan.down || self.plan.stalled {
            return (Vec::new(), None);
        }
        let (now, next) = (self.clock.now(), self.clock.after(self.config.check_back));
        let Self { halves, topics, .. } = self;
        // Nobody can see those of a topic that is gone.
        halves.retain(|_, entry| topics.contains_key(&entry.topic));
        let mut due = Vec::new();
        for (number, entry) in halves.iter_mut().filter(|(_, entry)| entry.name == *name && entry.ask <= now) {
            entry.ask = next;
            due.push((*number, entry.message.clone()));
            if due.len() == AT_ONCE {
                break;
            }
        }
        (due, halves.values().filter(|entry| entry.name == *name).map(|entry| entry.ask).min())
    }
}
