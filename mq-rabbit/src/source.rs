//! A queue a consumer reads, and the places of its group beside it.

use std::sync::Arc;
use std::time::Duration;

use mq_core::name::{Group, Topic};

use crate::core::Core;
use crate::ledger::Ledger;
use crate::names;
use crate::topology::{QueueSpec, dead_letter_queue, private_retry_queue, retry_queue};

/// One queue of a consumer.
#[derive(Debug)]
pub(crate) struct Source {
    /// The topic its messages belong to.
    pub(crate) topic: Topic,
    pub(crate) queue: String,
    /// Where messages for this group alone arrive; `queue` itself unless that is foreign.
    pub(crate) back: String,
    /// `None`: the queue is this consumer's own.
    pub(crate) group: Option<Group>,
    /// The queue is ours, hence its control headers are true.
    pub(crate) trusted: bool,
    /// In ordered groups.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

impl Source {
    /// The queues a group reads for `topic`.
    pub(crate) fn of_group(core: &Arc<Core>, topic: &Topic, group: &Group, ordered: bool) -> Vec<Self> {
        let back = names::return_queue(topic, group);
        let attempts = names::attempts_queue(topic, group);
        let ledger = ordered.then(|| Arc::new(Ledger::new(Arc::clone(core), attempts)));
        let source = |queue: String, trusted| Self {
            topic: topic.clone(),
            queue,
            back: back.clone(),
            group: Some(group.clone()),
            trusted,
            ledger: ledger.clone(),
        };
        let mut sources = vec![source(names::group_queue(topic, group), !topic.is_foreign())];
        if topic.is_foreign() {
            sources.push(source(back.clone(), true));
        }
        sources
    }

    /// The queues of one consumer's own for `topic`; `name` is theirs alone.
    pub(crate) fn private(topic: &Topic, name: &str) -> Vec<Self> {
        let back = if topic.is_foreign() { format!("{name}--return") } else { name.to_owned() };
        let source = |queue: &str, trusted| Self {
            topic: topic.clone(),
            queue: queue.to_owned(),
            back: back.clone(),
            group: None,
            trusted,
            ledger: None,
        };
        let mut sources = vec![source(name, !topic.is_foreign())];
        if topic.is_foreign() {
            sources.push(source(&back, true));
        }
        sources
    }

    pub(crate) fn group_name(&self) -> &str {
        self.group.as_ref().map_or("broadcast", Group::as_str)
    }

    /// Where a retry of `delay` waits.
    pub(crate) fn retry_queue(&self, delay: Duration) -> QueueSpec {
        match &self.group {
            Some(group) => retry_queue(&self.topic, group, delay),
            None => private_retry_queue(self.private_retry_name(delay), &self.back, delay),
        }
    }

    fn private_retry_name(&self, delay: Duration) -> String {
        format!("{}--r{}", self.back, names::millis(delay))
    }

    /// Where dead letters go; `recorded` is the group their record names.
    pub(crate) fn dead_letter_queue(&self, recorded: &Group) -> QueueSpec {
        dead_letter_queue(&self.topic, self.group.as_ref().unwrap_or(recorded))
    }
}
