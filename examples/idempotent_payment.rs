//! A payment that must happen once, although its message comes three times.
//!
//! The guard claims the id before the handler runs and remembers it when it is done. A failure releases the claim: the
//! retry runs.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq::{Context, GroupMode, HandlerError, MemoryGuard, Message, Subscription, Text, Worker};
use mq_examples::Place;

#[tokio::main]
async fn main() -> mq::Result<()> {
    let place = Place::open("payment", GroupMode::Shared, &["bank"]).await?;
    let producer = place.broker.producer().await?;
    // The same business event three times, under one id: a user who clicked again, a producer that sent again.
    for _ in 0..3 {
        producer.send(Message::to(place.topic.clone()).id("invoice-7").body("40 EUR")).await?;
    }
    producer.send(Message::to(place.topic.clone()).id("invoice-8").body("50 EUR")).await?;

    let charges = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&charges);
    let summary = Worker::new(&place.broker, Subscription::new(&place.topic, "bank"))
        .idempotency(MemoryGuard::new())
        .id_extractor(|message| message.message_id().cloned()) // every producer here sets one
        .max_idle(Duration::from_secs(4))
        .handle(move |amount: Text, context: Context| {
            let counter = Arc::clone(&counter);
            async move {
                if amount.0 == "50 EUR" && context.attempt() == 1 {
                    println!("{}: the bank does not answer; the claim is released", amount.0);
                    return Err(HandlerError::retry("the bank does not answer"));
                }
                counter.fetch_add(1, Ordering::Relaxed);
                println!("{}: charged, attempt {}", amount.0, context.attempt());
                Ok(())
            }
        })
        .run()
        .await?;

    let charges = charges.load(Ordering::Relaxed);
    println!("4 messages, 2 invoices, {charges} charges; {} copies were not run", summary.duplicates);
    assert_eq!(charges, 2, "each invoice must be charged once, and only once");
    place.clear().await
}
