//! No password in anything that is printed, whatever goes wrong, however much is logged. On a real RocketMQ
//! (`cargo xtask brokers up rocket-5.4` prints the environment), which is asked with a login whether it wants one or not.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends with its first surprise")]

use std::sync::Arc;
use std::time::Duration;

use mq_conformance::secrets::{ENCODED, Log, PASSWORD, clean};
use mq_core::Broker;
use mq_core::config::Url;
use mq_core::driver::TopicSpec;
use mq_core::message::{Message, MessageId};
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_rocket::{RocketBroker, RocketConfig};

/// How long connecting may take in these tests.
const CONNECT: Duration = Duration::from_secs(10);

fn with_password(host: &str) -> RocketConfig {
    let text = format!("rocketmq://key:{ENCODED}@{host}");
    clean("the URL", &format!("{:?}", Url::parse(&text).unwrap()));
    let mut config = RocketConfig::from_url(&Url::parse(&text).unwrap()).unwrap();
    config.connect_timeout = CONNECT;
    assert_eq!(config.password.reveal(), PASSWORD);
    config
}

fn here() -> RocketConfig {
    let url = std::env::var("MQ_TEST_ROCKET")
        .unwrap_or_else(|_| panic!("MQ_TEST_ROCKET is not set: cargo xtask brokers up rocket-5.4 prints what to set"));
    with_password(url.strip_prefix("rocketmq://").expect("the URL of a name server"))
}

#[test]
fn printed_settings() {
    let config = with_password("127.0.0.1:1");
    clean("the configuration", &format!("{config:?} {config:#?}"));
    clean("the configuration as JSON", &serde_json::to_string(&config).unwrap());
    let base = format!("rocketmq://key:{ENCODED}@127.0.0.1:1");
    for bad in ["?x=1", "?topology=hunter2", "?send_timeout=hunter2", "?lease=hunter2", "/hunter2", ":1"] {
        let Err(error) = Url::parse(&format!("{base}{bad}")).and_then(|url| RocketConfig::from_url(&url)) else {
            panic!("{bad} is accepted")
        };
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there() {
    let log = Log::start();
    let mut config = with_password("127.0.0.1:1");
    config.connect_timeout = Duration::from_secs(1);
    let error = RocketBroker::connect(config).await.map(drop).unwrap_err();
    clean("the error", &format!("{error} {error:?} {error:#?}"));
    clean("the log", &log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_send_to_ack() {
    let log = Log::start();
    let driver = RocketBroker::connect(here()).await.unwrap();
    clean("the driver", &format!("{driver:?} {driver:#?}"));
    let broker = Broker::from_driver(Arc::new(driver));
    let name = format!("secrets-{}", MessageId::generate(std::time::SystemTime::now()));
    let (topic, group) = (Topic::parse(name).unwrap(), Group::parse("g").unwrap());
    broker.admin().declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), group.as_str())).await.unwrap();
    let producer = broker.producer().await.unwrap();
    producer.send(Message::to(topic.clone()).body("hello")).await.unwrap();
    let delivery = consumer.recv_within(Duration::from_secs(15)).await.unwrap().expect("a message");
    let printed = format!("{broker:?} {consumer:?} {producer:?} {delivery:?} {:?}", broker.health(CONNECT).await);
    clean("what is printed", &printed);
    delivery.ack().await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!(broker.admin().lag(&topic, &group).await.unwrap().ready, 0, "the ack is at the broker");
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
    tracing::trace!("the log is listened to");
    let text = log.text();
    assert!(text.contains("the log is listened to"), "nothing is logged");
    clean("the log", &text);
}
