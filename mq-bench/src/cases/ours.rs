//! The work done by `mq`, the same code for every broker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use mq::{Body, Broker, Concurrency, Error, ErrorKind, HandlerError, Producer, Result, Subscription, Worker};

use crate::cases::place::Place;
use crate::pair::{Cost, Meter, cost};

/// Sends in flight at once.
pub(crate) const WINDOW: usize = 256;
/// What a handler that waits waits for.
const HANDLER: Duration = Duration::from_millis(5);
/// Deliveries out at once.
pub(crate) const PREFETCH: usize = 2000;

/// Sends `messages` with [`WINDOW`] in flight, each confirmed.
pub(crate) async fn send(producer: &Producer, place: &Place, body: &Bytes, messages: u64) -> Result<()> {
    let mut pending = VecDeque::with_capacity(WINDOW);
    for _ in 0..messages {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await?;
        }
        pending.push_back(producer.enqueue(place.message(body)).await?);
    }
    for pending in pending {
        pending.await?;
    }
    Ok(())
}

/// What a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    Nothing,
    /// Waits 5 ms, as for a database; sixteen keys at once, or one after the other.
    Waits {
        lanes: usize,
    },
}

/// Receives `messages`, acknowledges each, and flushes; timed from the first message on.
pub(crate) async fn consume(broker: &Broker, subscription: Subscription, messages: u64) -> Result<Cost> {
    let mut consumer = broker.consumer(subscription.prefetch(PREFETCH)).await?;
    consumer.recv().await?.ack();
    let spent = cost(async {
        for _ in 1..messages {
            let delivery = consumer.recv().await?;
            std::hint::black_box(delivery.message().body_bytes());
            delivery.ack();
        }
        consumer.flush().await
    })
    .await;
    consumer.close().await?;
    spent
}

/// Handles `messages` with a worker; timed from the first message to the end of the last handler, so that leaving the
/// group, which takes as long after ten messages as after a million, does not count.
pub(crate) async fn work(broker: &Broker, subscription: Subscription, messages: u64, handler: Handler) -> Result<Cost> {
    let gauge = Arc::new(Gauge::default());
    let concurrency = match handler {
        Handler::Waits { lanes } if lanes > 1 => Concurrency::ByKey(lanes),
        _ => Concurrency::Sequential,
    };
    let worker = Worker::new(broker, subscription).concurrency(concurrency).max_messages(messages);
    let handling = Arc::clone(&gauge);
    let service = worker.handle(move |Body(body): Body| {
        let gauge = Arc::clone(&handling);
        async move {
            gauge.started.get_or_init(Meter::start);
            std::hint::black_box(&body);
            if handler != Handler::Nothing {
                tokio::time::sleep(HANDLER).await;
            }
            gauge.one_of(messages);
            Ok::<(), HandlerError>(())
        }
    });
    let summary = service.run_until(std::future::pending()).await?;
    if summary.handled != messages {
        let what = format!("the worker handled {} of {messages} messages", summary.handled);
        return Err(Error::new(ErrorKind::Internal, what));
    }
    gauge.cost.get().copied().ok_or_else(|| Error::new(ErrorKind::Internal, "the worker handled nothing"))
}

/// What the handlers of a run took together.
#[derive(Default)]
struct Gauge {
    started: OnceLock<Meter>,
    ended: AtomicU64,
    cost: OnceLock<Cost>,
}

impl Gauge {
    /// Another of `all` has ended.
    fn one_of(&self, all: u64) {
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == all
            && let Some(meter) = self.started.get()
        {
            self.cost.get_or_init(|| meter.read());
        }
    }
}
