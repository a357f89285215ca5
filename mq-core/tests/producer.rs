//! The producer's own promises, over the broker in memory.

use std::time::Duration;

use mq_core::memory::{MemoryBroker, SendFault};
use mq_core::{ErrorKind, Message, ProducerOptions};

fn options(max_in_flight: usize) -> ProducerOptions {
    let mut options = ProducerOptions::default();
    options.max_in_flight = max_in_flight;
    options.deadline = Duration::from_secs(5);
    options
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_the_room_does_not_wait_for_itself() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    let producer = memory.broker().producer_with(options(4)).await.unwrap();
    let batch = |n: usize| (0..n).map(|n| Message::new("t").unwrap().body(n.to_string())).collect::<Vec<_>>();
    let (one, two) = tokio::join!(producer.send_batch(batch(50)), producer.send_batch(batch(50)));
    assert!(one.iter().chain(&two).all(Result::is_ok));
    assert_eq!(memory.sent("t").unwrap().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn one_bad_message_fails_alone_and_comes_back() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    let producer = memory.broker().producer().await.unwrap();
    let good = Message::new("t").unwrap().body("good");
    let bad = Message::new("t").unwrap().body("bad").header("mq-attempt", "9");
    let mut results = producer.send_batch(vec![good.clone(), bad, good]).await;
    let error = results.remove(1).unwrap_err();
    assert_eq!(error.error().kind(), ErrorKind::Config);
    assert_eq!(error.message().body_bytes().unwrap(), "bad");
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_client_without_room_is_waited_for_no_longer_than_the_deadline() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    let producer = memory.broker().producer_with(options(4)).await.unwrap();
    memory.faults().block(true);
    let began = tokio::time::Instant::now();
    let refused = producer.enqueue(Message::new("t").unwrap().id("1")).await.unwrap_err();
    assert_eq!(refused.error().kind(), ErrorKind::Backpressure, "{refused}");
    assert_eq!(refused.message().message_id().unwrap().as_str(), "1");
    assert!(began.elapsed() <= Duration::from_secs(5), "the broker's own deadline is 30 s: {:?}", began.elapsed());
    memory.faults().block(false);
    producer.send(refused.into_message()).await.unwrap();
    assert_eq!(memory.sent("t").unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_atomic_batch_is_whole_or_not_there() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    let producer = memory.broker().producer_with(options(3)).await.unwrap();
    let message = |topic: &str, id: &str| Message::new(topic).unwrap().key("k").id(id);
    let torn = producer.send_atomic(vec![message("t", "1"), message("nowhere", "2")]).await.unwrap_err();
    assert!(torn.kind() == ErrorKind::NotFound && !torn.is_ambiguous(), "{torn}");
    let many = (0..4).map(|n| message("t", &n.to_string())).collect();
    assert_eq!(producer.send_atomic(many).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(memory.sent("t").unwrap().is_empty());
    let ids = producer.send_atomic(vec![message("t", "1"), Message::new("t").unwrap()]).await.unwrap();
    assert_eq!((ids.len(), ids[0].as_str(), memory.sent("t").unwrap().len()), (2, "1", 2));
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_send_fences_its_key_until_it_is_sent_again() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    let producer = memory.broker().producer().await.unwrap();
    memory.faults().fail_sends([SendFault::LostUnconfirmed]);
    let keyed = |body: &'static str| Message::new("t").unwrap().key("k").body(body);
    let first = producer.send(keyed("1")).await.unwrap_err();
    assert!(first.error().is_ambiguous(), "{first}");
    let second = producer.send(keyed("2")).await.unwrap_err();
    assert_eq!(second.error().kind(), ErrorKind::Fenced);
    producer.send(Message::new("t").unwrap().key("other")).await.unwrap();
    producer.send(first.into_message()).await.unwrap();
    producer.send(second.into_message()).await.unwrap();
    let bodies: Vec<_> = memory.sent("t").unwrap().iter().filter_map(|m| m.body_bytes().cloned()).collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn sends_beyond_the_bound_wait_and_then_say_so() {
    let memory = MemoryBroker::new();
    memory.declare_topic("t").unwrap();
    memory.faults().block(true);
    let producer = memory.broker().producer_with(options(1)).await.unwrap();
    let held = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(Message::new("t").unwrap()).await }
    });
    tokio::task::yield_now().await;
    let error = producer.send(Message::new("t").unwrap()).await.unwrap_err();
    assert_eq!(error.error().kind(), ErrorKind::Backpressure, "{error}");
    memory.faults().block(false);
    let _ = held.await.unwrap();
    producer.close().await.unwrap();
    let closed = producer.send(Message::new("t").unwrap()).await.unwrap_err();
    assert_eq!(closed.error().kind(), ErrorKind::Closed, "{closed}");
}
