//! A user without a permission hears which, at once, and what he may do goes on working.

use std::time::{Duration, Instant};

use mq_core::Broker;
use mq_core::config::Secret;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::{Error, ErrorKind};
use mq_core::message::Message;
use mq_core::subscription::Subscription;

use crate::control::{LIMITED, users};
use crate::place::{CONNECT, MARGIN, config, connect, group, topic, unique, variable, works};

async fn limited() -> Broker {
    users();
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    (config.user, config.password) = (LIMITED.to_owned(), Secret::new("mq-test"));
    connect(config).await.unwrap()
}

fn named(error: &Error, name: &str) {
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("set_permissions")), "{error}");
    assert!(error.to_string().contains(name), "it does not name `{name}`: {error}");
    assert!(!error.to_string().contains("mq-test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_permitted_works() {
    users();
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    (config.user, config.password) = (LIMITED.to_owned(), Secret::new("mq-test"));
    works(config, "may-everything").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_write() {
    let (broker, forbidden, allowed) = (limited().await, topic("forbidden").await, topic("may-write").await);
    let producer = broker.producer().await.unwrap();
    let began = Instant::now();
    let error = producer.send(Message::to(forbidden.clone()).body("x")).await.unwrap_err().into_parts().0;
    assert!(began.elapsed() < CONNECT + MARGIN, "took {:?}", began.elapsed());
    named(&error, forbidden.name());
    // Several at once, one of them permitted: each has its own answer.
    let mixed = vec![
        Message::to(forbidden.clone()).body("x"),
        Message::to(allowed.clone()).body("y"),
        Message::to(forbidden).body("z"),
    ];
    let results = producer.send_batch(mixed).await;
    let stored = match results.as_slice() {
        [Err(one), second, Err(other)] => {
            named(one.error(), "forbidden");
            // The refusal of the first may close the channel before this one is handed to it: then it was never sent.
            if other.error().kind() == ErrorKind::Unavailable {
                assert!(!other.error().is_ambiguous(), "{}", other.error());
            } else {
                named(other.error(), "forbidden");
            }
            // The refusal closes the channel: what shared it is stored and confirmed, or not known.
            assert!(second.is_ok() || second.as_ref().is_err_and(|e| e.error().is_ambiguous()));
            u64::from(second.is_ok())
        }
        other => panic!("{other:?}"),
    };
    producer.send(Message::to(allowed.clone()).body("x")).await.unwrap();
    let ready = broker.admin().lag(&allowed, &group()).await.unwrap().ready;
    assert!((1 + stored..=2).contains(&ready), "{ready} messages: fewer than confirmed, or more than sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_read() {
    let (broker, topic) = (limited().await, topic("forbidden").await);
    let began = Instant::now();
    let error = match broker.consumer(Subscription::new(topic.clone(), group().as_str())).await {
        Err(error) => error,
        Ok(mut consumer) => consumer.recv_within(Duration::from_secs(5)).await.map(drop).unwrap_err(),
    };
    assert!(began.elapsed() < CONNECT + MARGIN, "took {:?}", began.elapsed());
    named(&error, topic.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_configure() {
    let (broker, new, there) = (limited().await, unique("forbidden"), topic("forbidden").await);
    let admin = broker.admin();
    named(&admin.declare_topic(&TopicSpec::new(new.clone())).await.unwrap_err(), new.name());
    named(&admin.delete_topic(&there).await.unwrap_err(), there.name());
    let mut spec = GroupSpec::new(there.clone(), group());
    spec.retry_delays = vec![Duration::from_secs(1)];
    named(&admin.declare_group(&spec).await.unwrap_err(), there.name());
}
