//! Messages coming in: how many may, which are set aside at once, and which lane each waits on.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use crate::dead_letter::DeadLetterReason;
use crate::driver::{Incoming, Origin};
use crate::event::WorkerEvent;
use crate::message::{Message, MessageId};
use crate::worker::conclude::settle_ack;
use crate::worker::context::Context;
use crate::worker::outbox::Outbox;
use crate::worker::republish;
use crate::worker::shared::{Shared, hook};

/// Says what a message's key is.
pub(crate) type KeyExtractor = Arc<dyn Fn(&Message) -> Option<Bytes> + Send + Sync>;
/// Says what a message's id is.
pub(crate) type IdExtractor = Arc<dyn Fn(&Message) -> Option<MessageId> + Send + Sync>;

/// The way of messages into the lanes.
pub(crate) struct Intake {
    pub(crate) prefetch: usize,
    pub(crate) crash_limit: u32,
    /// Messages of one key run one at a time.
    pub(crate) keyed: bool,
    pub(crate) key: Option<KeyExtractor>,
    pub(crate) id: Option<IdExtractor>,
    /// How many more may be taken in.
    pub(crate) left: Option<u64>,
    pub(crate) hasher: RandomState,
    /// Of one poll, before they are handed out together.
    pub(crate) arrived: Vec<Context>,
    pub(crate) free: Vec<Context>,
}

impl Intake {
    /// How many messages may be taken in now.
    pub(crate) fn room(&self, shared: &Shared) -> usize {
        let held = shared.outstanding.load(Ordering::Acquire);
        // Nothing is parked without a window, and most workers have none.
        let windowed = if shared.keep_order { shared.lanes().windowed() } else { 0 };
        let room = (self.prefetch + windowed).saturating_sub(held);
        self.left.map_or(room, |left| room.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    /// Only so many are to be taken in.
    pub(crate) fn is_limited(&self) -> bool {
        self.left.is_some()
    }

    /// That many were.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.left == Some(0)
    }

    /// Counts messages about to be taken in: before the first of them can end.
    pub(crate) fn count(&mut self, shared: &Shared, messages: usize) {
        self.left = self.left.map(|left| left.saturating_sub(messages as u64));
        shared.control.counts.received.add(messages);
        shared.outstanding.fetch_add(messages, Ordering::AcqRel);
    }

    /// Takes in one message; something of no use is left in its place.
    pub(crate) fn take_in(&mut self, shared: &Arc<Shared>, incoming: &mut Incoming, outbox: &mut Outbox) {
        let (redeliveries, redelivered) = (incoming.redeliveries, incoming.redelivered);
        let mut context = self.context(shared, incoming);
        if let Some(extract) = &self.id
            && let Some(id) = hook("id_extractor", || extract(context.message()))
        {
            context.job_mut().id = Some(id);
        }
        if redelivered && context.identity().is_some_and(|identity| shared.handled().knows(&identity)) {
            shared.control.counts.duplicates.one();
            shared.event(&WorkerEvent::Duplicate(&context));
            settle_ack(shared, context, outbox);
            return;
        }
        if redeliveries > self.crash_limit && !shared.auto_ack {
            let error = format!("delivered {redeliveries} times without being settled: does it kill its handlers?");
            republish::dead_letter(shared, context, DeadLetterReason::CrashLimit, error);
            return;
        }
        if self.keyed {
            let key = match &self.key {
                Some(extract) => {
                    hook("key_extractor", || extract(context.message())).map(|key| self.hasher.hash_one(&key[..]))
                }
                None => context.message().key_bytes().map(|key| self.hasher.hash_one(&key[..])),
            };
            context.job_mut().key = key;
        }
        self.arrived.push(context);
    }

    fn context(&mut self, shared: &Shared, incoming: &mut Incoming) -> Context {
        if self.free.is_empty() {
            shared.pool().swap(&mut self.free);
        }
        self.free.pop().unwrap_or_else(Context::blank).fill(incoming)
    }

    /// Puts what has arrived on its lanes.
    pub(crate) fn hand_out(&mut self, shared: &Shared) {
        if self.arrived.is_empty() {
            return;
        }
        let mut runnable = 0;
        {
            let mut lanes = shared.lanes();
            for context in self.arrived.drain(..) {
                runnable += usize::from(match resting(shared, &context) {
                    None => lanes.push(context),
                    Some(until) => lanes.push_resting(context, until),
                });
            }
        }
        if shared.sequential {
            return;
        }
        for _ in 0..runnable.min(shared.signals.len()) {
            shared.work.notify_one();
        }
    }
}

/// Until when a message rests that an earlier worker held for the order of its key. Brokers that record no due time
/// beside the attempt would hand it over early; the whole delay from now on is never too short.
fn resting(shared: &Shared, context: &Context) -> Option<Instant> {
    let control = context.control();
    if !shared.keep_order || control.attempt < 2 || context.origin() != Origin::Topic {
        return None;
    }
    let wait = match control.due {
        Some(due) => shared.clock.until(due),
        None => shared.judge.retry.delay_after(control.attempt - 1).unwrap_or_default(),
    };
    (!wait.is_zero()).then(|| Instant::now() + wait)
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("prefetch", &self.prefetch).field("keyed", &self.keyed).finish_non_exhaustive()
    }
}
