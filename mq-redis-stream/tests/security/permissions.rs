//! A user without a permission hears which, at once, and what he may do goes on working.

use std::time::{Duration, Instant};

use mq_core::Broker;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::error::{Error, ErrorKind};
use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::subscription::Subscription;

use crate::control::{PASSWORD, User};
use crate::place::{CONNECT, MARGIN, config, connect, group, owner, topic, unique, variable, works};

/// May use what belongs to the SDK, by every command which endangers nobody else.
async fn limited() -> Broker {
    connect(config(&variable("MQ_TEST_REDIS_LIMITED"))).await.unwrap()
}

fn named(error: &Error, name: &str, began: Instant) {
    assert!(began.elapsed() < CONNECT + MARGIN, "took {:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("ACL SETUSER")), "{error}");
    assert!(error.to_string().contains(name), "it does not name `{name}`: {error}");
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}");
    assert!(!format!("{error} {error:?}").contains("limited-password"), "{error}");
}

async fn sent(broker: &Broker, topic: &Topic) -> Result<(), Error> {
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("x")).await.map(drop).map_err(|error| error.into_parts().0)
}

async fn received(broker: &Broker, topic: &Topic) -> Error {
    match broker.consumer(Subscription::new(topic.clone(), group().as_str())).await {
        Err(error) => error,
        Ok(mut consumer) => consumer.recv_within(Duration::from_secs(5)).await.map(drop).unwrap_err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_permitted_works() {
    works(config(&variable("MQ_TEST_REDIS_LIMITED")), "limited").await;
}

/// The server's settings may not be read: nothing is promised of them, and what is demanded is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_durability_that_cannot_be_seen_is_not_believed() {
    use mq_core::capability::Feature;
    assert!(owner().await.capabilities().supports(Feature::NoLossOnRestart));
    assert!(!limited().await.capabilities().supports(Feature::NoLossOnRestart));
    let mut demanding = config(&variable("MQ_TEST_REDIS_LIMITED"));
    demanding.durability = Some(mq_redis_stream::Durability::Memory);
    let error = connect(demanding).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("ACL SETUSER")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others() {
    let broker = limited().await;
    let foreign = Topic::parse(format!("stream:others-{}", unique("x").name())).unwrap();
    let began = Instant::now();
    named(&sent(&broker, &foreign).await.unwrap_err(), foreign.name(), began);
    let began = Instant::now();
    named(&received(&broker, &foreign).await, foreign.name(), began);
    // Topics under another prefix are others' too.
    let mut elsewhere = config(&variable("MQ_TEST_REDIS_LIMITED"));
    elsewhere.prefix = "other".to_owned();
    let (elsewhere, new) = (connect(elsewhere).await.unwrap(), unique("forbidden"));
    let began = Instant::now();
    let error = elsewhere.admin().declare_topic(&TopicSpec::new(new.clone())).await.unwrap_err();
    named(&error, new.name(), began);
    // And what is permitted goes on.
    let topic = topic("permitted").await;
    sent(&broker, &topic).await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_write() {
    let (topic, user) = (topic("read-only").await, User::new("reader", &["~*", "&*", "+@all", "-xadd"]));
    let broker = connect(user.config()).await.unwrap();
    let began = Instant::now();
    let error = sent(&broker, &topic).await.unwrap_err();
    named(&error, topic.name(), began);
    assert!(error.to_string().contains("xadd"), "{error}");
    // What another sends he receives and acknowledges; dead letters would have to be written.
    sent(&owner().await, &topic).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group().as_str())).await.unwrap();
    consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message").ack().await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group()).await.unwrap().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_read() {
    let (topic, user) = (topic("write-only").await, User::new("writer", &["~*", "&*", "+@all", "-xreadgroup"]));
    let broker = connect(user.config()).await.unwrap();
    sent(&broker, &topic).await.unwrap();
    let began = Instant::now();
    let error = received(&broker, &topic).await;
    named(&error, topic.name(), began);
    assert!(error.to_string().contains("xreadgroup"), "{error}");
}

/// A command inside a script.
#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_settle() {
    let (topic, user) = (topic("no-ack").await, User::new("taker", &["~*", "&*", "+@all", "-xack"]));
    let broker = connect(user.config()).await.unwrap();
    sent(&broker, &topic).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group().as_str())).await.unwrap();
    let delivery = consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message");
    let began = Instant::now();
    let error = delivery.ack().await.unwrap_err();
    // Not the command: 7.0 does not say which.
    named(&error, "settle", began);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_for_scripts() {
    let user = User::new("plain", &["~*", "&*", "+@all", "-@scripting"]);
    let began = Instant::now();
    let error = connect(user.config()).await.map(drop).unwrap_err();
    named(&error, "script", began);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_to_declare() {
    let user = User::new("user", &["~*", "&*", "+@all", "-xgroup"]);
    let (broker, topic) = (connect(user.config()).await.unwrap(), topic("declared").await);
    let began = Instant::now();
    let spec = GroupSpec::new(topic.clone(), mq_core::name::Group::parse("new").unwrap());
    named(&broker.admin().declare_group(&spec).await.unwrap_err(), topic.name(), began);
}
