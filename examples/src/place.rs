//! A topic of a run's own, on the broker that `MQ_URL` names.

use std::time::SystemTime;

use mq::driver::{GroupSpec, TopicSpec};
use mq::{Broker, Group, GroupMode, Result, RetryPolicy, Topic};

/// A connection, a topic with its groups, and nothing left behind when it is cleared.
#[derive(Debug)]
pub struct Place {
    /// The broker: `MQ_URL`, or the one in memory.
    pub broker: Broker,
    /// The topic; its name is new in every run, so that runs on one broker do not meet.
    pub topic: Topic,
    groups: Vec<Group>,
}

impl Place {
    /// Connects and declares. A group must be there before the first message is sent to it.
    ///
    /// # Errors
    /// What connecting and declaring answer: a bad URL, a broker that is not there, a missing permission.
    pub async fn open(name: &str, mode: GroupMode, groups: &[&str]) -> Result<Self> {
        let url = std::env::var("MQ_URL").ok().filter(|url| !url.is_empty());
        let broker = mq::connect(url.as_deref().unwrap_or("memory:")).await?;
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let topic = Topic::parse(format!("example.{name}.{run:x}"))?;
        let groups = groups.iter().map(|group| Group::parse(*group)).collect::<Result<Vec<_>>>()?;
        broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await?;
        for group in &groups {
            let mut spec = GroupSpec::new(topic.clone(), group.clone());
            spec.mode = mode;
            spec.retry_delays = RetryPolicy::default().tiers();
            broker.admin().declare_group(&spec).await?;
        }
        Ok(Self { broker, topic, groups })
    }

    /// Deletes what was declared and closes the connection.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn clear(self) -> Result<()> {
        for group in &self.groups {
            self.broker.admin().delete_group(&self.topic, group).await?;
        }
        self.broker.admin().delete_topic(&self.topic).await?;
        self.broker.close().await
    }
}
