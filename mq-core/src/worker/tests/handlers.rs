//! Kinds of handlers.

use std::time::Duration;

use super::bench::Running;
use super::{Bench, Log, S};
use crate::dead_letter::DeadLetterReason;
use crate::*;

#[tokio::test(start_paused = true)]
async fn blocking_handlers_run_beside_and_their_panics_are_caught() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["a", "panic", "b"]).await;
    let handled = log.clone();
    let service = bench.worker().handle_blocking(move |Text(body): Text| {
        std::thread::sleep(Duration::from_millis(5));
        assert!(body != "panic", "boom");
        handled.note(body);
    });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["a", "b"]);
    assert!(bench.dead()[0].record.as_ref().unwrap().error.contains("boom"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_blocking_handler_does_not_starve_its_lease() {
    let bench = Bench::new().await;
    bench.send(["x"]).await;
    let service = bench
        .worker()
        .idempotency(MemoryGuard::new())
        .idempotency_lease(Duration::from_millis(150))
        .handle_blocking(|| std::thread::sleep(Duration::from_millis(600)));
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.handled, summary.cancelled), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_gets_what_is_there_and_answers_for_each() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["1", "2", "oops", "3", "4", "5"]).await;
    let handled = log.clone();
    let service = bench.worker().handle_batch(4, move |batch: Batch<Json<u32>>| {
        let log = handled.clone();
        async move {
            log.note(batch.iter().map(|(Json(n), _)| n.to_string()).collect::<String>());
            let answer = |(Json(n), _): (Json<u32>, Context)| {
                if n == 2 { Err(HandlerError::dead_letter("no twos")) } else { Ok(()) }
            };
            batch.into_iter().map(answer).collect::<Vec<Outcome>>()
        }
    });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!(log.all(), ["123", "45"]);
    assert_eq!((summary.handled, summary.dead_lettered), (4, 2));
    let reasons: Vec<_> = bench.dead().iter().map(|dead| dead.record.as_ref().unwrap().reason).collect();
    assert_eq!(reasons, [DeadLetterReason::Rejected, DeadLetterReason::Decode]);
}

#[tokio::test(start_paused = true)]
async fn one_error_of_a_batch_is_everybodys() {
    let bench = Bench::new().await;
    bench.send(["1", "2", "3"]).await;
    let service = bench
        .worker()
        .classify(
            |error: &(dyn std::error::Error + Send + Sync + 'static)| {
                if error.is::<std::io::Error>() { Class::Retry } else { Class::Unknown }
            },
        )
        .handle_batch(10, |batch: Batch<Text>| async move {
            let first = batch.iter().all(|(_, context)| context.attempt() == 1);
            if first { Err(std::io::Error::other("down")) } else { Ok(()) }
        });
    let running = Running::start(service);
    bench.idle().await;
    let summary = running.stop().await;
    assert_eq!((summary.retried, summary.handled), (3, 3));
}

#[derive(Clone)]
struct Noting(&'static str, Log);

struct Noted<H>(Noting, H);

impl<H: Handler> Layer<H> for Noting {
    type Handler = Noted<H>;
    fn layer(self, inner: H) -> Noted<H> {
        Noted(self, inner)
    }
}

impl<H: Handler> Handler for Noted<H> {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        self.0.1.note(format!("{} in", self.0.0));
        self.1.handle(batch, outcomes).await;
        self.0.1.note(format!("{} out", self.0.0));
    }
    fn batch_size(&self) -> usize {
        self.1.batch_size()
    }
}

#[tokio::test(start_paused = true)]
async fn layers_wrap_the_handler_in_the_order_they_were_added() {
    let (bench, log) = (Bench::new().await, Log::new());
    bench.send(["x"]).await;
    let handled = log.clone();
    let service =
        bench.worker().layer(Noting("outer", log.clone())).layer(Noting("inner", log.clone())).handle(move || {
            handled.note("handler");
            async {}
        });
    let running = Running::start(service);
    bench.idle().await;
    running.stop().await;
    assert_eq!(log.all(), ["outer in", "inner in", "handler", "inner out", "outer out"]);
}

async fn plain(Json(n): Json<u32>, context: Context) -> Result<(), HandlerError> {
    let _ = (n, context.position());
    let _: u32 = "7".parse()?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn functions_and_services_move_between_threads() {
    fn sendable<T: Send + 'static>(future: T) -> T {
        future
    }
    let bench = Bench::new().await;
    bench.send(["1"]).await;
    let service = bench.worker().max_messages(1).handle(plain);
    let summary = tokio::spawn(sendable(service.run())).await.unwrap().unwrap();
    assert_eq!((summary.handled, summary.ended), (1, Ended::Max));
    let _ = S;
}
