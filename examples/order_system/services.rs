//! The services: each a worker with a group of its own. None of them knows of another.

use std::sync::Arc;
use std::time::Duration;

use mq::{Broker, Context, Handler, HandlerError, Json, MemoryGuard, Subscription, Topic, Worker, WorkerEvent};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::ledger::Ledger;
use crate::shop::{OrderPlaced, Service};
use crate::timeline::{Mood, Timeline};

/// What all services are started with.
#[derive(Debug, Clone)]
pub(crate) struct Street {
    pub(crate) broker: Broker,
    pub(crate) topic: Topic,
    pub(crate) timeline: Timeline,
    pub(crate) ledger: Ledger,
    /// The order in the middle of which logistics dies, the first time.
    pub(crate) fatal: &'static str,
    /// Logistics has begun with that order.
    pub(crate) begun: Arc<Notify>,
    /// The order that stock cannot handle at the first attempt.
    pub(crate) shaky: &'static str,
}

/// A service that runs.
#[derive(Debug)]
pub(crate) struct Running {
    service: Service,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<mq::Result<()>>,
}

impl Running {
    /// Ends it as a crash would: in the middle of whatever it does, with no goodbye.
    pub(crate) async fn kill(self) {
        self.task.abort();
        // Only waits until it is really gone.
        let _ = self.task.await;
    }

    /// Stops it properly: it finishes what it has begun.
    pub(crate) async fn stop(self) -> mq::Result<()> {
        let _ = self.shutdown.send(true);
        match self.task.await {
            Ok(result) => result,
            Err(error) => {
                Err(mq::Error::new(mq::ErrorKind::Internal, format!("{} died: {error}", self.service.name())))
            }
        }
    }
}

/// Starts a service; returns when its subscription stands.
pub(crate) async fn start(street: &Street, service: Service) -> mq::Result<Running> {
    let (shutdown, mut stopping) = watch::channel(false);
    let ready = Arc::new(Notify::new());
    let worker = worker(street, service, Arc::clone(&ready));
    let task = tokio::spawn(async move {
        worker.run_until(async move { drop(stopping.wait_for(|stop| *stop).await) }).await?;
        Ok(())
    });
    let mut running = Running { service, shutdown, task };
    tokio::select! {
        () = ready.notified() => Ok(running),
        ended = &mut running.task => Err(match ended {
            Ok(Err(error)) => error,
            ended => mq::Error::new(mq::ErrorKind::Internal, format!("{} ended early: {ended:?}", service.name())),
        }),
    }
}

/// The worker of a service: everything that differs between services is what its handler does.
fn worker(street: &Street, service: Service, ready: Arc<Notify>) -> mq::Service<impl Handler> {
    let handling = street.clone();
    let watching = street.clone();
    Worker::new(&street.broker, Subscription::new(&street.topic, service.name()))
        .idempotency(MemoryGuard::new())
        // The shop sets an id; a broker without lasting positions (AMQP) wants to be told that.
        .id_extractor(|message| message.message_id().cloned())
        .observe(move |event: &WorkerEvent<'_>| watching.watch(service, event, &ready))
        .handle(move |order: Json<OrderPlaced>, context: Context| {
            let street = handling.clone();
            async move { street.handle(service, &order.0, &context).await }
        })
}

impl Street {
    async fn handle(&self, service: Service, order: &OrderPlaced, context: &Context) -> Result<(), HandlerError> {
        match service {
            // The warehouse's database does not answer, once.
            Service::Stock if order.order == self.shaky && context.attempt() == 1 => {
                return Err(HandlerError::retry("the warehouse does not answer"));
            }
            Service::Stock | Service::Payment | Service::Notification => {}
            Service::Logistics => {
                if order.order == self.fatal {
                    self.begun.notify_one();
                }
                // Packing takes time.
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
        Ok(())
    }

    /// Writes down what the worker reports.
    fn watch(&self, service: Service, event: &WorkerEvent<'_>, ready: &Notify) {
        let id = |context: &Context| context.id().map(|id| id.to_string()).unwrap_or_default();
        match event {
            WorkerEvent::Started => ready.notify_one(),
            WorkerEvent::Handled { context, .. } => {
                let id = id(context);
                let at = self.timeline.service(service, format!("{id} {}", service.done()), Mood::Good);
                self.ledger.handled(service, &id, at);
            }
            WorkerEvent::Retrying { context, delay, .. } => {
                let id = id(context);
                self.timeline.service(service, format!("{id} fails, +{delay:?}"), Mood::Trouble);
                self.ledger.failed(service, &id);
            }
            WorkerEvent::DeadLettered { context, .. } => {
                let id = id(context);
                self.timeline.service(service, format!("{id} set aside"), Mood::Trouble);
                self.ledger.dead(service, &id);
            }
            WorkerEvent::Duplicate(context) => {
                let id = id(context);
                self.timeline.service(service, format!("{id} duplicate"), Mood::Plain);
                self.ledger.duplicate(service, &id);
            }
            WorkerEvent::Disconnected(why) => self.timeline.note(format!("{}: connection lost: {why}", service.name())),
            WorkerEvent::Reconnected => self.timeline.note(format!("{}: connected again", service.name())),
            _ => {}
        }
    }
}
