use super::*;
use crate::error::{ErrorKind, Retryability};
use crate::memory::{SendFault, SettleFault, SettledHow};

#[tokio::test(start_paused = true)]
async fn sends_fail_as_planned() {
    let broker = broker(1).await;
    let plan = [SendFault::Refused, SendFault::Unavailable, SendFault::StoredUnconfirmed, SendFault::LostUnconfirmed];
    broker.faults().fail_sends(plan);
    let mut outcomes = Vec::new();
    for n in 0..5 {
        let outcome = send_with(&broker, message(&n.to_string()), None).await;
        outcomes.push(outcome.map_err(|error| error.retryability()).err());
    }
    let ambiguous = Some(Retryability::Ambiguous);
    assert_eq!(outcomes, [Some(Retryability::Permanent), Some(Retryability::Transient), ambiguous, ambiguous, None]);
    let stored: Vec<_> =
        broker.sent(TOPIC).unwrap().iter().map(|message| message.body_bytes().cloned().unwrap()).collect();
    assert_eq!(stored, ["2", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_gives_everything_back_with_blame() {
    let broker = broker(1).await;
    send(&broker, "x").await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    let message = reader.take(1).await.remove(0);
    broker.faults().crash_consumers();
    assert_eq!(reader.ack(&message).await, Settled::Stale);
    assert_eq!(reader.driver.poll(&mut Vec::new(), 1, SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
    let mut reader = Reader::open(&broker, spec(1)).await;
    assert_eq!(reader.take(1).await[0].redeliveries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_survives_a_cut_and_old_deliveries_are_stale() {
    for mode in [GroupMode::Shared, GroupMode::Ordered] {
        let broker = MemoryBroker::new();
        broker.declare_topic(TOPIC).unwrap();
        let mut reader =
            Reader::open(&broker, ConsumerSpec::new(Subscription::new(TOPIC, GROUP).mode(mode).prefetch(1))).await;
        send(&broker, "x").await;
        let old = reader.take(1).await.remove(0);
        broker.faults().disconnect();
        assert!(!broker.health(SECOND).await.ready);
        assert_eq!(send_with(&broker, message("y"), None).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(broker.admin().list_topics().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(reader.ack(&old).await, Settled::Stale);
        assert!(reader.poll(1).await.is_empty());
        assert!(matches!(reader.events.last(), Some(Event::Disconnected(_))));
        broker.faults().reconnect();
        let again = reader.take(1).await.remove(0);
        assert!(reader.events.iter().any(|event| matches!(event, Event::Reconnected)));
        assert_eq!((again.redeliveries, again.token.epoch != old.token.epoch), (1, true));
        assert_eq!(reader.ack(&old).await, Settled::Stale);
        assert_eq!(reader.ack(&again).await, Settled::Durable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_is_backpressure_within_the_deadline() {
    let broker = broker(1).await;
    broker.faults().block(true);
    let error = send_with(&broker, message("x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backpressure);
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { send_with(&broker, message("y"), None).await }
    });
    tokio::time::sleep(SECOND).await;
    broker.faults().block(false);
    waiting.await.unwrap().unwrap();
    assert_eq!(broker.sent(TOPIC).unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_condition_needs_no_sleep() {
    let broker = broker(1).await;
    let other = broker.clone();
    let sending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        send(&other, "x").await
    });
    let started = tokio::time::Instant::now();
    broker.until(Duration::from_secs(60), |broker| broker.sent(TOPIC).unwrap().len() == 1).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    sending.await.unwrap();
    let error = broker.until(SECOND, |_| false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(broker.until_idle(TOPIC, GROUP, SECOND).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn settlements_fail_as_planned_and_leave_the_delivery_ours() {
    let broker = broker(1).await;
    send(&broker, "x").await;
    let mut reader = Reader::open(&broker, spec(1)).await;
    let message = reader.take(1).await.remove(0);
    broker.faults().fail_settlements(SettledHow::DeadLetter, [SettleFault::Unavailable, SettleFault::Halfway]);
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let action = dead_letter(&message, "bad");
        let mut batch = vec![Settlement { token: message.token, action }];
        let error = reader.settler.settle(&mut batch).await.pop().unwrap().unwrap_err();
        outcomes.push((error.retryability(), broker.backlog(TOPIC, GROUP).unwrap().dead));
    }
    assert_eq!(outcomes, [(Retryability::Transient, Some(0)), (Retryability::Ambiguous, Some(1))]);
    assert_eq!(reader.ack(&message).await, Settled::Durable, "acks were not made to fail, and the token is valid");
    broker.until_idle(TOPIC, GROUP, SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_condition_on_the_clock_is_noticed_without_a_consumer() {
    let broker = broker(1).await;
    let due = broker.clock().now() + Duration::from_secs(10);
    send_with(&broker, message("later"), Some(due)).await.unwrap();
    let started = tokio::time::Instant::now();
    broker.until(Duration::from_secs(60), |broker| !broker.sent(TOPIC).unwrap().is_empty()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_stall_answers_nothing_and_ends_within_the_deadline() {
    let broker = broker(1).await;
    send(&broker, "1").await;
    let mut reader = Reader::open(&broker, spec(10)).await;
    let first = reader.take(1).await.remove(0);
    broker.faults().stall(true);
    let settling = async {
        let mut batch = vec![Settlement { token: first.token, action: Settle::Ack }];
        reader.settler.settle(&mut batch).await.pop().unwrap()
    };
    let admin = broker.admin();
    let (settled, listed, sent) = tokio::join!(settling, admin.list_topics(), send_with(&broker, message("2"), None));
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Backpressure);
    assert!(!broker.health(SECOND).await.ready);

    let sender = broker.clone();
    let sending = tokio::spawn(async move { send(&sender, "3").await });
    assert!(reader.poll(10).await.is_empty());
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        broker.faults().stall(false);
    };
    let started = tokio::time::Instant::now();
    let (third, ()) = tokio::join!(reader.take(1), releasing);
    assert_eq!((bodies(&third), started.elapsed()), (vec!["3"], Duration::from_millis(100)));
    assert_eq!(reader.ack(&first).await, Settled::Durable, "the session stood");
    sending.await.unwrap();
}
