//! How a run ended: what invariants are checked against.

use std::collections::BTreeSet;
use std::fmt;

use crate::memory::MemoryBroker;
use crate::testing::history::{Event, What};

/// The end of a run: all faults are over, everything was handled or set aside, every process has stopped.
pub struct Ending<'a> {
    pub(crate) memory: &'a MemoryBroker,
    pub(crate) events: &'a [Event],
}

impl Ending<'_> {
    /// The broker: what was sent, and what lies in the dead letters.
    pub fn memory(&self) -> &MemoryBroker {
        self.memory
    }

    /// Everything that happened, in order.
    pub fn events(&self) -> &[Event] {
        self.events
    }

    /// The ids of the messages whose sending was confirmed.
    pub fn confirmed(&self) -> BTreeSet<String> {
        let confirmed = self.events.iter().filter_map(|event| match &event.what {
            What::Confirmed { id, .. } => Some(id.to_string()),
            _ => None,
        });
        confirmed.collect()
    }

    /// How often a handler said that it handled this message, in all processes of all services.
    pub fn handled(&self, id: &str) -> usize {
        let handled = self
            .events
            .iter()
            .filter(|event| matches!(&event.what, What::RanTo { id: of, end, .. } if *of == id && end.is_success()));
        handled.count()
    }
}

impl fmt::Debug for Ending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("events", &self.events.len()).finish_non_exhaustive()
    }
}
