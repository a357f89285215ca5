//! A message nobody can handle is set aside whole, looked at, and brought back when the bug is fixed.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Duration;

use mq::{Context, Group, GroupMode, HandlerError, Message, Subscription, Text, Worker};
use mq_examples::Place;

/// Handles what there is with one version of the program.
async fn deploy(place: &Place, version: u32) -> mq::Result<()> {
    let summary = Worker::new(&place.broker, Subscription::new(&place.topic, "invoices"))
        .max_idle(Duration::from_secs(2))
        .handle(move |invoice: Text, context: Context| async move {
            if version == 1 && invoice.0.contains('€') {
                return Err(HandlerError::dead_letter("version 1 cannot read the sign €"));
            }
            println!("  version {version} handled `{}`, redrives: {}", invoice.0, context.control().redrives);
            Ok(())
        })
        .run()
        .await?;
    println!("  version {version}: {} handled, {} set aside", summary.handled, summary.dead_lettered);
    Ok(())
}

#[tokio::main]
async fn main() -> mq::Result<()> {
    let place = Place::open("invoices", GroupMode::Shared, &["invoices"]).await?;
    let producer = place.broker.producer().await?;
    for invoice in ["40 EUR", "50 €", "60 EUR"] {
        producer.send(Message::to(place.topic.clone()).body(invoice).header("customer", "7")).await?;
    }
    deploy(&place, 1).await?;

    let mut letters = place.broker.admin().dead_letters(&place.topic, &Group::parse("invoices")?).await?;
    // Listing never consumes: look as often as you like.
    for _ in 0..3 {
        let listed = letters.list(10).await?;
        assert_eq!(listed.len(), 1, "listing must not consume");
        for letter in listed {
            println!("set aside: {:?}", letter.record.map(|record| (record.reason, record.error, record.attempts)));
        }
    }
    println!("redriven: {}", letters.redrive(10).await?);
    deploy(&place, 2).await?;
    assert!(letters.list(10).await?.is_empty(), "what was brought back is no longer set aside");
    drop(letters);
    place.clear().await
}
