//! How to test a service of your own: the in-memory broker as the test double, an hour in milliseconds.
//!
//! The test below is an ordinary one; this program runs it, so that you can watch it.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::{Duration, Instant};

use mq::memory::{MemoryBroker, SettledHow};
use mq::{Broker, Handler, HandlerError, Json, Message, RetryPolicy, Service, Subscription, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Signup {
    email: String,
}

/// The service under test: mails a welcome; the mail server may be away for an hour.
fn service(broker: &Broker) -> Service<impl Handler> {
    Worker::new(broker, Subscription::new("signups", "mailer"))
        .retry(RetryPolicy::delays([Duration::from_secs(60 * 60)]).attempts(3))
        .handle(|signup: Json<Signup>, context: mq::Context| async move {
            if signup.0.email.starts_with("away@") && context.attempt() < 3 {
                return Err(HandlerError::retry("the mail server is away"));
            }
            if !signup.0.email.contains('@') {
                return Err(HandlerError::dead_letter("no address"));
            }
            context.send(Message::new("mails")?.body(signup.0.email))?;
            Ok(())
        })
}

/// With `#[tokio::test(start_paused = true)]` this would be a test of yours.
async fn mails_are_sent_once_the_server_is_back() -> mq::Result<()> {
    let memory = MemoryBroker::new();
    memory.declare_topic("signups")?;
    memory.declare_topic("mails")?;
    let broker = memory.broker();
    let worker = service(&broker);
    let producer = broker.producer().await?;
    let run = tokio::spawn(worker.run_until(std::future::pending()));
    memory.until(Duration::from_secs(1), |memory| memory.backlog("signups", "mailer").is_ok()).await?;
    for email in ["ann@example.org", "away@example.org", "nonsense"] {
        producer.send(Message::json("signups", &Signup { email: email.into() })?).await?;
    }

    // Two hours of retries; the clock jumps whenever everybody waits.
    memory.until_idle("signups", "mailer", Duration::from_secs(3 * 60 * 60)).await?;
    let mails = memory.sent("mails")?;
    assert_eq!(mails.len(), 2, "one mail each, none for nonsense");
    let retries = memory.settled("signups", "mailer")?.iter().filter(|one| one.how == SettledHow::Retry).count();
    assert_eq!(retries, 2, "the server was away twice");
    let letters = memory.dead_letters("signups", "mailer")?;
    let reasons: Vec<&str> =
        letters.iter().filter_map(|letter| letter.record.as_ref()).map(|record| record.error.as_str()).collect();
    assert_eq!(reasons, ["no address"]);
    run.abort();
    broker.close().await
}

fn main() -> mq::Result<()> {
    let begin = Instant::now();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build();
    let runtime = runtime.map_err(|error| mq::Error::new(mq::ErrorKind::Internal, error.to_string()))?;
    runtime.block_on(mails_are_sent_once_the_server_is_back())?;
    println!("two hours of retries tested in {} ms", begin.elapsed().as_millis());
    Ok(())
}
