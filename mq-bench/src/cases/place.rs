//! Topics of a benchmark, made before and deleted after it.

use mq::driver::{GroupSpec, TopicSpec};
use mq::{Broker, Group, Message, Result, Topic};

/// A topic of one partition and a group, both of this run alone.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) topic: Topic,
    pub(crate) group: Group,
}

impl Place {
    /// Declares a topic with one partition, and a group.
    pub(crate) async fn make(broker: &Broker, what: &str) -> Result<Self> {
        let name = format!("mq-bench-{what}-{:08x}", fastrand::u32(..));
        let place = Self { topic: Topic::parse(name)?, group: Group::parse("bench")? };
        let admin = broker.admin();
        admin.declare_topic(&TopicSpec::new(place.topic.clone()).partitions(1)).await?;
        admin.declare_group(&GroupSpec::new(place.topic.clone(), place.group.clone())).await?;
        Ok(place)
    }

    /// The same topic with another group of its own.
    pub(crate) async fn with_new_group(&self, broker: &Broker) -> Result<Self> {
        let group = Group::parse(format!("bench-{:08x}", fastrand::u32(..)))?;
        broker.admin().declare_group(&GroupSpec::new(self.topic.clone(), group.clone())).await?;
        Ok(Self { topic: self.topic.clone(), group })
    }

    /// Deletes both.
    pub(crate) async fn remove(&self, broker: &Broker) -> Result<()> {
        broker.admin().delete_topic(&self.topic).await
    }

    /// A message of `size` bytes for the topic.
    pub(crate) fn message(&self, body: &bytes::Bytes) -> Message {
        Message::to(self.topic.clone()).body(body.clone())
    }
}

/// A body that does not compress to nothing.
pub(crate) fn body(size: usize) -> bytes::Bytes {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.alphanumeric() as u8).take(size).collect()
}
