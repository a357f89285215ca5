use super::*;
use crate::error::ErrorKind;

#[tokio::test(start_paused = true)]
async fn a_group_starts_where_it_was_told_and_outlives_its_consumers() {
    let broker = broker(2).await;
    send(&broker, "1").await;
    let admin = broker.admin();
    for (name, start) in [("late", StartFrom::SinceDeclared), ("early", StartFrom::Earliest)] {
        let mut spec = GroupSpec::new(topic(), Group::parse(name).unwrap());
        spec.start = start;
        admin.declare_group(&spec).await.unwrap();
    }
    send(&broker, "2").await;
    let open = |name: &str| Reader::open(&broker, ConsumerSpec::new(Subscription::new(TOPIC, name)));
    assert_eq!(bodies(&open("late").await.take(1).await), ["2"]);
    let mut early = open("early").await;
    let messages = early.take(2).await;
    assert_eq!(bodies(&messages), ["1", "2"]);
    early.ack(&messages[0]).await;
    early.driver.close(SECOND).await.unwrap();
    let again = open("early").await.take(1).await;
    assert_eq!((bodies(&again), again[0].redeliveries, again[0].redelivered), (vec!["2"], 0, true));
}

#[tokio::test(start_paused = true)]
async fn consumers_of_a_shared_group_compete() {
    let broker = broker(1).await;
    let (mut one, mut two) = (Reader::open(&broker, spec(2)).await, Reader::open(&broker, spec(2)).await);
    for body in ["1", "2", "3", "4"] {
        send(&broker, body).await;
    }
    assert_eq!(bodies(&one.take(2).await), ["1", "2"]);
    assert_eq!(bodies(&two.take(2).await), ["3", "4"]);
    drop(one);
    two.settler.flush(SECOND).await.unwrap();
    assert!(two.poll(10).await.is_empty(), "its window is full");
}

#[tokio::test(start_paused = true)]
async fn the_mode_of_a_group_is_fixed() {
    let broker = broker(1).await;
    let error = broker.open_consumer(ordered(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopologyConflict);
    assert!(error.hint().is_some());
}

/// A broker whose group is ordered, and created by its first consumer.
async fn ordered_broker() -> MemoryBroker {
    let broker = MemoryBroker::new();
    broker.declare_topic(TOPIC).unwrap();
    broker
}

#[tokio::test(start_paused = true)]
async fn a_partition_changes_hands_only_after_it_was_drained() {
    let broker = ordered_broker().await;
    let mut one = Reader::open(&broker, ordered(10)).await;
    for n in 0..8 {
        send(&broker, &n.to_string()).await;
    }
    let messages = one.take(8).await;
    assert!(matches!(&one.events[..], [Event::Assigned(lanes)] if lanes[..] == [0, 1, 2, 3]));

    let mut two = Reader::open(&broker, ordered(10)).await;
    assert!(one.poll(10).await.is_empty());
    let Some(Event::Revoking(revocation, lanes)) = one.events.pop() else { panic!("{:?}", one.events) };
    assert_eq!(lanes, [2, 3]);
    assert!(two.poll(10).await.is_empty(), "not drained yet");
    assert!(two.events.is_empty());

    // Two of the four in flight there are settled, the rest goes over without blame.
    let moving: Vec<_> = messages.iter().filter(|incoming| incoming.token.lane >= 2).collect();
    one.ack(moving[0]).await;
    one.ack(moving[1]).await;
    one.driver.revoked(revocation).await.unwrap();
    let taken = two.take(2).await;
    assert!(matches!(&two.events[..], [Event::Assigned(lanes)] if lanes[..] == [2, 3]));
    assert_eq!(bodies(&taken), [body(moving[2]), body(moving[3])]);
    assert!(taken.iter().all(|incoming| incoming.redeliveries == 0 && incoming.redelivered));
    assert_eq!(one.ack(moving[2]).await, Settled::Stale);
    assert_eq!(two.ack(&taken[0]).await, Settled::Durable);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_drain_in_time_loses_the_partition() {
    let broker = ordered_broker().await;
    let mut one = Reader::open(&broker, ordered(10)).await;
    for n in 0..4 {
        send(&broker, &n.to_string()).await;
    }
    one.take(4).await;
    let mut two = Reader::open(&broker, ordered(10)).await;
    let started = tokio::time::Instant::now();
    let mut events = Vec::new();
    while events.iter().filter(|event| matches!(event, Event::Message(_))).count() < 2 {
        two.driver.poll(&mut events, 10, Duration::from_secs(60)).await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::from_secs(5), "the drain time");
    one.poll(10).await;
    assert!(
        matches!(&one.events[1..], [Event::Revoking(_, _), Event::Lost(a), Event::Lost(b)] if a[..] == [2] && b[..] == [3]),
        "{:?}",
        one.events
    );
}

#[tokio::test(start_paused = true)]
async fn who_crashes_while_draining_is_not_waited_for() {
    let broker = ordered_broker().await;
    let mut one = Reader::open(&broker, ordered(10)).await;
    for n in 0..4 {
        send(&broker, &n.to_string()).await;
    }
    one.take(4).await;
    let mut two = Reader::open(&broker, ordered(10)).await;
    let started = tokio::time::Instant::now();
    drop(one);
    assert_eq!(two.take(4).await.len(), 4);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_crash_hands_everything_over_in_order() {
    let broker = ordered_broker().await;
    let mut one = Reader::open(&broker, ordered(10)).await;
    let mut two = Reader::open(&broker, ordered(10)).await;
    for n in 0..8 {
        send(&broker, &n.to_string()).await;
    }
    one.take(4).await;
    let own = two.take(4).await;
    drop(one);
    let taken = two.take(4).await;
    let mut all: Vec<_> = own.iter().chain(&taken).collect();
    all.sort_by(|one, other| body(one).cmp(body(other)));
    assert_eq!(all.iter().map(|incoming| body(incoming)).collect::<String>(), "01234567");
    assert_eq!(taken.iter().map(|incoming| incoming.redeliveries).sum::<u32>(), 4);
    let places: Vec<_> = taken.iter().map(|incoming| body(incoming).parse::<u32>().unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test(start_paused = true)]
async fn more_consumers_than_partitions_wait_in_line() {
    let broker = ordered_broker().await;
    let mut readers = Vec::new();
    for _ in 0..6 {
        readers.push(Reader::open(&broker, ordered(10)).await);
    }
    let mut owned = 0;
    for reader in &mut readers {
        reader.poll(0).await;
        let last = reader.events.iter().fold(0, |count, event| match event {
            Event::Assigned(lanes) => count + lanes.len(),
            Event::Revoking(_, lanes) => count - lanes.len(),
            _ => count,
        });
        assert!(last <= 1);
        owned += last;
    }
    assert_eq!(owned, 4);
}
