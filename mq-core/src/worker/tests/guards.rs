//! Idempotency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::bench::Running;
use super::{Bench, Log, S};
use crate::guard::{Claim, Claimed, Scope};
use crate::memory::SettledHow;
use crate::*;

fn message(id: &str) -> Message {
    Message::new("t").unwrap().body("x").id(id)
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_acked_and_not_run() {
    let (bench, log) = (Bench::new().await, Log::new());
    for id in ["1", "2", "1"] {
        bench.producer.send(message(id)).await.unwrap();
    }
    let handled = log.clone();
    let service = bench.worker().idempotency(MemoryGuard::new()).handle(move |context: Context| {
        handled.note(format!("{} {}", context.id().unwrap(), context.fencing_token().is_some()));
        async {}
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["1 true", "2 true"]);
    assert_eq!((summary.handled, summary.duplicates), (2, 1));
    assert_eq!(bench.settled(SettledHow::Ack), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_releases_and_a_redrive_runs() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.producer.send(message("1")).await.unwrap();
    let handled = log.clone();
    let guard: Arc<dyn Guard> = Arc::new(MemoryGuard::new());
    let service = bench.worker().idempotency_shared(Arc::clone(&guard)).retry(RetryPolicy::delays([S(1)])).handle(
        move |context: Context| {
            handled.note(format!("{} {}", context.attempt(), context.control().redrives));
            async move { if context.control().redrives == 0 { Err(HandlerError::retry("x")) } else { Ok(()) } }
        },
    );
    let running = Running::start(service);
    bench.memory.until(S(60), |_| !bench.dead().is_empty()).await.unwrap();
    let topic = Topic::parse("t").unwrap();
    let mut letters = bench.broker.admin().dead_letters(&topic, &Group::parse("g").unwrap()).await.unwrap();
    assert_eq!(letters.redrive(10).await.unwrap(), 1);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["1 0", "2 0", "1 1"]);
    assert_eq!((summary.handled, summary.duplicates, summary.deferred), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn in_progress_elsewhere_defers_without_spending_an_attempt() {
    let (bench, log) = (Bench::new().await, Log::new());
    let guard = Arc::new(MemoryGuard::new());
    let scope = Scope { group: Some(Group::parse("g").unwrap()), id: "1".into(), redrives: 0 };
    let Claimed::Fresh(other) = guard.claim(&scope, S(20)).await.unwrap() else { panic!("fresh") };
    bench.producer.send(message("1")).await.unwrap();
    let handled = log.clone();
    let service =
        bench.worker().idempotency_shared(Arc::<MemoryGuard>::clone(&guard)).handle(move |context: Context| {
            handled.note(format!("{}", context.attempt()));
            async {}
        });
    let running = Running::start(service);
    sleep(S(10)).await;
    assert!(log.all().is_empty());
    guard.release(&other).await.unwrap();
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["1"], "the first attempt, however often it was deferred");
    assert!(summary.deferred >= 1 && summary.retried == 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_handler_keeps_its_claim() {
    let bench = Bench::new().await;
    bench.producer.send(message("1")).await.unwrap();
    let guard = Arc::new(MemoryGuard::new());
    let service = bench
        .worker()
        .idempotency_shared(Arc::<MemoryGuard>::clone(&guard))
        .idempotency_lease(S(10))
        .handle(|| async { sleep(S(100)).await });
    let running = Running::start(service);
    let scope = Scope { group: Some(Group::parse("g").unwrap()), id: "1".into(), redrives: 0 };
    for _ in 0..9 {
        sleep(S(10)).await;
        assert!(matches!(guard.claim(&scope, S(1)).await.unwrap(), Claimed::InProgress { .. }));
    }
    bench.idle().await;
    assert_eq!(guard.claim(&scope, S(1)).await.unwrap(), Claimed::Done);
    assert_eq!(running.stop().await.handled, 1);
}

/// A guard whose store can be down.
#[derive(Debug)]
struct Shaky {
    inner: MemoryGuard,
    down: Arc<AtomicBool>,
    /// Claims are never ours any more when asked to be extended.
    stolen: bool,
}

impl Shaky {
    fn up(&self) -> Result<&MemoryGuard> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "the store is down")),
            false => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl Guard for Shaky {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        self.up()?.claim(scope, lease).await
    }
    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        Ok(!self.stolen && self.up()?.extend(claim, lease).await?)
    }
    async fn complete(&self, claim: &Claim) -> Result<()> {
        self.up()?.complete(claim).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.up()?.release(claim).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_pauses_and_sets_nothing_aside() {
    let (bench, log, events) = (Bench::new().await, Log::new(), Log::new());
    for id in ["1", "2", "3"] {
        bench.producer.send(message(id)).await.unwrap();
    }
    let down = Arc::new(AtomicBool::new(true));
    let handled = log.clone();
    let service = bench
        .worker()
        .observe(events.observer())
        .idempotency(Shaky { inner: MemoryGuard::new(), down: Arc::clone(&down), stolen: false })
        .handle(move |context: Context| {
            handled.note(format!("{}", context.attempt()));
            async {}
        });
    let running = Running::start(service);
    sleep(S(600)).await;
    assert!(log.all().is_empty() && bench.dead().is_empty());
    assert!(events.count("GuardUnavailable") >= 10);
    down.store(false, Ordering::SeqCst);
    bench.idle().await;
    assert_eq!(log.all(), ["1", "1", "1"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_while_the_store_is_down_gives_messages_back() {
    let bench = Bench::new().await;
    bench.producer.send(message("1")).await.unwrap();
    let down = Arc::new(AtomicBool::new(true));
    let service =
        bench.worker().idempotency(Shaky { inner: MemoryGuard::new(), down, stolen: false }).handle(|| async {});
    let running = Running::start(service);
    sleep(S(5)).await;
    let started = tokio::time::Instant::now();
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.released), (0, 1));
    assert!(started.elapsed() < S(1), "{:?}", started.elapsed());
    assert_eq!(bench.memory.backlog("t", "g").unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_lost_while_the_handler_runs_cancels_it() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.producer.send(message("1")).await.unwrap();
    let handled = log.clone();
    let service = bench
        .worker()
        .idempotency_lease(S(3))
        .idempotency(Shaky { inner: MemoryGuard::new(), down: Arc::default(), stolen: true })
        .handle(move |context: Context| {
            let log = handled.clone();
            async move {
                if context.redeliveries() + context.attempt() == 1 && log.all().is_empty() {
                    log.note("started");
                    sleep(S(60)).await;
                    log.note("finished");
                }
            }
        });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["started"]);
    assert_eq!((summary.cancelled, summary.handled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn ids_come_from_the_extractor_or_the_position() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["order-1", "order-1"]).await;
    let handled = log.clone();
    let service = bench
        .worker()
        .idempotency(MemoryGuard::new())
        .id_extractor(|message| std::str::from_utf8(message.body_bytes()?).ok().map(MessageId::from))
        .handle(move |context: Context| {
            handled.note(context.id().unwrap().as_str());
            async {}
        });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["order-1"]);
}
