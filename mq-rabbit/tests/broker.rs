//! What is particular to RabbitMQ, on a real broker (`MQ_TEST_RABBIT`); everything else is in the conformance suite.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with its first surprise")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use mq_core::config::{Topology, Url};
use mq_core::dead_letter::DeadLetterReason;
use mq_core::driver::{
    BrokerDriver, ConsumerDriver, ConsumerSpec, Destination, Event, GroupSpec, Hold, Incoming, Pending, Retry, Settle,
    Settled, Settlement, SettlerDriver, TopicSpec, in_flight,
};
use mq_core::error::{ErrorKind, Retryability};
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, Selector, Subscription};
use mq_rabbit::{RabbitBroker, RabbitConfig};

fn url() -> String {
    std::env::var("MQ_TEST_RABBIT")
        .expect("MQ_TEST_RABBIT names no broker: cargo xtask brokers up rabbit-4.0 prints what to set")
}

fn config() -> RabbitConfig {
    RabbitConfig::from_url(&Url::parse(&url()).unwrap()).unwrap()
}

async fn broker() -> RabbitBroker {
    RabbitBroker::connect(config()).await.unwrap()
}

fn unique(name: &str) -> String {
    format!("{name}-{}", MessageId::generate(std::time::SystemTime::now()))
}

fn group() -> Group {
    Group::parse("g").unwrap()
}

async fn topic(broker: &RabbitBroker, name: &str) -> Topic {
    let topic = Topic::parse(unique(name)).unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    topic
}

async fn stock() -> (Connection, Channel) {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

type Opened = (Box<dyn ConsumerDriver>, Arc<dyn SettlerDriver>);

async fn open(broker: &RabbitBroker, subscription: Subscription, delays: &[Duration]) -> Opened {
    let mut spec = ConsumerSpec::new(subscription);
    spec.retry_delays = delays.to_vec();
    broker.open_consumer(spec).await.unwrap()
}

async fn receive(consumer: &mut Box<dyn ConsumerDriver>) -> Option<Incoming> {
    let until = Instant::now() + Duration::from_secs(5);
    let mut events = Vec::new();
    while Instant::now() < until {
        consumer.poll(&mut events, 1, Duration::from_millis(500)).await.unwrap();
        for event in events.drain(..) {
            if let Event::Message(incoming) = event {
                return Some(incoming);
            }
        }
    }
    None
}

async fn settle(settler: &Arc<dyn SettlerDriver>, incoming: &Incoming, action: Settle) -> Settled {
    let mut batch = vec![Settlement { token: incoming.token, action }];
    settler.settle(&mut batch).await.pop().unwrap().unwrap()
}

/// Sends without waiting in between, then tells what became of each.
async fn send_all(broker: &RabbitBroker, messages: Vec<Message>) -> Vec<Result<(), mq_core::error::Error>> {
    let producer = broker.open_producer().await.unwrap();
    let mut waiting: Vec<Pending> = Vec::new();
    let mut batch = Vec::new();
    for message in messages {
        let (publish, pending) = in_flight(message, Destination::Topic, None, true);
        batch.push(publish);
        waiting.push(pending);
    }
    producer.publish(batch).await;
    let mut results = Vec::new();
    for pending in waiting {
        results.push(pending.await.map(drop).map_err(|(error, _)| error));
    }
    producer.close(Duration::from_secs(5)).await.unwrap();
    results
}

/// The client attaches returns to the wrong confirmation; we must not.
#[tokio::test(flavor = "multi_thread")]
async fn every_unroutable_message_is_told_and_no_other() {
    let broker = broker().await;
    let topic = topic(&broker, "returns").await;
    let pattern = Subscription::new(&topic, &group()).select(Selector::RoutingPattern("good.#".into()));
    let (consumer, _settler) = open(&broker, pattern, &[]).await;
    consumer.close(Duration::from_secs(5)).await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let good: Vec<bool> = (0..5000).map(|number| random.u8(..) < if number < 2500 { 128 } else { 250 }).collect();
    let messages = good.iter().enumerate().map(|(number, good)| {
        let message = Message::to(topic.clone()).routing_key(if *good { "good.eu" } else { "bad.eu" }).body("b");
        // Ids that repeat, and none at all: neither may confuse the matching.
        match number % 3 {
            0 => message,
            1 => message.id("same"),
            _ => message.id(number.to_string()),
        }
    });
    let results = send_all(&broker, messages.collect()).await;
    for (number, (good, result)) in good.iter().zip(&results).enumerate() {
        match result {
            Ok(()) => assert!(good, "{number} was routed to nobody, and confirmed"),
            Err(error) => {
                assert!(!good, "{number} was stored, and reported as {error}");
                assert_eq!(error.kind(), ErrorKind::Unroutable);
            }
        }
    }
    let stored = good.iter().filter(|good| **good).count() as u64;
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, stored);
    broker.admin().delete_topic(&topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_select_by_headers() {
    let broker = broker().await;
    let topic = topic(&broker, "headers").await;
    let selector = Selector::Headers { pairs: vec![("kind".into(), "a".into()), ("eu".into(), "1".into())], all: true };
    let (mut consumer, settler) = open(&broker, Subscription::new(&topic, &group()).select(selector), &[]).await;
    let message =
        |kind: &str, eu: &str| Message::to(topic.clone()).header("kind", kind.to_owned()).header("eu", eu.to_owned());
    let results = send_all(
        &broker,
        vec![message("a", "0").body("no"), message("a", "1").body("yes"), message("b", "1").body("no")],
    )
    .await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    let incoming = receive(&mut consumer).await.unwrap();
    assert_eq!(incoming.message.body_bytes().unwrap(), "yes");
    assert_eq!(settle(&settler, &incoming, Settle::Ack).await, Settled::Sent);
    consumer.close(Duration::from_secs(5)).await.unwrap();
    broker.admin().delete_topic(&topic).await.unwrap();
}

/// A retried message of a selecting group comes back to it, with the routing key it was sent with.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_the_routing_key() {
    let broker = broker().await;
    let topic = topic(&broker, "routing").await;
    let pattern = Subscription::new(&topic, &group()).select(Selector::RoutingPattern("order.*".into()));
    let delay = Duration::from_millis(300);
    let (mut consumer, settler) = open(&broker, pattern, &[delay]).await;
    send_all(&broker, vec![Message::to(topic.clone()).routing_key("order.eu").body("b").id("1")]).await;
    for attempt in 1..=3 {
        let incoming = receive(&mut consumer).await.unwrap();
        assert_eq!(incoming.message.routing().map(|key| key.to_string()).as_deref(), Some("order.eu"));
        assert_eq!(incoming.control.attempt, attempt);
        let retry = Retry {
            message: incoming.message.clone(),
            delay,
            due: std::time::SystemTime::now() + delay,
            attempt: attempt + 1,
            first_failed: None,
            redrives: 0,
        };
        settle(&settler, &incoming, Settle::Retry(Box::new(retry))).await;
    }
    consumer.close(Duration::from_secs(5)).await.unwrap();
    broker.admin().delete_topic(&topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses() {
    let mut config = config();
    config.max_length = Some(10);
    let broker = RabbitBroker::connect(config).await.unwrap();
    let topic = topic(&broker, "full").await;
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    let results = send_all(&broker, (0..2000).map(|_| Message::to(topic.clone()).body("b")).collect()).await;
    let stored = results.iter().filter(|result| result.is_ok()).count() as u64;
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(!refused.is_empty());
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");
        assert!(error.hint().is_some());
    }
    assert!(broker.admin().lag(&topic, &group()).await.unwrap().ready >= stored);
    broker.admin().delete_topic(&topic).await.unwrap();
}

/// The net below the worker's crash limit: the broker sets the message aside by itself, and the list says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_own_dead_letters_are_merged() {
    let mut config = config();
    config.delivery_limit = 3;
    let broker = RabbitBroker::connect(config).await.unwrap();
    let topic = topic(&broker, "limit").await;
    let (mut consumer, settler) = open(&broker, Subscription::new(&topic, &group()), &[]).await;
    send_all(&broker, vec![Message::to(topic.clone()).key("k").body("poison").id("p").header("h", "v")]).await;
    for redeliveries in 0..=3 {
        let incoming = receive(&mut consumer).await.unwrap();
        assert_eq!((incoming.redeliveries, incoming.control.attempt), (redeliveries, 1));
        settle(&settler, &incoming, Settle::Requeue).await;
    }
    assert!(receive(&mut consumer).await.is_none());
    consumer.close(Duration::from_secs(5)).await.unwrap();
    let mut letters = broker.admin().dead_letters(&topic, &group()).await.unwrap();
    let listed = letters.list(10).await.unwrap();
    let letter = listed.first().unwrap();
    assert_eq!(letter.message.body_bytes().unwrap(), "poison");
    assert_eq!(letter.message.key_bytes().unwrap(), "k");
    assert_eq!(letter.message.headers().len(), 1);
    let record = letter.record.as_ref().unwrap();
    assert_eq!((record.reason, &record.topic), (DeadLetterReason::CrashLimit, &topic));
    assert_eq!(letters.redrive(10).await.unwrap(), 1);
    let (mut consumer, settler) = open(&broker, Subscription::new(&topic, &group()), &[]).await;
    let incoming = receive(&mut consumer).await.unwrap();
    assert_eq!((incoming.control.redrives, incoming.redeliveries), (1, 0));
    settle(&settler, &incoming, Settle::Ack).await;
    consumer.close(Duration::from_secs(5)).await.unwrap();
    broker.admin().delete_topic(&topic).await.unwrap();
}

/// In key order a message is held; its attempt survives the consumer that held it.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_attempt_survives_its_consumer() {
    let broker = broker().await;
    let topic = topic(&broker, "hold").await;
    let ordered = || Subscription::new(&topic, &group()).mode(GroupMode::Ordered);
    let (mut consumer, settler) = open(&broker, ordered(), &[]).await;
    send_all(&broker, vec![Message::to(topic.clone()).key("k").id("1"), Message::to(topic.clone()).key("k").id("2")])
        .await;
    let incoming = receive(&mut consumer).await.unwrap();
    let hold = Hold { attempt: 2, due: std::time::SystemTime::now() };
    assert_eq!(settle(&settler, &incoming, Settle::Hold(Box::new(hold))).await, Settled::Durable);
    // As a crash: nothing is said to the broker.
    drop((consumer, settler));
    for attempt in 2..=4 {
        let (mut consumer, settler) = open(&broker, ordered(), &[]).await;
        let first = receive(&mut consumer).await.unwrap();
        assert_eq!(first.message.message_id().unwrap().as_str(), "1", "the order is kept");
        assert_eq!(first.control.attempt, attempt);
        let second = receive(&mut consumer).await.unwrap();
        assert_eq!((second.message.message_id().unwrap().as_str(), second.control.attempt), ("2", 1));
        if attempt == 4 {
            settle(&settler, &first, Settle::Ack).await;
            settle(&settler, &second, Settle::Ack).await;
        } else {
            let hold = Hold { attempt: attempt + 1, due: std::time::SystemTime::now() };
            settle(&settler, &first, Settle::Hold(Box::new(hold))).await;
        }
        consumer.close(Duration::from_secs(5)).await.unwrap();
    }
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 0);
    broker.admin().delete_topic(&topic).await.unwrap();
}

/// After a close the broker holds nothing of ours: acknowledgements are not lost at the exit.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_loses_no_acknowledgement() {
    let broker = broker().await;
    let topic = topic(&broker, "exit").await;
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    send_all(&broker, (0..3000).map(|_| Message::to(topic.clone()).body("b")).collect()).await;
    let (mut consumer, settler) = open(&broker, Subscription::new(&topic, &group()).prefetch(500), &[]).await;
    let (mut events, mut taken) = (Vec::new(), 0);
    while taken < 3000 {
        consumer.poll(&mut events, 100, Duration::from_secs(5)).await.unwrap();
        let mut batch: Vec<Settlement> = events
            .drain(..)
            .filter_map(|event| match event {
                Event::Message(incoming) => Some(Settlement { token: incoming.token, action: Settle::Ack }),
                _ => None,
            })
            .collect();
        taken += batch.len();
        // Out of order, so that there are holes.
        fastrand::shuffle(&mut batch);
        settler.settle(&mut batch).await;
    }
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 0);
    broker.admin().delete_topic(&topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_exchanges_are_read_and_written() {
    let broker = broker().await;
    let (_connection, channel) = stock().await;
    let name = unique("exchange");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default()).await.unwrap();
    let place = Topic::parse(format!("exchange:{name}")).unwrap();
    let nobody = send_all(&broker, vec![Message::to(place.clone()).routing_key("eu").body("lost")]).await;
    assert_eq!(nobody[0].as_ref().unwrap_err().kind(), ErrorKind::Unroutable);
    let delay = Duration::from_millis(200);
    let subscription = Subscription::new(&place, &group()).select(Selector::RoutingPattern("eu".into()));
    let (mut consumer, settler) = open(&broker, subscription, &[delay]).await;
    // What would bite: copies to other queues, an expiration, another user, typed fields, forged control.
    let mut table = FieldTable::default();
    let copies = FieldArray::from(vec![AMQPValue::LongString("nowhere".into())]);
    table.insert("CC".into(), AMQPValue::FieldArray(copies));
    table.insert("typed".into(), AMQPValue::LongLongInt(7));
    table.insert("mq-attempt".into(), AMQPValue::LongString("99".into()));
    let properties = BasicProperties::default().with_headers(table).with_expiration("60000".into());
    channel
        .basic_publish(name.as_str().into(), "eu".into(), BasicPublishOptions::default(), b"b", properties)
        .await
        .unwrap()
        .await
        .unwrap();
    for attempt in 1..=2 {
        let incoming = receive(&mut consumer).await.unwrap();
        assert_eq!(incoming.control.attempt, attempt);
        assert_eq!(incoming.message.headers().get_str("mq-attempt"), Some("99"));
        assert_eq!(incoming.message.headers().get_str("typed"), Some("7"));
        assert_eq!(incoming.message.headers().get_str("CC"), Some("[\"nowhere\"]"));
        let retry = Retry {
            message: incoming.message.clone(),
            delay,
            due: std::time::SystemTime::now() + delay,
            attempt: attempt + 1,
            first_failed: None,
            redrives: 0,
        };
        let action = if attempt == 1 { Settle::Retry(Box::new(retry)) } else { Settle::Ack };
        settle(&settler, &incoming, action).await;
    }
    consumer.close(Duration::from_secs(5)).await.unwrap();
    broker.admin().delete_group(&place, &group()).await.unwrap();
    channel.exchange_delete(name.as_str().into(), Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_type_is_read() {
    let broker = broker().await;
    let (_connection, channel) = stock().await;
    let name = unique("classic");
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), durable, FieldTable::default()).await.unwrap();
    channel
        .queue_bind(
            name.as_str().into(),
            "amq.fanout".into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let place = Topic::parse(format!("queue:{name}")).unwrap();
    assert!(send_all(&broker, vec![Message::to(place.clone()).body("b")]).await[0].is_ok());
    let (mut consumer, settler) = open(&broker, Subscription::new(&place, &group()), &[]).await;
    let incoming = receive(&mut consumer).await.unwrap();
    assert_eq!(incoming.message.body_bytes().unwrap(), "b");
    settle(&settler, &incoming, Settle::Ack).await;
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!(channel.queue_delete(name.as_str().into(), Default::default()).await.unwrap(), 0, "left in the queue");
    broker.admin().delete_group(&place, &group()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_refuses_what_is_missing_or_different() {
    let declaring = broker().await;
    let topic = topic(&declaring, "verify").await;
    let mut config = config();
    config.topology = Topology::Verify;
    let verifying = RabbitBroker::connect(config.clone()).await.unwrap();
    let spec = || ConsumerSpec::new(Subscription::new(&topic, &group()));
    let missing = verifying.open_consumer(spec()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.hint().is_some_and(|hint| hint.contains("mq topology")), "{missing}");
    declaring.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    let (consumer, _settler) = verifying.open_consumer(spec()).await.unwrap();
    consumer.close(Duration::from_secs(5)).await.unwrap();
    config.delivery_limit = 77;
    let other = RabbitBroker::connect(config).await.unwrap();
    assert_eq!(other.open_consumer(spec()).await.unwrap_err().kind(), ErrorKind::TopologyConflict);
    declaring.admin().delete_topic(&topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_clear_prompt_and_keep_secrets() {
    let refused = |change: fn(&mut RabbitConfig)| async move {
        let mut config = config();
        config.connect_timeout = Duration::from_secs(3);
        change(&mut config);
        let began = Instant::now();
        let error = RabbitBroker::connect(config).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{error} after {:?}", began.elapsed());
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        assert!(error.hint().is_some(), "{error}");
        error.kind()
    };
    assert_eq!(refused(|config| config.password = mq_core::config::Secret::new("s3cret")).await, ErrorKind::Auth);
    assert_eq!(refused(|config| config.vhost = "nowhere".into()).await, ErrorKind::NotFound);
    assert_eq!(refused(|config| config.hosts = vec!["127.0.0.1:1".into()]).await, ErrorKind::Unavailable);
    assert_eq!(refused(|config| config.hosts = vec!["no.such.host.invalid".into()]).await, ErrorKind::Unavailable);
}

/// With the authority given, and only with it.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_connections_are_checked() {
    let url = std::env::var("MQ_TEST_RABBIT_TLS")
        .expect("MQ_TEST_RABBIT_TLS names no broker: cargo xtask brokers up rabbit-4.0 prints what to set");
    let config = RabbitConfig::from_url(&Url::parse(&url).unwrap()).unwrap();
    let broker = RabbitBroker::connect(config.clone()).await.unwrap();
    let topic = topic(&broker, "tls").await;
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    assert!(send_all(&broker, vec![Message::to(topic.clone()).body("b")]).await[0].is_ok());
    broker.admin().delete_topic(&topic).await.unwrap();
    let refused = |change: fn(&mut RabbitConfig)| {
        let mut config = config.clone();
        config.connect_timeout = Duration::from_secs(3);
        change(&mut config);
        async move { RabbitBroker::connect(config).await.unwrap_err().kind() }
    };
    assert_eq!(refused(|config| config.tls.ca = None).await, ErrorKind::Auth, "an authority nobody knows");
    assert_eq!(refused(|config| config.tls.server_name = Some("other.example".into())).await, ErrorKind::Auth);
    assert_eq!(refused(|config| config.tls.ca = Some("no such file".into())).await, ErrorKind::Config);
}

/// One message the broker refuses closes the channel: that one is told why, its neighbours are not called stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_spoils_no_neighbour() {
    let broker = broker().await;
    let (gone, there) = (topic(&broker, "gone").await, topic(&broker, "there").await);
    for topic in [&gone, &there] {
        broker.admin().declare_group(&GroupSpec::new(topic.clone(), group())).await.unwrap();
    }
    let producer = broker.open_producer().await.unwrap();
    let send = async |topic: &Topic| {
        let (publish, pending) = in_flight(Message::to(topic.clone()).body("b"), Destination::Topic, None, true);
        producer.publish(vec![publish]).await;
        pending.await.map(drop).map_err(|(error, _)| error)
    };
    send(&gone).await.unwrap();
    // By another program: our knowledge of it is now wrong.
    let (_connection, channel) = stock().await;
    channel.exchange_delete(gone.name().into(), Default::default()).await.unwrap();
    let mut batch = Vec::new();
    let mut waiting = Vec::new();
    for number in 0..20 {
        let topic = if number == 10 { &gone } else { &there };
        let (publish, pending) = in_flight(Message::to(topic.clone()).body("b"), Destination::Topic, None, true);
        batch.push(publish);
        waiting.push(pending);
    }
    producer.publish(batch).await;
    let mut stored = 0;
    for (number, pending) in waiting.into_iter().enumerate() {
        match pending.await {
            Ok(_) => {
                assert_ne!(number, 10);
                stored += 1;
            }
            Err((error, _)) if number == 10 => {
                assert_eq!(
                    (error.kind(), error.retryability()),
                    (ErrorKind::NotFound, Retryability::Permanent),
                    "{error}"
                );
            }
            Err((error, _)) => assert!(error.is_ambiguous() || error.is_transient(), "{error}"),
        }
    }
    assert!(broker.admin().lag(&there, &group()).await.unwrap().ready >= stored);
    send(&there).await.unwrap();
    assert_eq!(send(&gone).await.unwrap_err().kind(), ErrorKind::NotFound);
    broker.admin().delete_topic(&there).await.unwrap();
    broker.admin().delete_group(&gone, &group()).await.unwrap();
}
