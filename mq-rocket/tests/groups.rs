//! A group of RocketMQ's belongs to no topic: what happens to it for one must not reach another. On a real RocketMQ
//! (`cargo xtask brokers up rocket-5.4` prints the environment).

use std::time::{Duration, SystemTime};

use mq_core::config::Url;
use mq_core::driver::{BrokerDriver, ConsumerSpec, GroupSpec, TopicSpec};
use mq_core::message::MessageId;
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_rocket::{RocketBroker, RocketConfig};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_declared_while_another_topic_of_it_is_deleted_is_there() {
    let url = std::env::var("MQ_TEST_ROCKET")
        .unwrap_or_else(|_| panic!("MQ_TEST_ROCKET is not set: cargo xtask brokers up rocket-5.4 prints what to set"));
    let broker = RocketBroker::connect(RocketConfig::from_url(&Url::parse(&url).unwrap()).unwrap()).await.unwrap();
    let (admin, other) = (broker.admin(), broker.admin());
    let name = || MessageId::generate(SystemTime::now()).to_string();
    for round in 0..40_u64 {
        let group = Group::parse(name()).unwrap();
        let (old, new) = (Topic::parse(name()).unwrap(), Topic::parse(name()).unwrap());
        for topic in [&old, &new] {
            admin.declare_topic(&TopicSpec::new(topic.clone()).partitions(1)).await.unwrap();
        }
        admin.declare_group(&GroupSpec::new(old.clone(), group.clone())).await.unwrap();
        let declare = async {
            tokio::time::sleep(Duration::from_millis(round)).await;
            other.declare_group(&GroupSpec::new(new.clone(), group.clone())).await.unwrap();
        };
        let (deleted, ()) = tokio::join!(admin.delete_topic(&old), declare);
        deleted.unwrap();
        let subscription = Subscription::new(new.clone(), group.as_str());
        let items = admin.topology(&GroupSpec::new(new.clone(), group.clone())).await.unwrap();
        let lacking: Vec<_> = items.iter().filter(|item| item.exists == Some(false)).collect();
        assert!(lacking.is_empty(), "in round {round} there is no {lacking:?}");
        let (consumer, _) = broker.open_consumer(ConsumerSpec::new(subscription)).await.unwrap();
        consumer.close(Duration::from_secs(5)).await.unwrap();
        admin.delete_topic(&new).await.unwrap();
    }
}
