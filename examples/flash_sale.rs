//! A flash sale: two thousand orders within a blink, and a payment provider that takes five hundred a second.
//!
//! The topic is the buffer: the shop is done at once, and the worker levels the peak. Nothing is refused, nothing lost.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq::{Concurrency, GroupMode, Message, Subscription, Worker, per_second};
use mq_examples::Place;
use tokio::time::{interval, sleep};

const ORDERS: usize = 2000;
const RATE: u32 = 500;

#[tokio::main]
async fn main() -> mq::Result<()> {
    let place = Place::open("flash-sale", GroupMode::Shared, &["checkout"]).await?;
    let producer = place.broker.producer().await?;
    let begin = Instant::now();
    let orders = (0..ORDERS).map(|n| Message::to(place.topic.clone()).body(format!("order {n}"))).collect();
    for result in producer.send_batch(orders).await {
        result?;
    }
    println!("{ORDERS} orders stored after {} ms: the sale is over for the shop", begin.elapsed().as_millis());

    let paid = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&paid);
    let worker = Worker::new(&place.broker, Subscription::new(&place.topic, "checkout"))
        .concurrency(Concurrency::Parallel(8))
        .rate_limit(per_second(RATE))
        .handle(move || {
            let counter = Arc::clone(&counter);
            async move {
                sleep(Duration::from_millis(2)).await; // the provider
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    let everything = async move {
        let mut tick = interval(Duration::from_millis(500));
        tick.tick().await;
        let mut before = 0;
        while before < ORDERS {
            tick.tick().await;
            let now = paid.load(Ordering::Relaxed);
            println!("{now:>6} paid  {}", "▒".repeat((now - before) / 10));
            before = now;
        }
    };
    worker.run_until(everything).await?;
    place.clear().await
}
