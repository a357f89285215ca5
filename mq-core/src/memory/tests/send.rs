use super::*;
use crate::error::{ErrorKind, Retryability};
use crate::memory::MemoryConfig;
use crate::message::Position;

#[tokio::test(start_paused = true)]
async fn a_message_arrives_as_it_was_sent() {
    let broker = broker(4).await;
    let sent = message("").header("a", "1").header("a", "2").key("k").id("id-1").with_body(None);
    let receipt = send_with(&broker, sent, None).await.unwrap();
    let mut reader = Reader::open(&broker, spec(10)).await;
    let got = reader.take(1).await.remove(0);
    assert_eq!(got.position, receipt.position);
    assert!(matches!(got.position, Position::Log { offset: 0, .. }));
    assert_eq!(got.message.headers().get_all("a").count(), 2);
    assert_eq!(got.message.key_bytes().unwrap(), "k");
    assert_eq!(got.message.body_bytes(), None);
    assert_eq!(got.message.message_id().unwrap().as_str(), "id-1");
    assert_eq!((got.control.attempt, got.redeliveries, got.redelivered), (1, 0, false));
    assert!(got.message.made_at().is_some(), "the time of sending, when the sender gave none");
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_their_partition_and_the_rest_takes_turns() {
    let broker = broker(4).await;
    let mut keyed = Vec::new();
    for _ in 0..5 {
        keyed.push(send_with(&broker, message("x").key("k"), None).await.unwrap().position.partition());
    }
    assert!(keyed.windows(2).all(|pair| pair[0] == pair[1]));
    let mut free: Vec<_> = Vec::new();
    for _ in 0..4 {
        free.push(send(&broker, "x").await.position.partition().unwrap());
    }
    free.sort_unstable();
    assert_eq!(free, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn unknown_topics_are_errors_unless_created_by_being_named() {
    let broker = MemoryBroker::new();
    let error = send_with(&broker, message("x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("mq topic create order.events"), "{error}");
    let error = broker.open_consumer(spec(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let queue = Message::new("queue:legacy").unwrap();
    assert_eq!(send_with(&broker, queue, None).await.unwrap_err().kind(), ErrorKind::Unsupported);

    let config = MemoryConfig { auto_create: true, ..MemoryConfig::default() };
    let broker = MemoryBroker::with_config(config).unwrap();
    send(&broker, "x").await;
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn too_large_is_said_at_once() {
    let broker = broker(1).await;
    let error = send_with(&broker, message(&"x".repeat(1024 * 1024 + 1)), None).await.unwrap_err();
    assert_eq!((error.kind(), error.retryability()), (ErrorKind::TooLarge, Retryability::Permanent));
}

#[tokio::test(start_paused = true)]
async fn a_full_topic_pushes_back_and_makes_room_from_what_is_settled() {
    let config = MemoryConfig { capacity: 2, partitions: 1, ..MemoryConfig::default() };
    let broker = MemoryBroker::with_config(config).unwrap();
    broker.declare_topic(TOPIC).unwrap();
    let mut reader = Reader::open(&broker, spec(10)).await;
    send(&broker, "1").await;
    send(&broker, "2").await;
    let started = tokio::time::Instant::now();
    let error = send_with(&broker, message("3"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.retryability()), (ErrorKind::Backpressure, Retryability::Transient));
    assert_eq!(started.elapsed(), Duration::from_secs(30));

    let first = reader.take(1).await.remove(0);
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { send_with(&broker, message("4"), None).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    reader.ack(&first).await;
    waiting.await.unwrap().unwrap();
    assert_eq!(bodies(&reader.take(2).await), ["2", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_send_given_up_while_it_waits_was_not_stored() {
    let config = MemoryConfig { capacity: 1, ..MemoryConfig::default() };
    let broker = MemoryBroker::with_config(config).unwrap();
    broker.declare_topic(TOPIC).unwrap();
    send(&broker, "1").await;
    let producer = broker.open_producer().await.unwrap();
    let (publish, pending) = in_flight(message("2"), Destination::Topic, None, true);
    let given_up = tokio::time::timeout(SECOND, producer.publish(vec![publish])).await;
    assert!(given_up.is_err());
    let (error, message) = pending.await.unwrap_err();
    assert_eq!((error.kind(), error.retryability()), (ErrorKind::Unavailable, Retryability::Transient));
    assert_eq!(message.body_bytes().unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_send_is_never_early() {
    let broker = broker(4).await;
    let due = broker.clock().now() + Duration::from_secs(3600);
    let receipt = send_with(&broker, message("later"), Some(due)).await.unwrap();
    assert_eq!((receipt.due, receipt.needs_process), (Some(due), false));
    send(&broker, "now").await;
    let mut reader = Reader::open(&broker, spec(10)).await;
    assert_eq!(bodies(&reader.take(1).await), ["now"]);
    let mut events = Vec::new();
    reader.driver.poll(&mut events, 10, Duration::from_secs(7200)).await.unwrap();
    let now = broker.clock().now();
    assert!(now >= due && now < due + Duration::from_millis(100), "{:?}", now.duration_since(due));
    assert!(matches!(&events[..], [Event::Message(incoming)] if body(incoming) == "later"));
}

#[tokio::test(start_paused = true)]
async fn several_messages_and_a_settlement_are_one_step_or_none() {
    let broker = broker(1).await;
    send(&broker, "in").await;
    let mut reader = Reader::open(&broker, spec(10)).await;
    let incoming = reader.take(1).await.remove(0);
    let producer = broker.open_producer().await.unwrap();
    let ack = || vec![Settlement { token: incoming.token, action: Settle::Ack }];

    let bad = vec![message("out"), Message::new("nowhere").unwrap()];
    assert_eq!(producer.atomic(bad, ack()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 1);
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().unsettled, Some(1));

    producer.atomic(vec![message("out 1"), message("out 2")], ack()).await.unwrap();
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 3);
    assert_eq!(bodies(&reader.take(2).await), ["out 1", "out 2"]);
    // The delivery is settled: doing it again stores nothing.
    assert!(producer.atomic(vec![message("again")], ack()).await.is_err());
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn closed_means_closed() {
    let broker = broker(1).await;
    let other = broker.connection();
    let mut reader = Reader::open(&broker, spec(1)).await;
    broker.close(SECOND).await.unwrap();
    assert_eq!(send_with(&broker, message("x"), None).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(reader.driver.poll(&mut Vec::new(), 1, SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
    send(&other, "the other connection stands").await;
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_name_is_one_broker_while_somebody_holds_it() {
    let url = |text: &str| crate::config::Url::parse(text).unwrap();
    let one = MemoryBroker::connect(&url("memory:shared-by-name?auto_create=true")).unwrap();
    let two = MemoryBroker::connect(&url("memory:shared-by-name?auto_create=true")).unwrap();
    send(&one, "x").await;
    assert_eq!(two.sent(TOPIC).unwrap().len(), 1);
    let error = MemoryBroker::connect(&url("memory:shared-by-name?partitions=1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopologyConflict);
    drop((one, two));
    let fresh = MemoryBroker::connect(&url("memory:shared-by-name")).unwrap();
    assert!(fresh.sent(TOPIC).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_message_for_one_group_reaches_no_other() {
    let broker = broker(4).await;
    let audit = GroupSpec::new(topic(), Group::parse("audit").unwrap());
    broker.admin().declare_group(&audit).await.unwrap();
    let producer = broker.open_producer().await.unwrap();
    let (publish, pending) = in_flight(message("x").key("k"), Destination::Group(group()), None, true);
    producer.publish(vec![publish]).await;
    pending.await.unwrap();
    let mut reader = Reader::open(&broker, spec(1)).await;
    let got = reader.take(1).await.remove(0);
    assert_eq!((body(&got), got.control.attempt), ("x", 1));
    assert_eq!(broker.backlog(TOPIC, "audit").unwrap().ready, 0);
    let nobody = Destination::Group(Group::parse("nobody").unwrap());
    let (publish, pending) = in_flight(message("x"), nobody, None, true);
    producer.publish(vec![publish]).await;
    assert_eq!(pending.await.unwrap_err().0.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_take_room_until_they_are_purged_or_their_group_is_deleted() {
    let config = MemoryConfig { capacity: 3, partitions: 1, ..MemoryConfig::default() };
    let broker = MemoryBroker::with_config(config).unwrap();
    broker.declare_topic(TOPIC).unwrap();
    for round in 0..2 {
        let mut reader = Reader::open(&broker, spec(10)).await;
        for n in 0..3 {
            send(&broker, &n.to_string()).await;
            let bad = reader.take(1).await.remove(0);
            reader.settle(&bad, dead_letter(&bad, "bad")).await;
        }
        assert_eq!(send_with(&broker, message("x"), None).await.unwrap_err().kind(), ErrorKind::Backpressure);
        if round == 0 {
            let mut dead = broker.admin().dead_letters(&topic(), &group()).await.unwrap();
            assert_eq!(dead.purge(Some(1)).await.unwrap(), 1);
            send(&broker, "there is room again").await;
            assert_eq!(dead.purge(None).await.unwrap(), 2);
            let rest = reader.take(1).await.remove(0);
            reader.ack(&rest).await;
        } else {
            broker.admin().delete_group(&topic(), &group()).await.unwrap();
            // Without a group nothing is settled: what the log kept stays, what the group kept is gone.
            let info = broker.admin().describe_topic(&topic()).await.unwrap();
            let messages = broker.sent(TOPIC).unwrap().len().to_string();
            assert!(info.properties.contains(&("messages".to_owned(), messages)), "{info:?}");
        }
    }
}
