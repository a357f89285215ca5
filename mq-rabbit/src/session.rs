//! What a consumer and its settler share: the present channel, its epoch, and what is settled on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions};
use mq_core::driver::{Settled, Token};
use mq_core::error::{Error, Result};
use mq_core::message::MessageId;

use crate::acks::AckWindow;
use crate::error::{BACKEND, within};

/// How long an acknowledgement waits for others to go with it.
const GATHER: Duration = Duration::from_millis(5);
/// How long what is given back in an ordered group waits for the consumer to say that it takes nothing any more.
const HESITATION: Duration = Duration::from_millis(50);

/// The present session of a consumer.
#[derive(Debug)]
pub(crate) struct Session {
    state: Mutex<State>,
    prefetch: u16,
    ordered: bool,
    /// The most settled deliveries the broker is not told of yet: they would come again after a crash.
    untold: usize,
}

#[derive(Debug, Default)]
struct State {
    epoch: u32,
    channel: Option<Arc<Channel>>,
    window: AckWindow,
    flushing: bool,
    /// The consumer takes nothing for now, or nothing any more.
    paused: bool,
    /// In an ordered group: given back, and the broker not told yet.
    leaving: Vec<(u64, Return)>,
    hesitating: bool,
    /// In an ordered group: ids of what is unsettled, and whether an attempt of it is recorded.
    held: HashMap<u64, (MessageId, bool)>,
}

/// How a delivery goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// Counts, on every version.
    Requeue,
    /// Does not count from RabbitMQ 4.3 on.
    Release,
    /// Not at all: the broker moves it to the dead letters of the queue.
    DeadLetter,
}

impl Session {
    /// For a channel with this prefetch, of which so many are handed out at once; the others are parked.
    pub(crate) fn new(prefetch: u16, handed_out: usize, ordered: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), prefetch, ordered, untold: handed_out / 8 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new channel takes over; returns its epoch.
    pub(crate) fn begin(&self, channel: Arc<Channel>) -> u32 {
        let mut state = self.state();
        let epoch = state.epoch.wrapping_add(1);
        *state = State { epoch, channel: Some(channel), paused: state.paused, ..State::default() };
        epoch
    }

    /// The channel is gone: every delivery of it is stale.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.epoch = state.epoch.wrapping_add(1);
        state.channel = None;
        state.held.clear();
        state.leaving.clear();
    }

    /// Remembers the id of a delivery of an ordered group.
    pub(crate) fn hold(&self, token: Token, id: MessageId, recorded: bool) {
        let mut state = self.state();
        if state.epoch == token.epoch {
            state.held.insert(token.major, (id, recorded));
        }
    }

    /// The id of an unsettled delivery of an ordered group, of which an attempt is now recorded.
    pub(crate) fn record(&self, token: Token) -> Option<MessageId> {
        let mut state = self.state();
        if state.epoch != token.epoch {
            return None;
        }
        let (id, recorded) = state.held.get_mut(&token.major)?;
        *recorded = true;
        Some(id.clone())
    }

    /// True while the delivery can be settled.
    pub(crate) fn is_current(&self, token: Token) -> bool {
        let state = self.state();
        state.epoch == token.epoch && state.channel.as_ref().is_some_and(|channel| channel.status().connected())
    }

    /// Acknowledges deliveries; one result each, and the ids whose recorded attempts are no longer needed.
    pub(crate) fn ack(self: &Arc<Self>, tokens: &[Token]) -> (Vec<Settled>, Vec<(u32, MessageId)>) {
        let mut state = self.state();
        let mut forget = Vec::new();
        let mut results = Vec::with_capacity(tokens.len());
        let usable = state.channel.as_ref().is_some_and(|channel| channel.status().connected());
        for token in tokens {
            if !usable || token.epoch != state.epoch {
                results.push(Settled::Stale);
                continue;
            }
            if !state.held.is_empty()
                && let Some((id, true)) = state.held.remove(&token.major)
            {
                forget.push((token.lane, id));
            }
            let fresh = state.window.settle(token.major);
            results.push(if fresh { Settled::Sent } else { Settled::Stale });
        }
        if state.send(self.untold) {
            drop(state);
            let session = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                let mut state = session.state();
                state.flushing = false;
                state.send(0);
            });
        }
        (results, forget)
    }

    /// Gives a delivery back.
    ///
    /// The broker sends it again at once, to this very consumer when the group is ordered, behind what was sent
    /// meanwhile. While the consumer takes nothing that would only turn the order round: what it has goes back as a
    /// whole when the channel ends. So in an ordered group the broker is told a moment later, and not during a pause.
    pub(crate) fn give_back(self: &Arc<Self>, token: Token, how: Return) -> Settled {
        let mut state = self.state();
        if token.epoch != state.epoch {
            return Settled::Stale;
        }
        let Some(channel) = state.channel.clone().filter(|channel| channel.status().connected()) else {
            return Settled::Stale;
        };
        state.held.remove(&token.major);
        if !self.ordered || how == Return::DeadLetter {
            return if state.window.gone(token.major) { reject(&channel, token.major, how) } else { Settled::Stale };
        }
        if !state.window.is_open(token.major) || state.leaving.iter().any(|(tag, _)| *tag == token.major) {
            return Settled::Stale;
        }
        state.leaving.push((token.major, how));
        if !state.hesitating && !state.paused {
            state.hesitating = true;
            drop(state);
            let session = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(HESITATION).await;
                let mut state = session.state();
                state.hesitating = false;
                state.send_back();
            });
        }
        Settled::Sent
    }

    /// The consumer takes nothing until told otherwise.
    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.state();
        state.paused = paused;
        state.send_back();
    }

    /// Makes what was settled durable: sends every acknowledgement, then asks the broker something on the same channel.
    /// Its answer comes after it has read them all.
    pub(crate) async fn flush(&self, limit: Duration) -> Result<()> {
        let channel = {
            let mut state = self.state();
            state.send(0);
            state.channel.clone()
        };
        let Some(channel) = channel.filter(|channel| channel.status().connected()) else {
            // What was not read by the broker is delivered again: the declared window of duplicates.
            return Err(Error::new(mq_core::error::ErrorKind::Unavailable, "the session ended before the flush")
                .with_backend(BACKEND));
        };
        within(limit, channel.basic_qos(self.prefetch, BasicQosOptions { global: false })).await
    }
}

/// Polling once queues the frame; nobody needs to wait for the socket.
fn reject(channel: &Channel, tag: u64, how: Return) -> Settled {
    let sent = match how {
        Return::Requeue | Return::DeadLetter => {
            channel.basic_reject(tag, BasicRejectOptions { requeue: how == Return::Requeue }).now_or_never()
        }
        Return::Release => channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).now_or_never(),
    };
    if matches!(sent, Some(Err(_))) { Settled::Stale } else { Settled::Sent }
}

impl State {
    /// Tells the broker what goes back, unless the consumer is paused.
    fn send_back(&mut self) {
        if self.paused {
            return;
        }
        let Some(channel) = self.channel.clone() else { return };
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.sort_unstable_by_key(|(tag, _)| *tag);
        for (tag, how) in leaving {
            if self.window.gone(tag) {
                reject(&channel, tag, how);
            }
        }
    }

    /// When more than `patience` deliveries are settled and untold: tells the broker, in one for the settled prefix, and
    /// one by one for what is behind holes if that alone is too much. True when a later call must look after what still
    /// waits, and nobody is charged with it yet.
    fn send(&mut self, patience: usize) -> bool {
        let Some(channel) = self.channel.clone() else { return false };
        if self.window.waiting() > patience
            && let Some(upto) = self.window.advance()
        {
            // Polling once queues the frame; nobody needs to wait for the socket.
            let _ = channel.basic_ack(upto, BasicAckOptions { multiple: true }).now_or_never();
        }
        if self.window.waiting() > patience {
            for tag in self.window.take_waiting() {
                let _ = channel.basic_ack(tag, BasicAckOptions { multiple: false }).now_or_never();
            }
        }
        let charge = self.window.waiting() > 0 && !self.flushing;
        self.flushing |= charge;
        charge
    }
}
