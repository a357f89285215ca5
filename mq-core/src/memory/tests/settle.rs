use super::*;
use crate::driver::Origin;
use crate::memory::SettledHow;

#[tokio::test(start_paused = true)]
async fn acked_messages_are_gone_for_the_group_in_any_order() {
    let broker = broker(1).await;
    for body in ["1", "2", "3"] {
        send(&broker, body).await;
    }
    let mut reader = Reader::open(&broker, spec(10)).await;
    let messages = reader.take(3).await;
    assert_eq!(reader.ack(&messages[2]).await, Settled::Durable);
    assert_eq!(reader.ack(&messages[0]).await, Settled::Durable);
    assert_eq!(reader.ack(&messages[0]).await, Settled::Stale, "settled twice");
    drop(reader);
    let mut reader = Reader::open(&broker, spec(10)).await;
    let again = reader.take(1).await;
    assert_eq!((bodies(&again), again[0].redeliveries, again[0].redelivered), (vec!["2"], 1, true));
    reader.ack(&again[0]).await;
    assert!(reader.poll(10).await.is_empty());
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().ready, 0);
    assert_eq!(broker.settled(TOPIC, GROUP).unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn requeue_counts_and_release_does_not() {
    let broker = broker(1).await;
    send(&broker, "x").await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    let first = reader.take(1).await.remove(0);
    reader.settle(&first, Settle::Requeue).await;
    let second = reader.take(1).await.remove(0);
    assert_eq!((second.redeliveries, second.control.attempt), (1, 1));
    assert_eq!(reader.ack(&first).await, Settled::Stale, "the first delivery is over");
    reader.settle(&second, Settle::Release).await;
    let third = reader.take(1).await.remove(0);
    assert_eq!((third.redeliveries, third.redelivered), (1, true));
    assert_eq!(reader.settle(&third, Settle::Extend(SECOND)).await, Settled::Durable);
    assert_eq!(reader.ack(&third).await, Settled::Durable);
    let how: Vec<_> = broker.settled(TOPIC, GROUP).unwrap().into_iter().map(|settled| settled.how).collect();
    assert_eq!(how, [SettledHow::Requeue, SettledHow::Release, SettledHow::Ack]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_in_the_broker_and_others_flow() {
    let broker = broker(1).await;
    send(&broker, "bad").await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    let bad = reader.take(1).await.remove(0);
    let due = broker.clock().now() + Duration::from_secs(60);
    assert_eq!(reader.settle(&bad, retry(&bad, due, 2)).await, Settled::Durable);
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().retrying, Some(1));
    send(&broker, "good").await;
    let good = reader.take(1).await.remove(0);
    assert_eq!(body(&good), "good");
    reader.ack(&good).await;

    let mut events = Vec::new();
    reader.driver.poll(&mut events, 1, Duration::from_secs(3600)).await.unwrap();
    assert!(broker.clock().now() >= due);
    let Some(Event::Message(again)) = events.pop() else { panic!("no retry came: {events:?}") };
    assert_eq!((body(&again), again.control.attempt, again.origin), ("bad", 2, Origin::Retry));
    assert_eq!((again.control.due, &again.position, again.redeliveries), (Some(due), &bad.position, 0));

    // A crash keeps the attempt, and counts as a redelivery.
    drop(reader);
    let mut reader = Reader::open(&broker, spec(1)).await;
    let again = reader.take(1).await.remove(0);
    assert_eq!((body(&again), again.control.attempt, again.redeliveries), ("bad", 2, 1));
    assert_eq!(reader.ack(&again).await, Settled::Durable);
    broker.until_idle(TOPIC, GROUP, SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_held_message_stays_and_its_attempt_survives_a_crash() {
    let broker = broker(1).await;
    for body in ["1", "2", "3", "4"] {
        send(&broker, body).await;
    }
    let mut reader = Reader::open(&broker, ConsumerSpec { parking: 2, ..spec(1) }).await;
    let first = reader.take(1).await.remove(0);
    assert!(reader.poll(10).await.is_empty(), "the window is full");
    let due = broker.clock().now() + Duration::from_secs(60);
    assert_eq!(reader.settle(&first, hold(2, due)).await, Settled::Durable);
    assert_eq!(bodies(&reader.take(2).await), ["2", "3"], "the parking window comes on top");
    assert!(reader.poll(10).await.is_empty());
    assert_eq!(reader.settle(&first, Settle::Extend(SECOND)).await, Settled::Durable, "the token stays valid");

    // After a crash the others come at once, but the held one not before it is due.
    drop(reader);
    let mut reader = Reader::open(&broker, spec(10)).await;
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().retrying, Some(1));
    assert_eq!(bodies(&reader.take(3).await), ["2", "3", "4"]);
    let mut events = Vec::new();
    reader.driver.poll(&mut events, 10, Duration::from_secs(3600)).await.unwrap();
    let Some(Event::Message(again)) = events.pop() else { panic!("{events:?}") };
    assert!(broker.clock().now() >= due);
    assert_eq!((body(&again), again.control.attempt, again.control.due), ("1", 2, Some(due)));
    assert!(again.control.first_failed.is_some());
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_held_message_wait_with_it_and_other_keys_do_not() {
    let broker = MemoryBroker::new();
    broker.admin().declare_topic(&TopicSpec::new(topic()).partitions(1)).await.unwrap();
    let mut reader = Reader::open(&broker, ordered(10)).await;
    for body in ["a1", "a2", "b1", "a3", "b2"] {
        send_with(&broker, message(body).key(&body[..1]), None).await.unwrap();
    }
    let first = reader.take(2).await.remove(0);
    let due = broker.clock().now() + Duration::from_secs(60);
    reader.settle(&first, hold(2, due)).await;
    drop(reader);
    let mut reader = Reader::open(&broker, ordered(10)).await;
    assert_eq!(bodies(&reader.take(2).await), ["b1", "b2"]);
    send_with(&broker, message("a4").key("a"), None).await.unwrap();
    send_with(&broker, message("b3").key("b"), None).await.unwrap();
    assert_eq!(bodies(&reader.take(1).await), ["b3"]);
    let mut events = Vec::new();
    reader.driver.poll(&mut events, 10, Duration::from_secs(3600)).await.unwrap();
    assert!(broker.clock().now() >= due);
    let key: Vec<_> =
        events.iter().filter_map(|event| if let Event::Message(m) = event { Some(body(m)) } else { None }).collect();
    assert_eq!(key, ["a1", "a2", "a3", "a4"]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_whole_and_come_back_to_their_group_only() {
    let broker = broker(4).await;
    let other = Group::parse("audit").unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic(), other.clone())).await.unwrap();
    send_with(&broker, message("bad").key("k").header("h", "v"), None).await.unwrap();
    let mut reader = Reader::open(&broker, spec(1)).await;
    let bad = reader.take(1).await.remove(0);
    let error = "é".repeat(2000);
    assert_eq!(reader.settle(&bad, dead_letter(&bad, &error)).await, Settled::Durable);

    let mut dead = broker.admin().dead_letters(&topic(), &group()).await.unwrap();
    for _ in 0..30 {
        let listed = dead.list(10).await.unwrap();
        let record = listed[0].record.as_ref().unwrap();
        assert!(record.error.len() <= 1024 && error.starts_with(&record.error));
        assert_eq!(listed[0].message.headers().get_str("h"), Some("v"));
        assert_eq!(listed[0].message.key_bytes().unwrap(), "k");
        assert_eq!((listed.len(), &record.position), (1, &bad.position));
    }
    assert_eq!(broker.backlog(TOPIC, GROUP).unwrap().dead, Some(1));
    assert_eq!(dead.redrive(10).await.unwrap(), 1);
    assert_eq!(dead.redrive(10).await.unwrap(), 0);
    let back = reader.take(1).await.remove(0);
    assert_eq!((body(&back), back.control.attempt, back.control.redrives), ("bad", 1, 1));
    assert_eq!(back.origin, Origin::Redrive);
    assert_eq!(broker.backlog(TOPIC, "audit").unwrap().ready, 1, "the other group got nothing more");

    reader.settle(&back, dead_letter(&back, "again")).await;
    assert_eq!(broker.dead_letters(TOPIC, GROUP).unwrap()[0].record.as_ref().unwrap().redrives, 1);
    assert_eq!(dead.purge(None).await.unwrap(), 1);
    assert!(broker.dead_letters(TOPIC, GROUP).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_wakes_another_consumer_at_once() {
    let broker = broker(1).await;
    send(&broker, "x").await;
    let mut one = Reader::open(&broker, spec(1)).await;
    let mut two = Reader::open(&broker, spec(1)).await;
    two.poll(0).await;
    let incoming = one.take(1).await.remove(0);
    let started = tokio::time::Instant::now();
    let giving_back = async {
        tokio::task::yield_now().await;
        one.settle(&incoming, Settle::Requeue).await
    };
    let (taken, settled) = tokio::join!(two.poll(1), giving_back);
    assert_eq!((taken.len(), settled, started.elapsed()), (1, Settled::Durable, Duration::ZERO));

    let giving_back = async {
        tokio::task::yield_now().await;
        let due = broker.clock().now() + Duration::from_millis(10);
        two.settle(&taken[0], retry(&taken[0], due, 2)).await
    };
    let (taken, _) = tokio::join!(one.poll(1), giving_back);
    assert_eq!(taken.len(), 1, "it waits for the new due time, not for the end of its poll");
}
