//! Workers whose handlers record what they do.

use std::sync::Arc;
use std::time::Duration;

use mq_core::handler::Handler;
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::{Broker, Context, HandlerError, Service, Subscription, Summary, Worker, WorkerHandle};
use tokio::task::JoinHandle;

use crate::failure::{Failure, Verdict};
use crate::history::{Action, History, What};
use crate::lab::Lab;
use crate::reader::ident;

/// Records what a handler does; cheap to clone into closures.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    history: History,
    group: Arc<str>,
}

impl Log {
    pub(crate) fn new(lab: &Lab, group: &Group) -> Self {
        Self { history: lab.history().clone(), group: Arc::from(group.as_str()) }
    }

    /// The handler begins.
    pub(crate) fn begin(&self, context: &Context) {
        let id = ident(context.message());
        self.history.note(&id, &*self.group, What::Delivered { attempt: context.attempt() });
        self.history.note(&id, &*self.group, What::Started);
    }

    /// The handler is about to end, and `action` is what must become of the message.
    pub(crate) fn end(&self, context: &Context, action: Action, delay: Option<Duration>) {
        let id = ident(context.message());
        self.history.note(&id, &*self.group, What::Finished);
        let due = delay.map(|delay| self.history.now() + delay);
        self.history.note(&id, &*self.group, What::Settled { action, due });
    }

    /// The handler is about to succeed.
    pub(crate) fn done(&self, context: &Context) {
        self.end(context, Action::Ack, None);
    }

    /// The handler is about to ask for a retry after `delay`.
    pub(crate) fn retry(&self, context: &Context, delay: Duration) -> HandlerError {
        self.end(context, Action::Retry, Some(delay));
        HandlerError::retry("not yet")
    }

    /// The handler is about to fail for the last time: the message must become a dead letter.
    pub(crate) fn last(&self, context: &Context) -> HandlerError {
        self.end(context, Action::DeadLetter, None);
        HandlerError::retry("never")
    }
}

/// A worker under way; ends with the scenario at the latest.
#[derive(Debug)]
pub(crate) struct Running {
    /// To steer it.
    pub(crate) handle: WorkerHandle,
    task: Option<JoinHandle<mq_core::Result<Summary>>>,
}

impl Running {
    /// Starts a worker.
    pub(crate) fn start<H: Handler>(service: Service<H>) -> Self {
        let handle = service.control();
        Self { handle, task: Some(tokio::spawn(service.run())) }
    }

    /// Stops it, and waits for its end.
    pub(crate) async fn stop(mut self) -> Verdict<Summary> {
        self.handle.stop();
        self.join(Duration::from_secs(45)).await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(mut self, limit: Duration) -> Verdict<Summary> {
        self.join(limit).await
    }

    async fn join(&mut self, limit: Duration) -> Verdict<Summary> {
        let Some(task) = self.task.as_mut() else { return Err(Failure::new("the worker was joined twice")) };
        let ended = tokio::time::timeout(limit, task).await;
        let ended = ended.map_err(|_| Failure::new(format!("the worker did not end within {limit:?}")))?;
        Ok(ended.map_err(|error| Failure::new(format!("the worker panicked: {error}")))??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// A worker of a group on a connection, with what every scenario wants: a short drain.
pub(crate) fn worker(broker: &Broker, topic: &Topic, group: &Group) -> Worker {
    Worker::new(broker, Subscription::new(topic, group)).drain(Duration::from_secs(10))
}

/// The number in the id of a message made by the lab.
pub(crate) fn number(message: &Message) -> usize {
    ident(message).trim_start_matches('m').parse().unwrap_or(usize::MAX)
}
