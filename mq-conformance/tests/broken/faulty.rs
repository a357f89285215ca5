//! Drivers that are sound until something breaks.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use mq_core::driver::{ConsumerSpec, Event, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::Result;

use mq_conformance::spoil::Mischief;

/// Tells the broker at receipt that a message is done, as a client does that commits what it has fetched.
#[derive(Debug, Default)]
pub(crate) struct CommitsTooEarly;

#[async_trait]
impl Mischief for CommitsTooEarly {
    fn opening(&self, spec: &mut ConsumerSpec) {
        spec.auto_ack = true;
    }

    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let acked = |settlement: &Settlement| matches!(settlement.action, Settle::Ack);
        if batch.iter().all(acked) {
            return batch.drain(..).map(|_| Ok(Settled::Durable)).collect();
        }
        to.settle(batch).await
    }
}

/// Comes back from a lost connection and receives nothing.
#[derive(Debug, Default)]
pub(crate) struct ForgetsOnReconnect(AtomicBool);

#[async_trait]
impl Mischief for ForgetsOnReconnect {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        if events.iter().skip(first).any(|event| matches!(event, Event::Reconnected)) {
            self.0.store(true, Ordering::SeqCst);
        }
        if self.0.load(Ordering::SeqCst) {
            let mut index = 0;
            events.retain(|event| {
                index += 1;
                index <= first || !matches!(event, Event::Message(_))
            });
        }
    }
}

/// Takes what belongs to a session that is over for the delivery of the present one that has the same number.
#[derive(Debug, Default)]
pub(crate) struct AcksStale(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    /// The number of each delivery in its session.
    numbers: HashMap<Token, usize>,
    present: Vec<Token>,
}

#[async_trait]
impl Mischief for AcksStale {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let mut sessions = self.0.lock().unwrap();
        for event in events.iter().skip(first) {
            match event {
                Event::Reconnected => sessions.present.clear(),
                Event::Message(incoming) => {
                    let number = sessions.present.len();
                    sessions.numbers.insert(incoming.token, number);
                    sessions.present.push(incoming.token);
                }
                _ => {}
            }
        }
    }

    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        {
            let sessions = self.0.lock().unwrap();
            for settlement in batch.iter_mut() {
                let number = sessions.numbers.get(&settlement.token);
                if let Some(token) = number.and_then(|number| sessions.present.get(*number)) {
                    settlement.token = *token;
                }
            }
        }
        to.settle(batch).await
    }
}

/// Gathers acks, and forgets on closing those it still has.
#[derive(Debug, Default)]
pub(crate) struct LosesTheLastBatch(Mutex<HashMap<u32, Vec<Settlement>>>);

#[async_trait]
impl Mischief for LosesTheLastBatch {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let acked = |settlement: &Settlement| matches!(settlement.action, Settle::Ack);
        if !batch.iter().all(acked) {
            return to.settle(batch).await;
        }
        let count = batch.len();
        let Some(session) = batch.first().map(|settlement| settlement.token.epoch) else { return Vec::new() };
        let mut full = {
            let mut sessions = self.0.lock().unwrap();
            let gathered = sessions.entry(session).or_default();
            gathered.append(batch);
            if gathered.len() < 6 { Vec::new() } else { std::mem::take(gathered) }
        };
        if !full.is_empty() {
            to.settle(&mut full).await;
        }
        (0..count).map(|_| Ok(Settled::Sent)).collect()
    }
}
