//! The worker as it is put together.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::Broker;
use crate::dead_letter::DeadLetter;
use crate::event::Observer;
use crate::guard::Guard;
use crate::handler::{
    BatchFn, BatchHandler, BlockingFn, BlockingHandler, Classify, FnHandler, FromDelivery, Handler, HandlerFn, Layer,
    NoLayer, OnUnknown, Stack,
};
use crate::message::{Message, MessageId};
use crate::retry::RetryPolicy;
use crate::subscription::Subscription;
use crate::worker::rate::Rate;
use crate::worker::service::Service;
use crate::worker::settings::{AckStrategy, Concurrency, Settings};

/// The reliable loop: receives messages, runs a handler for each, and settles them by what it answers.
///
/// What is done for a message, in this order: receive, trace, crash limit, key lane, rate limit, claim at the guard,
/// decode, handler within its timeout. Then, by its answer:
/// - *success*: follow-ups are sent and confirmed, the guard completes, the message is acknowledged;
/// - *retry* with attempts left: stored as a retry and confirmed, then the guard's claim is released;
/// - *otherwise*: stored among the dead letters and confirmed, then acknowledged.
///
/// At least once: a message is settled only after its outcome is durable (except with [`AckStrategy::Auto`]). Handlers
/// may see a message twice after a crash or a lost connection; a guard keeps most of those away.
///
/// ```
/// use mq_core::{Broker, Concurrency, Context, HandlerError, Json, Message, RetryPolicy, Subscription, Worker, per_second};
/// use std::time::Duration;
///
/// # #[derive(serde::Deserialize)] struct Order { id: String, total: u64 }
/// async fn bill(order: Json<Order>, context: Context) -> Result<(), HandlerError> {
///     if order.0.total == 0 {
///         return Err(HandlerError::discard("nothing to bill"));
///     }
///     context.send(Message::new("order.billed")?.key(order.0.id))?;
///     Ok(())
/// }
///
/// # async fn run(broker: &Broker, shutdown: impl Future<Output = ()> + Send + 'static) -> mq_core::Result<()> {
/// let summary = Worker::new(broker, Subscription::new("order.placed", "billing"))
///     .concurrency(Concurrency::ByKey(16))
///     .retry(RetryPolicy::delays([1, 5, 30].map(Duration::from_secs)))
///     .rate_limit(per_second(1000))
///     .timeout(Duration::from_secs(30))
///     .handle(bill)
///     .run_until(shutdown)
///     .await?;
/// println!("{} orders billed", summary.handled);
/// # Ok(()) }
/// ```
#[must_use = "a worker does nothing until it has a handler and is run"]
pub struct Worker<L = NoLayer> {
    broker: Broker,
    subscription: Subscription,
    settings: Settings,
    layer: L,
}

impl Worker {
    /// A worker for `subscription` with the defaults: one message at a time, retries after 1 s, 5 s and 30 s, then dead
    /// letters.
    ///
    /// Prefetch is that of the subscription; by default twice the concurrency, at least 10.
    pub fn new(broker: &Broker, subscription: Subscription) -> Self {
        Self { broker: broker.clone(), subscription, settings: Settings::default(), layer: NoLayer }
    }
}

impl<L> Worker<L> {
    /// When messages are acknowledged. Default: [`AckStrategy::Manual`].
    pub fn ack(mut self, strategy: AckStrategy) -> Self {
        self.settings.ack = strategy;
        self
    }

    /// When and how often failures are tried again. Default: after 1 s, 5 s and 30 s.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = Some(policy);
        self
    }

    /// Keeps duplicates away from the handler.
    pub fn idempotency(mut self, guard: impl Guard) -> Self {
        self.settings.guard = Some(Arc::new(guard));
        self
    }

    /// As [`idempotency`](Self::idempotency), for a guard shared with others.
    pub fn idempotency_shared(mut self, guard: Arc<dyn Guard>) -> Self {
        self.settings.guard = Some(guard);
        self
    }

    /// How long a claim lasts that is not renewed; it is renewed every third of that while the handler runs. After a
    /// crash the message waits at most this long. Default: 60 s.
    pub fn idempotency_lease(mut self, lease: Duration) -> Self {
        self.settings.guard_lease = lease;
        self
    }

    /// How many messages are handled at once. Default: one.
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    /// How many messages are started per second; can be changed while running. Default: as many as can be.
    pub fn rate_limit(mut self, rate: Rate) -> Self {
        self.settings.rate = Some(rate);
        self
    }

    /// How long a handler may take; then it is dropped and the message is a retry. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = Some(limit);
        self
    }

    /// A message the broker has delivered more often than this without its being settled goes to the dead letters
    /// unseen: it probably kills its handlers. Default: 10.
    pub fn crash_limit(mut self, redeliveries: u32) -> Self {
        self.settings.crash_limit = redeliveries;
        self
    }

    /// What becomes of messages whose error nobody classified. Default: dead letter.
    pub fn on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.settings.classification.on_unknown = on_unknown;
        self
    }

    /// Says what errors mean that handlers did not classify.
    pub fn classify(mut self, hook: impl Classify) -> Self {
        self.settings.classification.hook = Some(Arc::new(hook));
        self
    }

    /// Called with every dead letter once the broker has confirmed it: the place for compensation. It may be called
    /// twice for a message after a crash.
    pub fn on_dead_letter<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(DeadLetter) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.settings.on_dead_letter = Some(Arc::new(move |letter| Box::pin(hook(letter))));
        self
    }

    /// Watches what happens, for metrics and alarms.
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.settings.observer = Some(Arc::new(observer));
        self
    }

    /// How long running handlers may take to finish when the worker stops. Default: 30 s.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.settings.drain = limit;
        self
    }

    /// Takes the key of a message from elsewhere: for order by a field of the body, say.
    pub fn key_extractor(mut self, extract: impl Fn(&Message) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        self.settings.key = Some(Arc::new(extract));
        self
    }

    /// Takes the id of a message from elsewhere, for the guard; where it gives none, the message's own id counts.
    pub fn id_extractor(mut self, extract: impl Fn(&Message) -> Option<MessageId> + Send + Sync + 'static) -> Self {
        self.settings.id = Some(Arc::new(extract));
        self
    }

    /// Ends the worker after it has taken in this many messages (redeliveries counted).
    pub fn max_messages(mut self, max: u64) -> Self {
        self.settings.max = Some(max);
        self
    }

    /// Ends the worker when no message has come for this long and none is being handled.
    pub fn max_idle(mut self, idle: Duration) -> Self {
        self.settings.idle = Some(idle);
        self
    }

    /// Wraps the handler; the first layer added is the outermost.
    pub fn layer<N>(self, layer: N) -> Worker<Stack<L, N>> {
        Worker {
            broker: self.broker,
            subscription: self.subscription,
            settings: self.settings,
            layer: Stack { outer: self.layer, inner: layer },
        }
    }

    /// Handles each message with an async function: up to four arguments of types that are
    /// [`FromMessage`](crate::FromMessage) or [`Context`](crate::Context), returning `()` or `Result<(), E>`.
    pub fn handle<F, A>(self, handler: F) -> Service<L::Handler>
    where
        F: HandlerFn<A>,
        A: 'static,
        L: Layer<FnHandler<F, A>>,
    {
        self.handle_with(FnHandler::new(handler))
    }

    /// Handles each message with a blocking function, on the threads tokio keeps for such code.
    pub fn handle_blocking<F, A>(self, handler: F) -> Service<L::Handler>
    where
        F: BlockingFn<A>,
        A: 'static,
        L: Layer<BlockingHandler<F, A>>,
    {
        self.handle_with(BlockingHandler::new(handler))
    }

    /// Handles up to `size` messages at once with an async function that takes a [`Batch`](crate::handler::Batch): as
    /// many as are there, without waiting for more. Rate, guard and settlement are by message.
    pub fn handle_batch<F, T>(self, size: usize, handler: F) -> Service<L::Handler>
    where
        F: BatchFn<T>,
        T: FromDelivery + 'static,
        L: Layer<BatchHandler<F, T>>,
    {
        self.handle_with(BatchHandler::new(handler, size))
    }

    /// Handles messages with a [`Handler`] of your own.
    pub fn handle_with<H: Handler>(self, handler: H) -> Service<L::Handler>
    where
        L: Layer<H>,
    {
        Service::new(self.broker, self.subscription, self.settings, self.layer.layer(handler))
    }
}

impl<L> fmt::Debug for Worker<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("subscription", &self.subscription)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
