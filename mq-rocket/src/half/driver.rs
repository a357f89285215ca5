//! A producer of half messages.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::driver::{CheckBack, Decision, Half, HalfDriver};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::{Message, MessageId};
use mq_core::name::Group;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::asked;
use super::decided::Decided;
use super::presence::Presence;
use super::ticket::Ticket;
use crate::core::Core;
use crate::error::{BACKEND, error};
use crate::lanes;
use crate::names;
use crate::producer::check_sendable;
use crate::remoting::{Command, Failure};
use crate::route::Node;
use crate::sending;
use crate::wire;

/// Questions read and not yet looked at; a broker asks again about those beyond.
const QUESTIONS: usize = 1024;

/// What saves a decision whose answer was lost.
const ASKED_BACK: &str =
    "nothing is lost: the broker asks the check about it; a commit that got through may come twice then, under one id";

/// What the tasks of one producer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) group: String,
    pub(super) decided: Decided,
    presence: Presence,
    turn: AtomicUsize,
    closed: AtomicBool,
}

/// A producer of half messages under the name of a group.
pub(crate) struct RocketHalf {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl RocketHalf {
    /// Opens it: brokers know of it when this returns.
    pub(crate) async fn open(core: Arc<Core>, name: &Group, check: Arc<dyn CheckBack>) -> Result<Self> {
        let deadline = core.deadline();
        let group = names::group(name);
        let (sender, questions) = mpsc::channel(QUESTIONS);
        let client = format!("mq-{}", MessageId::generate(SystemTime::now()));
        let presence = Presence::new(Arc::clone(&core), client, group.clone(), sender);
        let mut outcomes = presence.tell(deadline).await?;
        if outcomes.iter().all(Result::is_err)
            && let Some(Err(cause)) = outcomes.pop()
        {
            return Err(cause);
        }
        let shared = Arc::new(Shared {
            core,
            group,
            decided: Decided::default(),
            presence,
            turn: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let keep = Arc::clone(&shared);
        let tasks = [
            tokio::spawn(async move { keep.presence.keep().await }),
            tokio::spawn(asked::answer(Arc::clone(&shared), questions, check)),
        ];
        Ok(Self { shared, tasks })
    }
}

impl Shared {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("half producer").with_backend(BACKEND));
        }
        self.core.check_open()
    }

    /// Asks a broker to end a transaction, and waits for its answer.
    pub(super) async fn end(&self, address: &str, command: Command, deadline: Instant) -> Result<()> {
        let answer = sending::call(&self.presence.link(address), &command, deadline, deadline).await;
        answer.map_err(unanswered)?.success().map(drop)
    }
}

fn unanswered(failure: Failure) -> Error {
    match failure {
        Failure::NotSent(cause) => cause,
        Failure::Unknown(cause) => cause.ambiguous().with_hint(ASKED_BACK),
    }
}

#[async_trait]
impl HalfDriver for RocketHalf {
    async fn prepare(&self, message: Message) -> Result<Half> {
        let shared = &self.shared;
        shared.check_open()?;
        check_sendable(&message, shared.core.config.max_message_bytes)?;
        let deadline = Instant::now() + shared.core.config.send_timeout;
        let topic = names::topic(message.topic())?;
        let mut encoded = wire::encode(&message)?;
        let id = wire::half(&mut encoded, message.topic(), &topic, &shared.group);
        let (queue, answer) = loop {
            let queues = shared.core.writable(&topic, deadline).await?;
            let keyed = shared.core.routes.keyed(&topic);
            let there = |node: &Node| !shared.core.away.contains(node);
            let any = || lanes::pick(&queues, &shared.turn, |queue| &queue.broker, there);
            let queue = match lanes::key_queue(&message, keyed.len()) {
                Some(index) => keyed.get(index),
                None => any().and_then(|index| queues.get(index)),
            };
            let queue = queue.ok_or_else(|| error(ErrorKind::Internal, "the topic has no queue"))?;
            let command = sending::half(&topic, queue, &encoded, &shared.group);
            let link = shared.presence.link(&shared.core.routes.address(&queue.broker));
            // The key of a message keeps its broker; without one another can do it as well.
            let others = message.key_bytes().is_none() && queues.iter().any(|other| other.broker != queue.broker);
            match sending::call(&link, &command, Core::reach(deadline, others), deadline).await {
                Ok(answer) => break (queue.clone(), answer),
                Err(Failure::NotSent(cause)) if others && cause.is_transient() && Instant::now() < deadline => {
                    shared.core.away.add(&queue.broker);
                }
                Err(failure) => return Err(sending::failed(failure)),
            }
        };
        if let Err(cause) = sending::stored(&answer) {
            shared.core.forget_route(&topic);
            return Err(cause.with_context("topic", message.topic()));
        }
        Ticket::of_stored(&answer, &queue.broker.name, &topic, &id)?.half()
    }

    async fn decide(&self, half: &Half, decision: Decision) -> Result<()> {
        let shared = &self.shared;
        shared.check_open()?;
        let deadline = Instant::now() + shared.core.config.send_timeout;
        let ticket = Ticket::read(half)?;
        let nodes = shared.core.nodes(deadline).await?;
        let node = nodes.iter().find(|node| node.name == ticket.broker).ok_or_else(|| {
            error(ErrorKind::Unavailable, "the broker that has the half message is away")
                .with_context("broker", &ticket.broker)
        })?;
        let cell = shared.decided.of(&ticket.transaction);
        let told = tokio::time::timeout_at(deadline, cell.lock()).await;
        let mut told = told.map_err(|_| error(ErrorKind::Unavailable, "the answer of the check is still under way"))?;
        match *told {
            None => {}
            Some(before) if before == decision => return Ok(()),
            Some(_) => {
                return Err(error(ErrorKind::Rejected, "the check was asked before, and has decided otherwise")
                    .with_hint("let the check say Unknown while the transaction may be under way"));
            }
        }
        shared.end(&node.address, ticket.decide(&shared.group, decision, false), deadline).await?;
        *told = Some(decision);
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            self.shared.presence.leave(Instant::now() + deadline).await;
            self.tasks.iter().for_each(JoinHandle::abort);
            // The task that keeps it may have connected again in between.
            self.shared.presence.end();
        }
        Ok(())
    }
}

impl Drop for RocketHalf {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.presence.end();
    }
}

impl fmt::Debug for RocketHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocketHalf").field("group", &self.shared.group).finish_non_exhaustive()
    }
}
