//! A member of a group: a worker that handles by a plan and tells what it does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mq_core::driver::BrokerDriver;
use mq_core::event::WorkerEvent;
use mq_core::handler::Handler;
use mq_core::name::{Group, Topic};
use mq_core::{AckStrategy, Broker, Concurrency, Context, HandlerError, RetryPolicy, Service, Subscription, Worker};
use serde::{Deserialize, Serialize};

use super::crash::{Crash, Crashing, End};
use super::log::{Deed, Ear, Record, Told};
use super::plan::{Answer, Plan};
use crate::reader::ident;
use crate::spoil::Spoilt;

/// What a member does, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MemberSpec {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
    pub(crate) drain: Duration,
    /// Acks are gathered: so many, or so long.
    pub(crate) batched: Option<(usize, Duration)>,
    /// Where it is to end by itself.
    pub(crate) crash: Option<Crash>,
    pub(crate) plan: Plan,
}

/// A connection as the member has it: with its end built in.
pub(crate) fn connection(driver: Arc<dyn BrokerDriver>, crash: Option<Crash>, end: End) -> Broker {
    Broker::from_driver(match crash {
        Some(crash) => Spoilt::around(driver, Arc::new(Crashing::new(crash, end))),
        None => driver,
    })
}

/// A member, ready to run.
pub(crate) fn service(broker: &Broker, spec: MemberSpec, ear: Arc<dyn Ear>) -> mq_core::Result<Service<impl Handler>> {
    let topic = Topic::parse(spec.topic.clone())?;
    let group = Group::parse(spec.group.clone())?;
    let mut retry = match spec.plan.delays.is_empty() {
        true => RetryPolicy::never(),
        false => RetryPolicy::delays(spec.plan.delays.iter().copied()),
    };
    if spec.plan.keep_order {
        retry = retry.keep_key_order();
    }
    let mut worker = Worker::new(broker, Subscription::new(&topic, &group).prefetch(spec.prefetch))
        .concurrency(Concurrency::ByKey(spec.concurrency))
        .retry(retry)
        .drain(spec.drain)
        // Every kill of a broker redelivers the whole window: that is no fault of the messages in it.
        .crash_limit(1000);
    if let Some((max, every)) = spec.batched {
        worker = worker.ack(AckStrategy::Batched { max, every });
    }
    let observed = Arc::clone(&ear);
    let worker = worker.observe(move |event: &WorkerEvent<'_>| {
        let deed = match event {
            WorkerEvent::Started => Deed::Ready,
            WorkerEvent::Disconnected(_)
            | WorkerEvent::Reconnected
            | WorkerEvent::Assigned(_)
            | WorkerEvent::Revoking(_)
            | WorkerEvent::Lost(_)
            | WorkerEvent::Stale
            | WorkerEvent::SettleFailed { .. }
            | WorkerEvent::Unreachable { .. }
            | WorkerEvent::SchedulerFailed(_) => Deed::Said(format!("{event:?}")),
            _ => return,
        };
        observed.hear(Told::now(deed));
    });
    let plan = Arc::new(spec.plan);
    let handler = move |context: Context| {
        let (plan, ear) = (Arc::clone(&plan), Arc::clone(&ear));
        async move { handle(&plan, &ear, &context).await }
    };
    Ok(worker.handle(handler))
}

async fn handle(plan: &Plan, ear: &Arc<dyn Ear>, context: &Context) -> Result<(), HandlerError> {
    let (id, attempt) = (ident(context.message()), context.attempt());
    ear.hear(Told::now(Deed::Began { id: id.clone(), attempt }));
    let mut running = Running { ear, id: Some(id.clone()) };
    tokio::time::sleep(plan.takes(&id, attempt)).await;
    let answer = plan.answer(&id, attempt);
    running.id = None;
    let (deed, outcome) = match answer {
        Answer::Success => (Deed::Succeeded { id }, Ok(())),
        // Taken before the worker takes its own: what comes before this moment is early for certain.
        Answer::Retry(delay) => {
            (Deed::Failed { id, due: SystemTime::now() + delay }, Err(HandlerError::retry("not yet")))
        }
        Answer::Hopeless => (Deed::GaveUp { id }, Err(HandlerError::dead_letter("hopeless"))),
    };
    ear.hear(Told::now(deed));
    outcome
}

/// Tells of a handler that is dropped before its end.
struct Running<'a> {
    ear: &'a Arc<dyn Ear>,
    id: Option<String>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.ear.hear(Told::now(Deed::Cancelled { id }));
        }
    }
}

/// What is written down of one member, wherever it runs: at its death, what was open ends.
#[derive(Debug)]
pub(crate) struct Witness {
    record: Record,
    member: String,
    open: Mutex<HashSet<String>>,
}

impl Witness {
    pub(crate) fn new(record: Record, member: String) -> Self {
        Self { record, member, open: Mutex::default() }
    }

    /// The member is dead: its handlers run no more.
    pub(crate) fn died(&self, at: SystemTime) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for id in open {
            self.record.write(&self.member, Told { at, deed: Deed::Cancelled { id } });
        }
    }
}

impl Ear for Witness {
    fn hear(&self, told: Told) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match &told.deed {
            Deed::Began { id, .. } => {
                open.insert(id.clone());
            }
            Deed::Succeeded { id } | Deed::Failed { id, .. } | Deed::GaveUp { id } | Deed::Cancelled { id } => {
                open.remove(id);
            }
            Deed::Ready | Deed::Said(_) | Deed::Stopped => {}
        }
        drop(open);
        self.record.write(&self.member, told);
    }
}
