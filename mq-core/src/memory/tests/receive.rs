use super::*;
use crate::error::ErrorKind;

#[tokio::test(start_paused = true)]
async fn arrives_in_the_order_sent_over_all_partitions() {
    let broker = broker(4).await;
    let sent: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for (index, body) in sent.iter().enumerate() {
        send_with(&broker, message(body).key([index as u8 % 7]), None).await.unwrap();
    }
    let mut reader = Reader::open(&broker, spec(100)).await;
    assert_eq!(bodies(&reader.take(50).await), sent);
}

#[tokio::test(start_paused = true)]
async fn an_idle_poll_wakes_for_a_message_and_ends_in_time() {
    let broker = broker(4).await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    reader.poll(0).await;
    let started = tokio::time::Instant::now();
    assert!(reader.poll(1).await.is_empty());
    assert_eq!(started.elapsed(), SECOND);
    let sender = broker.clone();
    let sending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        send(&sender, "x").await
    });
    let started = tokio::time::Instant::now();
    assert_eq!(reader.poll(1).await.len(), 1);
    assert_eq!(started.elapsed(), Duration::from_millis(100));
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn prefetch_bounds_what_is_out() {
    let broker = broker(4).await;
    for _ in 0..5 {
        send(&broker, "x").await;
    }
    let mut reader = Reader::open(&broker, spec(2)).await;
    let messages = reader.take(2).await;
    assert!(reader.poll(10).await.is_empty());
    reader.ack(&messages[0]).await;
    assert_eq!(reader.poll(10).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pausing_keeps_the_place_and_the_deliveries() {
    let broker = broker(1).await;
    send(&broker, "1").await;
    let mut reader = Reader::open(&broker, spec(10)).await;
    let first = reader.take(1).await.remove(0);
    reader.driver.pause(true).await.unwrap();
    send(&broker, "2").await;
    assert!(reader.poll(10).await.is_empty());
    assert_eq!(reader.ack(&first).await, Settled::Durable);
    reader.driver.pause(false).await.unwrap();
    assert_eq!(bodies(&reader.take(1).await), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn acknowledged_at_receipt_is_never_redelivered() {
    let broker = broker(1).await;
    send(&broker, "1").await;
    let mut reader = Reader::open(&broker, ConsumerSpec { auto_ack: true, ..spec(1) }).await;
    reader.take(1).await;
    send(&broker, "2").await;
    let second = reader.take(1).await.remove(0);
    assert_eq!(reader.ack(&second).await, Settled::Durable);
    drop(reader);
    let mut reader = Reader::open(&broker, spec(1)).await;
    assert!(reader.take_nothing().await);
}

#[tokio::test(start_paused = true)]
async fn several_topics_are_read_by_one_consumer() {
    let broker = broker(2).await;
    broker.declare_topic("refunds").unwrap();
    let subscription = Subscription::new(TOPIC, GROUP).topic("refunds");
    let mut reader = Reader::open(&broker, ConsumerSpec::new(subscription)).await;
    send(&broker, "order").await;
    send_with(&broker, Message::new("refunds").unwrap().body("refund"), None).await.unwrap();
    let mut messages = reader.take(2).await;
    messages.sort_by_key(|incoming| incoming.token.lane);
    assert_eq!(bodies(&messages), ["order", "refund"]);
    assert_eq!(messages[1].message.topic().as_str(), "refunds");
    for incoming in &messages {
        assert_eq!(reader.ack(incoming).await, Settled::Durable);
    }
    assert!(matches!(&reader.events[..], [Event::Assigned(lanes)] if lanes[..] == [0, 1, 2, 3, 4, 5]));
}

#[tokio::test(start_paused = true)]
async fn a_busy_topic_does_not_keep_another_waiting() {
    let broker = broker(1).await;
    broker.declare_topic("refunds").unwrap();
    let subscription = Subscription::new(TOPIC, GROUP).topic("refunds").prefetch(100);
    let mut reader = Reader::open(&broker, ConsumerSpec::new(subscription)).await;
    reader.poll(0).await;
    for _ in 0..10 {
        send(&broker, "order").await;
    }
    send_with(&broker, Message::new("refunds").unwrap().body("refund"), None).await.unwrap();
    let (first, second) = (reader.poll(2).await, reader.poll(2).await);
    assert!(first.iter().chain(&second).any(|incoming| body(incoming) == "refund"));
}

#[tokio::test(start_paused = true)]
async fn each_broadcast_consumer_gets_what_is_sent_while_it_is_there() {
    let broker = broker(2).await;
    send(&broker, "before").await;
    let open = || Reader::open(&broker, ConsumerSpec::new(Subscription::broadcast(TOPIC)));
    let (mut one, mut two) = (open().await, open().await);
    send(&broker, "x").await;
    assert_eq!(bodies(&one.take(1).await), ["x"]);
    assert_eq!(bodies(&two.take(1).await), ["x"]);
    drop((one, two));
    assert_eq!(broker.admin().list_groups(&topic()).await.unwrap().len(), 1, "only the declared group is left");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_consumer_may_start_with_what_is_kept() {
    let broker = broker(1).await;
    send(&broker, "before").await;
    let subscription = Subscription::broadcast(TOPIC).start(StartFrom::Earliest);
    let mut reader = Reader::open(&broker, ConsumerSpec::new(subscription)).await;
    assert_eq!(bodies(&reader.take(1).await), ["before"]);
}

#[tokio::test(start_paused = true)]
async fn deleting_the_topic_ends_its_consumers() {
    let broker = broker(1).await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    reader.poll(0).await;
    let (admin, topic) = (broker.admin(), topic());
    let (polled, deleted) = tokio::join!(
        async { reader.driver.poll(&mut Vec::new(), 1, Duration::from_secs(60)).await },
        admin.delete_topic(&topic)
    );
    deleted.unwrap();
    assert_eq!(polled.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn selecting_messages_is_refused_not_ignored() {
    let broker = broker(1).await;
    let pattern = crate::subscription::Selector::RoutingPattern("a.*".to_owned());
    let spec = ConsumerSpec::new(Subscription::new(TOPIC, GROUP).select(pattern));
    let error = broker.open_consumer(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

impl Reader {
    /// True when nothing but events comes within a second.
    async fn take_nothing(&mut self) -> bool {
        self.poll(0).await;
        self.poll(10).await.is_empty()
    }
}
