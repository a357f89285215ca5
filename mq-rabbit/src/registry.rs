//! What was declared through the SDK, since AMQP lists neither exchanges nor queues.
//!
//! A stream queue keeps one line for each declaration and deletion; reading it from the beginning consumes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use mq_core::driver::GroupSpec;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::MessageId;
use mq_core::name::{Group, Topic};
use mq_core::subscription::GroupMode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{BACKEND, error, from_client, within};
use crate::link::Link;
use crate::names::{millis, short};

const QUEUE: &str = "mq-registry";
const AHEAD: u16 = 500;

/// One line of the registry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
enum Line {
    Topic {
        topic: String,
    },
    Group {
        topic: String,
        group: String,
        ordered: bool,
        delays: Vec<u64>,
    },
    NoTopic {
        topic: String,
    },
    NoGroup {
        topic: String,
        group: String,
    },
    /// Written by a reader, to know when it has read everything.
    Mark {
        id: String,
    },
    #[serde(other)]
    Unknown,
}

/// A group as it was declared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) ordered: bool,
    pub(crate) delays: BTreeSet<Duration>,
}

/// Everything declared and not deleted.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) topics: BTreeMap<String, BTreeMap<String, Known>>,
    /// Topics declared through the SDK; groups are also remembered of foreign ones.
    pub(crate) declared: BTreeSet<String>,
}

impl Listing {
    fn apply(&mut self, line: Line) {
        match line {
            Line::Topic { topic } => {
                self.declared.insert(topic);
            }
            Line::Group { topic, group, ordered, delays } => {
                let known = self.topics.entry(topic).or_default().entry(group).or_default();
                known.ordered = ordered;
                known.delays.extend(delays.into_iter().map(Duration::from_millis));
            }
            Line::NoTopic { topic } => {
                self.declared.remove(&topic);
                self.topics.remove(&topic);
            }
            Line::NoGroup { topic, group } => {
                if let Some(groups) = self.topics.get_mut(&topic) {
                    groups.remove(&group);
                }
            }
            Line::Mark { .. } | Line::Unknown => {}
        }
    }

    pub(crate) fn group(&self, topic: &Topic, group: &Group) -> Option<&Known> {
        self.topics.get(topic.as_str())?.get(group.as_str())
    }
}

/// The registry of a virtual host.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    link: Link,
}

impl Registry {
    pub(crate) fn new(link: Link) -> Self {
        Self { link }
    }

    pub(crate) async fn topic(&self, topic: &Topic) -> Result<()> {
        self.write(&Line::Topic { topic: topic.as_str().to_owned() }).await
    }

    pub(crate) async fn group(&self, spec: &GroupSpec) -> Result<()> {
        self.write(&Line::Group {
            topic: spec.topic.as_str().to_owned(),
            group: spec.group.as_str().to_owned(),
            ordered: spec.mode == GroupMode::Ordered,
            delays: spec.retry_delays.iter().map(|delay| millis(*delay)).collect(),
        })
        .await
    }

    pub(crate) async fn no_topic(&self, topic: &Topic) -> Result<()> {
        self.write(&Line::NoTopic { topic: topic.as_str().to_owned() }).await
    }

    pub(crate) async fn no_group(&self, topic: &Topic, group: &Group) -> Result<()> {
        let (topic, group) = (topic.as_str().to_owned(), group.as_str().to_owned());
        self.write(&Line::NoGroup { topic, group }).await
    }

    fn limit(&self) -> Duration {
        self.link.config().connect_timeout
    }

    async fn channel(&self) -> Result<lapin::Channel> {
        let channel = self.link.channel(Instant::now() + self.limit()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert(short("x-queue-type")?, AMQPValue::LongString("stream".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        within(self.limit(), channel.queue_declare(short(QUEUE)?, options, arguments)).await?;
        Ok(channel)
    }

    async fn write(&self, line: &Line) -> Result<()> {
        let channel = self.channel().await?;
        within(self.limit(), channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let body = serde_json::to_vec(line).map_err(|cause| {
            error(ErrorKind::Internal, "a line of the registry cannot be written").with_source(cause)
        })?;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let publish = async {
            let exchange = crate::topology::default_exchange();
            channel.basic_publish(exchange, QUEUE.into(), options, &body, properties).await?.await
        };
        let confirmation = within(self.limit(), publish).await?;
        if confirmation.is_ack() && confirmation.take_message().is_none() {
            return Ok(());
        }
        Err(error(ErrorKind::Rejected, "the registry took no entry"))
    }

    /// Reads everything.
    pub(crate) async fn read(&self) -> Result<Listing> {
        let mark = MessageId::generate(std::time::SystemTime::now()).to_string();
        self.write(&Line::Mark { id: mark.clone() }).await?;
        let channel = self.channel().await?;
        within(self.limit(), channel.basic_qos(AHEAD, BasicQosOptions { global: false })).await?;
        let mut from_first = FieldTable::default();
        from_first.insert(short("x-stream-offset")?, AMQPValue::LongString("first".into()));
        let consume = channel.basic_consume(short(QUEUE)?, short("")?, BasicConsumeOptions::default(), from_first);
        let mut stream = within(self.limit(), consume).await?;
        let mut listing = Listing::default();
        let mut count = 0u32;
        loop {
            let next = tokio::time::timeout(self.limit(), stream.next()).await;
            let delivery = match next {
                Ok(Some(Ok(delivery))) => delivery,
                Ok(Some(Err(cause))) => return Err(from_client(&cause)),
                Ok(None) => return Err(error(ErrorKind::Unavailable, "the registry ended while it was read")),
                Err(_) => return Err(Error::timeout(self.limit()).with_backend(BACKEND)),
            };
            count += 1;
            if count.is_multiple_of(u32::from(AHEAD) / 2) {
                let ack = channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true });
                within(self.limit(), ack).await?;
            }
            match serde_json::from_slice(&delivery.data) {
                Ok(Line::Mark { id }) if id == mark => break,
                Ok(line) => listing.apply(line),
                // Anybody may write there; what is not ours says nothing.
                Err(_) => {}
            }
        }
        let _ = within(self.limit(), channel.close(200, "read".into())).await;
        Ok(listing)
    }
}
