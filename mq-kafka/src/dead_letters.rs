//! Dead letters of one group: a topic of one partition, cut off at the front when letters are brought back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_core::dead_letter::{DeadLetter, DeadLetterRecord};
use mq_core::driver::DeadLetterDriver;
use mq_core::error::{Error, Result};
use mq_core::message::{Control, Headers, Message, Position, control};
use mq_core::name::{Group, Topic};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;

use crate::client::{Watch, checked, consumer_config};
use crate::decode::Decoder;
use crate::encode::{number, with_control};
use crate::error::{BACKEND, blocking, from_client};
use crate::link::Link;
use crate::names;
use crate::outgoing::Outgoing;
use crate::topology::Topology;

/// Letters read in one go.
const PAGE: usize = 500;

#[derive(Debug)]
pub(crate) struct DeadLetters {
    link: Arc<Link>,
    topology: Topology,
    topic: Topic,
    group: Group,
    name: String,
    inbox_ready: bool,
}

/// A letter as read.
struct Letter {
    offset: i64,
    message: Message,
    control: Control,
    reserved: Headers,
}

impl DeadLetters {
    pub(crate) fn new(topology: Topology, topic: Topic, group: Group) -> Self {
        let name = names::dead_letters(&topic, &group);
        let link = Arc::clone(topology.link());
        Self { link, topology, topic, group, name, inbox_ready: false }
    }

    /// The first and the next offset; `None` when no letter was ever written.
    async fn ends(&self) -> Result<Option<(i64, i64)>> {
        if self.topology.existing(&self.name).await?.is_none() {
            return Ok(None);
        }
        let (link, name) = (Arc::clone(&self.link), self.name.clone());
        let limit = self.link.config.connect_timeout;
        blocking(limit, "dead letters", move || link.watermarks(&name, 0)).await.map(Some)
    }

    /// How many there are.
    pub(crate) async fn count(&self) -> Result<u64> {
        Ok(self.ends().await?.map_or(0, |(low, high)| u64::try_from(high - low).unwrap_or(0)))
    }

    async fn read(&self, max: usize) -> Result<Vec<Letter>> {
        let Some((low, high)) = self.ends().await? else { return Ok(Vec::new()) };
        if low >= high || max == 0 {
            return Ok(Vec::new());
        }
        let (link, name, topic) = (Arc::clone(&self.link), self.name.clone(), self.topic.clone());
        let limit = self.link.config.connect_timeout;
        blocking(limit + Duration::from_secs(20), "dead letters", move || {
            read(&link, &name, &topic, (low, high), max, limit)
        })
        .await
    }

    /// Removes the letters below `offset`.
    async fn cut(&self, offset: Offset) -> Result<()> {
        let admin = self.topology.admin()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, 0, offset).map_err(|error| from_client(&error, "dead letters"))?;
        let options = self.topology.options();
        let cut = admin.delete_records(&list, &options).await.map_err(|error| from_client(&error, "dead letters"))?;
        for element in cut.elements() {
            element.error().map_err(|error| from_client(&error, "dead letters"))?;
        }
        Ok(())
    }
}

/// Reads letters without joining any group: listing never consumes.
fn read(
    link: &Link,
    name: &str,
    topic: &Topic,
    (low, high): (i64, i64),
    max: usize,
    limit: Duration,
) -> Result<Vec<Letter>> {
    let mut config = consumer_config(&link.config, "mq-dead-letters");
    config.remove("group.instance.id");
    config.set("isolation.level", "read_uncommitted").set("enable.partition.eof", "false");
    let client: BaseConsumer<Watch> = checked(config.create_with_context(Watch::new(&link.config)), "dead letters")?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, Offset::Offset(low)).map_err(|error| from_client(&error, "dead letters"))?;
    client.assign(&list).map_err(|error| from_client(&error, "dead letters"))?;
    drop(list);
    let mut decoder = Decoder::default();
    let mut letters = Vec::new();
    let mut quiet_since = Instant::now();
    while letters.len() < max {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                let offset = record.offset();
                let decoded = decoder.decode(&record, topic, true);
                letters.push(Letter {
                    offset,
                    message: decoded.message,
                    control: decoded.control,
                    reserved: decoded.reserved,
                });
                quiet_since = Instant::now();
                if offset + 1 >= high {
                    break;
                }
            }
            _ if quiet_since.elapsed() > limit => {
                return Err(Error::timeout(limit).with_backend(BACKEND).with_operation("dead letters"));
            }
            _ => {}
        }
    }
    Ok(letters)
}

#[async_trait]
impl DeadLetterDriver for DeadLetters {
    async fn list(&mut self, max: usize) -> Result<Vec<DeadLetter>> {
        let letters = self.read(max).await?;
        let letter = |letter: Letter| {
            let record = DeadLetterRecord::from_headers(&letter.reserved);
            let made = control::millis(&letter.reserved, control::DLQ_ORIGINAL_TIMESTAMP);
            let made = made.or(letter.message.made_at());
            DeadLetter {
                message: letter.message.with_timestamp(made),
                record,
                position: Position::Log { partition: 0, offset: letter.offset },
            }
        };
        Ok(letters.into_iter().map(letter).collect())
    }

    async fn redrive(&mut self, max: usize) -> Result<u64> {
        let letters = self.read(max.min(PAGE)).await?;
        if letters.is_empty() {
            return Ok(0);
        }
        if !self.inbox_ready {
            self.topology.prepare_group(&self.topic, &self.group, &[]).await?;
            self.inbox_ready = true;
        }
        let inbox = names::inbox(&self.topic, &self.group);
        let mut moved = 0;
        for letter in letters {
            let mut patch = Headers::with_capacity(4);
            patch.append(control::ATTEMPT, number(1));
            patch.append(control::REDRIVES, number(letter.control.redrives.saturating_add(1)));
            patch.append(control::GROUP, self.group.as_str().to_owned());
            patch.append(control::ORIGIN, self.topic.text().clone().into_bytes());
            let message = &letter.message;
            self.link
                .store(&Outgoing {
                    topic: &inbox,
                    key: message.key_bytes().map(|key| &**key),
                    body: message.body_bytes().map(|body| &**body),
                    headers: Some(with_control(message, message.message_id(), &patch)),
                })
                .await
                .map_err(|error| error.with_operation("redrive"))?;
            // First the new place, then the old one; one at a time, so that a crash repeats one.
            self.cut(Offset::Offset(letter.offset + 1)).await?;
            moved += 1;
        }
        Ok(moved)
    }

    async fn purge(&mut self, max: Option<u64>) -> Result<u64> {
        let Some((low, high)) = self.ends().await? else { return Ok(0) };
        let all = u64::try_from(high - low).unwrap_or(0);
        let count = max.map_or(all, |max| max.min(all));
        if count == 0 {
            return Ok(0);
        }
        let to = low.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        self.cut(Offset::Offset(to)).await?;
        Ok(count)
    }
}
