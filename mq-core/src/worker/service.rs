//! The worker as it runs.

use std::fmt;
use std::future::Future;
use std::hash::RandomState;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::capability::Feature;
use crate::driver::{ConsumerDriver, ConsumerSpec, SettlerDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::event::WorkerEvent;
use crate::handler::Handler;
use crate::reach;
use crate::subscription::Subscription;
use crate::worker::control::{Control, WorkerHandle};
use crate::worker::coordinator::Coordinator;
use crate::worker::handled::Handled;
use crate::worker::intake::Intake;
use crate::worker::judge::Judge;
use crate::worker::lanes::Lanes;
use crate::worker::outbox::Outgoing;
use crate::worker::pipeline::Pipeline;
use crate::worker::settings::{AckStrategy, Settings, WINDOW};
use crate::worker::shared::{Pool, Shared, hook};
use crate::worker::side::Side;
use crate::worker::summary::{Ended, Summary};
use crate::worker::window::Window;
use crate::worker::{audit, background, drive};

/// A worker with its handler, ready to run.
#[must_use = "a worker does nothing until it is run"]
pub struct Service<H> {
    broker: Broker,
    subscription: Subscription,
    settings: Settings,
    handler: H,
    control: Arc<Control>,
}

impl<H: Handler> Service<H> {
    pub(crate) fn new(broker: Broker, subscription: Subscription, settings: Settings, handler: H) -> Self {
        let control = Arc::new(Control::new(settings.rate));
        Self { broker, subscription, settings, handler, control }
    }

    /// What it was made of, to be put together again around another handler.
    #[cfg(feature = "testing")]
    pub(crate) fn into_parts(self) -> (Broker, Subscription, Settings, H) {
        (self.broker, self.subscription, self.settings, self.handler)
    }

    /// Steers the worker while it runs: pause, rate, stop, lag.
    pub fn control(&self) -> WorkerHandle {
        WorkerHandle::new(Arc::clone(&self.control), self.broker.clone(), self.subscription.clone())
    }

    /// Runs until `shutdown` completes, then drains: no new work, running handlers may finish within the drain limit,
    /// the rest goes back to the broker without blame, acknowledgements are flushed last.
    ///
    /// Survives a restart of the broker, and waits for one that is not there yet. Beside the subscription it runs what
    /// the broker needs to make delayed messages due.
    ///
    /// # Errors
    /// At start: what the broker cannot do ([`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)), settings that
    /// contradict themselves, a broker that refuses, a set-up that would lose messages
    /// ([`ErrorKind::TopologyConflict`](crate::ErrorKind::TopologyConflict)). Later: a subscription that cannot go on (the topic or the
    /// permission is gone); the worker then drains first.
    ///
    /// # Cancel safety
    /// Dropping the future is like a crash: nothing is lost, and what was not settled is delivered again.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Summary> {
        let spec = self.settings.spec(&self.broker, &self.subscription, self.handler.batch_size())?;
        let (prefetch, auto_ack) = (spec.prefetch, spec.auto_ack);
        let mut shutdown: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(shutdown);
        let opened = tokio::select! {
            biased;
            opened = self.open(spec.clone()) => opened.map_err(|error| error.with_operation("start worker"))?,
            () = shutdown.as_mut() => return Ok(self.control.counts.summary(Ended::Shutdown)),
        };
        let Some((consumer, settler)) = opened else {
            return Ok(self.control.counts.summary(Ended::Shutdown));
        };
        if let Err(refusal) = audit::at_start(&self.broker, &spec, self.settings.timeout).await {
            let _ = consumer.close(spec.drain).await;
            return Err(refusal.with_operation("start worker"));
        }
        let background = background::Background::start(self.broker.clone(), self.settings.observer.clone());
        let drain = self.settings.drain;
        let coordinator = self.coordinator(consumer, settler, prefetch, auto_ack, shutdown);
        coordinator.shared().event(&WorkerEvent::Started);
        let result = drive::drive(coordinator).await;
        background.stop(drain).await;
        result
    }

    /// Opens the subscription; waits for a broker that is not there yet. `None` when it was stopped meanwhile.
    async fn open(&self, spec: ConsumerSpec) -> Result<Option<(Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>)>> {
        let mut wait = reach::first();
        loop {
            let error = match self.broker.driver().open_consumer(spec.clone()).await {
                Ok(opened) => return Ok(Some(opened)),
                // Not there, or there and silent: both may pass.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => error,
                Err(error) => return Err(error),
            };
            tracing::warn!(%error, again_in = ?wait, "the broker cannot be reached yet; the worker waits for it");
            if let Some(observer) = &self.settings.observer {
                hook("observer", || observer.event(&WorkerEvent::Unreachable { error: &error, again_in: wait }));
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.control.changed.notified() => {}
            }
            if self.control.stop.load(Ordering::Acquire) {
                return Ok(None);
            }
            wait = reach::next(wait);
        }
    }

    /// Runs until it is stopped through its [`control`](Self::control), or ends by itself.
    ///
    /// # Errors
    /// Those of [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<Summary> {
        self.run_until(std::future::pending()).await
    }

    fn coordinator(
        self,
        consumer: Box<dyn ConsumerDriver>,
        settler: Arc<dyn SettlerDriver>,
        prefetch: usize,
        auto_ack: bool,
        shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Coordinator<H> {
        let Self { broker, subscription, settings, handler, control } = self;
        let slots = settings.concurrency.limit();
        let keep_order = settings.keeps_order();
        let keyed = settings.keyed();
        let window = if keep_order { Window::new(WINDOW.0, WINDOW.1) } else { Window::new(0, 0) };
        let can_pause = broker.capabilities().supports(Feature::Pause);
        let shared = Arc::new(Shared {
            clock: broker.driver().clock(),
            group: subscription.group().cloned(),
            judge: Judge {
                retry: settings.policy(),
                tiers: settings.tiers(&subscription),
                classification: settings.classification,
            },
            lease: settler.lease(),
            settler,
            broker,
            keep_order,
            sequential: matches!(settings.concurrency, super::Concurrency::Sequential),
            auto_ack,
            gather: match settings.ack {
                AckStrategy::Batched { max, every } => Some((max.max(1), every)),
                AckStrategy::Auto | AckStrategy::Manual => None,
            },
            timeout: settings.timeout,
            guard: settings.guard,
            guard_lease: settings.guard_lease,
            observer: settings.observer,
            on_dead_letter: settings.on_dead_letter,
            producer: OnceCell::new(),
            control,
            outgoing: Outgoing::default(),
            side: Side::default(),
            lanes: Mutex::new(Lanes::new(slots, window)),
            work: Notify::new(),
            signals: (0..slots).map(|_| Notify::new()).collect(),
            handled: Mutex::new(Handled::new(prefetch.saturating_mul(2).clamp(1024, 65_536))),
            unrecorded: Mutex::default(),
            pool: Mutex::new(Pool::new(prefetch.min(4096))),
            outstanding: AtomicUsize::new(0),
            attentive: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
        });
        Coordinator {
            pipeline: Arc::new(Pipeline { shared, handler }),
            consumer,
            intake: Intake {
                prefetch,
                crash_limit: settings.crash_limit,
                keyed,
                key: settings.key,
                id: settings.id,
                left: settings.max,
                hasher: RandomState::new(),
                arrived: Vec::new(),
                free: Vec::new(),
            },
            shutdown,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            drain: settings.drain,
            idle: settings.idle,
            last_message: Instant::now(),
            events: Vec::new(),
            revoking: Vec::new(),
            paused: false,
            can_pause,
            stopping: None,
            overdue: false,
            broken: false,
        }
    }
}

impl<H> fmt::Debug for Service<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("subscription", &self.subscription)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A task of the worker ended although it must not.
pub(crate) fn task_ended(error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, format!("a task of the worker ended: {error}"))
}
