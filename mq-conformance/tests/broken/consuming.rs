//! Drivers that spoil what is received.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{ConsumerDriver, ConsumerSpec, Event, Incoming, Origin};
use mq_core::error::Result;
use mq_core::message::Control;

use mq_conformance::spoil::Mischief;

fn messages(events: &mut [Event], first: usize) -> impl Iterator<Item = &mut Incoming> {
    events.iter_mut().skip(first).filter_map(|event| match event {
        Event::Message(incoming) => Some(incoming),
        _ => None,
    })
}

/// Says attempt 1, whatever was recorded.
#[derive(Debug, Default)]
pub(crate) struct ForgetsAttempts;

impl Mischief for ForgetsAttempts {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        messages(events, first).for_each(|incoming| incoming.control.attempt = 1);
    }
}

/// Counts redeliveries as attempts.
#[derive(Debug, Default)]
pub(crate) struct BlamesForRedeliveries;

impl Mischief for BlamesForRedeliveries {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        messages(events, first).for_each(|incoming| incoming.control.attempt += incoming.redeliveries);
    }
}

/// Believes control headers wherever they come from.
#[derive(Debug, Default)]
pub(crate) struct TrustsForgedHeaders;

impl Mischief for TrustsForgedHeaders {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        for incoming in messages(events, first).filter(|incoming| incoming.origin == Origin::Topic) {
            incoming.control = Control::read(incoming.message.headers());
        }
    }
}

/// Hands a message to the consumer twice.
#[derive(Debug, Default)]
pub(crate) struct DeliversTwice(Mutex<bool>);

impl Mischief for DeliversTwice {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let mut done = self.0.lock().unwrap();
        if *done {
            return;
        }
        let copy = messages(events, first).next().map(|incoming| copy(incoming));
        if let Some(copy) = copy {
            *done = true;
            events.push(Event::Message(copy));
        }
    }
}

/// Hands messages of a key out in another order when several are there.
#[derive(Debug, Default)]
pub(crate) struct ReordersAKey;

impl Mischief for ReordersAKey {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        if let Some(fresh) = events.get_mut(first..) {
            fresh.reverse();
        }
    }
}

/// Takes as much as there is.
#[derive(Debug, Default)]
pub(crate) struct IgnoresPrefetch;

impl Mischief for IgnoresPrefetch {
    fn opening(&self, spec: &mut ConsumerSpec) {
        spec.prefetch = 10_000;
    }
}

/// Goes on receiving while paused.
#[derive(Debug, Default)]
pub(crate) struct NeverPauses;

#[async_trait]
impl Mischief for NeverPauses {
    async fn pause(&self, _on: &mut dyn ConsumerDriver, _paused: bool) -> Result<()> {
        Ok(())
    }
}

/// Keeps what was not settled when the consumer closes.
#[derive(Debug, Default)]
pub(crate) struct LeaksOnClose(Mutex<Vec<Box<dyn ConsumerDriver>>>);

#[async_trait]
impl Mischief for LeaksOnClose {
    async fn close(&self, consumer: Box<dyn ConsumerDriver>, _deadline: Duration) -> Result<()> {
        self.0.lock().unwrap().push(consumer);
        Ok(())
    }
}

/// Hands over every message twice, at once: two handlers run it.
#[derive(Debug, Default)]
pub(crate) struct RunsTwiceAtOnce;

impl Mischief for RunsTwiceAtOnce {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let copies: Vec<Incoming> = messages(events, first).map(|incoming| copy(incoming)).collect();
        events.extend(copies.into_iter().map(Event::Message));
    }
}

fn copy(incoming: &Incoming) -> Incoming {
    Incoming {
        token: incoming.token,
        message: incoming.message.clone(),
        position: incoming.position.clone(),
        control: incoming.control.clone(),
        redeliveries: incoming.redeliveries,
        redelivered: incoming.redelivered,
        origin: incoming.origin,
    }
}
