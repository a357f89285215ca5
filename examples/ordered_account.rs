//! Bookings of an account must be applied in order, also when one of them fails for a while; other accounts do not wait.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mq::{Concurrency, Context, GroupMode, HandlerError, Message, RetryPolicy, Subscription, Text, Worker};
use mq_examples::Place;

#[tokio::main]
async fn main() -> mq::Result<()> {
    let place = Place::open("account", GroupMode::Ordered, &["ledger"]).await?;
    let producer = place.broker.producer().await?;
    for booking in 1..=4 {
        for account in ["alice", "bob"] {
            producer.send(Message::to(place.topic.clone()).key(account).body(format!("{account} {booking}"))).await?;
        }
    }

    let begin = Instant::now();
    let booked = Arc::new(Mutex::new(Vec::new()));
    let journal = Arc::clone(&booked);
    Worker::new(&place.broker, Subscription::new(&place.topic, "ledger"))
        .concurrency(Concurrency::ByKey(4))
        .retry(RetryPolicy::delays([Duration::from_secs(1)]).attempts(5).keep_key_order())
        .max_idle(Duration::from_secs(4))
        .handle(move |booking: Text, context: Context| {
            let journal = Arc::clone(&journal);
            async move {
                let ms = begin.elapsed().as_millis();
                if booking.0 == "alice 2" && context.attempt() < 3 {
                    println!("{ms:>5} ms  {} fails, attempt {}", booking.0, context.attempt());
                    return Err(HandlerError::retry("the account is locked"));
                }
                println!("{ms:>5} ms  {} booked", booking.0);
                journal.lock().unwrap_or_else(PoisonError::into_inner).push(booking.0);
                Ok(())
            }
        })
        .run()
        .await?;

    let booked = booked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for account in ["alice", "bob"] {
        let order: Vec<&String> = booked.iter().filter(|booking| booking.starts_with(account)).collect();
        assert!(order.is_sorted() && order.len() == 4, "out of order: {order:?}");
    }
    println!("each account in order; bob did not wait for alice");
    place.clear().await
}
