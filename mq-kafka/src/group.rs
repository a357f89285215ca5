//! Places of groups: read and written by a client that never joins.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::client::{Watch, checked, consumer_config};
use crate::encode::millis;
use crate::error::{BACKEND, blocking, fault, from_client, from_code};
use crate::link::Link;
use crate::offset_map::OffsetMap;

/// How long after a coordinator sent us away it is asked again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Events looked at for a refusal; it is repeated with every attempt.
const REFUSALS: usize = 16;

/// A group's place in one partition.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// `None`: the group has never been here.
    pub(crate) committed: Option<i64>,
    pub(crate) map: OffsetMap,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Place {
    /// Messages the group has not settled.
    pub(crate) fn lag(&self) -> u64 {
        let from = self.committed.map_or(self.low, |committed| committed.max(self.low));
        let settled: u64 = self.map.settled.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        u64::try_from(self.high - from).unwrap_or(0).saturating_sub(settled)
    }
}

/// Where a group is to stand.
#[derive(Debug, Clone)]
pub(crate) enum To {
    Earliest,
    Latest,
    Time(SystemTime),
    Position(Position),
}

/// A client of the group that never joins it.
fn observer(link: &Link, group: &str) -> Result<BaseConsumer<Watch>> {
    let mut config = consumer_config(&link.config, group);
    // It is no member: a static identity would fence the real one.
    config.remove("group.instance.id");
    // A transaction that a dead process left open is no reason to wait: what it changes, its end changes.
    config.set("isolation.level", "read_uncommitted");
    checked(config.create_with_context(Watch::new(&link.config)), "read group")
}

/// The group's places in these topics: name and number of partitions each.
pub(crate) async fn places(link: &Arc<Link>, group: &str, topics: Vec<(String, u32)>) -> Result<Vec<Place>> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let (link, group) = (Arc::clone(link), group.to_owned());
    let limit = link.config.connect_timeout;
    blocking(limit, "read group", move || {
        let client = observer(&link, &group)?;
        let mut places = committed(&client, &link, &topics).map_err(|error| error.with_context("group", &group))?;
        for place in &mut places {
            (place.low, place.high) = link.watermarks(&place.topic, place.partition)?;
        }
        Ok(places)
    })
    .await
}

/// Asks until the group has a coordinator that answers: while a broker starts or the role moves there is none for a
/// moment, and the client hands that answer on instead of trying again.
pub(crate) fn settled_coordinator<T>(
    limit: Duration,
    mut ask: impl FnMut(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let until = Instant::now() + limit;
    loop {
        let answer = ask(until.saturating_duration_since(Instant::now()));
        let moving = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code).is_some_and(|code| {
            matches!(
                code,
                Code::NotCoordinator
                    | Code::CoordinatorNotAvailable
                    | Code::CoordinatorLoadInProgress
                    | Code::WaitingForCoordinator
            )
        });
        if !moving || Instant::now() + ASK_AGAIN >= until {
            return answer;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn committed(client: &BaseConsumer<Watch>, link: &Link, topics: &[(String, u32)]) -> Result<Vec<Place>> {
    let mut list = TopicPartitionList::new();
    for (topic, partitions) in topics {
        for partition in 0..i32::try_from(*partitions).unwrap_or(0) {
            list.add_partition(topic, partition);
        }
    }
    let limit = link.config.connect_timeout;
    let found = settled_coordinator(limit, |left| client.committed_offsets(list.clone(), left))
        .map_err(|error| refused(client, &error))?;
    let place = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        // The wrapper panics on text that is not UTF-8; that is none of ours.
        let map = catch_unwind(AssertUnwindSafe(|| OffsetMap::decode(element.metadata()))).ok().flatten();
        Place {
            topic: element.topic().to_owned(),
            partition: element.partition(),
            committed: element.offset().to_raw().filter(|offset| *offset >= 0),
            map: map.unwrap_or_default(),
            low: 0,
            high: 0,
        }
    };
    Ok(found.elements().iter().map(place).collect())
}

/// A group that may not be read only times out; the refusal comes as if something had been received.
fn refused(client: &BaseConsumer<Watch>, error: &KafkaError) -> Error {
    let refusal = (0..REFUSALS).filter_map(|_| client.poll(Duration::ZERO)).find_map(|event| {
        let code = event.err()?.rdkafka_error_code()?;
        (code == Code::GroupAuthorizationFailed).then_some(code)
    });
    match refusal {
        Some(code) => from_code(code).with_backend(BACKEND).with_operation("read group"),
        None => from_client(error, "read group"),
    }
}

/// Moves the group; only partitions it has never been in when `new_only`. Works only while it has no members.
pub(crate) async fn place(
    link: &Arc<Link>,
    group: &str,
    topic: String,
    partitions: u32,
    to: To,
    new_only: bool,
) -> Result<()> {
    let (link, group) = (Arc::clone(link), group.to_owned());
    let limit = link.config.connect_timeout;
    blocking(limit, "seek", move || {
        let client = observer(&link, &group)?;
        let mut places = committed(&client, &link, &[(topic.clone(), partitions)])
            .map_err(|error| error.with_context("group", &group))?;
        if new_only {
            places.retain(|place| place.committed.is_none());
        }
        if let To::Position(position) = &to {
            places.retain(|place| position.partition() == u32::try_from(place.partition).ok());
            if places.is_empty() && !new_only {
                return Err(fault(ErrorKind::Config, format!("the topic has no partition of position {position}")));
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let times = match &to {
            To::Time(at) => Some(times(&client, &link, &places, *at)?),
            _ => None,
        };
        let mut list = TopicPartitionList::new();
        for place in &places {
            let (low, high) = link.watermarks(&place.topic, place.partition)?;
            let offset = match &to {
                To::Earliest => low,
                To::Latest => high,
                // Nothing that young: behind the newest.
                To::Time(_) => times
                    .as_ref()
                    .and_then(|times| times.find_partition(&place.topic, place.partition))
                    .and_then(|element| element.offset().to_raw())
                    .filter(|offset| *offset >= 0)
                    .unwrap_or(high),
                To::Position(Position::Log { offset, .. }) if (low..=high).contains(offset) => *offset,
                To::Position(position) => {
                    return Err(fault(ErrorKind::Config, format!("position {position} is not in the log"))
                        .with_context("first", low)
                        .with_context("end", high));
                }
            };
            list.add_partition_offset(&place.topic, place.partition, Offset::Offset(offset))
                .map_err(|error| from_client(&error, "seek"))?;
        }
        settled_coordinator(limit, |_| client.commit(&list, CommitMode::Sync))
            .map_err(|error| from_client(&error, "seek"))
    })
    .await
}

/// Messages of each partition that the group has not settled and that are older than `at`.
pub(crate) async fn unread_before(
    link: &Arc<Link>,
    group: &str,
    topic: (String, u32),
    at: SystemTime,
) -> Result<Vec<(i32, u64)>> {
    let (link, group) = (Arc::clone(link), group.to_owned());
    blocking(link.config.connect_timeout, "read group", move || {
        let client = observer(&link, &group)?;
        let places = committed(&client, &link, &[topic]).map_err(|error| error.with_context("group", &group))?;
        let times = times(&client, &link, &places, at)?;
        let mut unread = Vec::new();
        for place in &places {
            let (low, high) = link.watermarks(&place.topic, place.partition)?;
            // Nothing that young: all of it is older.
            let young = times.find_partition(&place.topic, place.partition).and_then(|found| found.offset().to_raw());
            let young = young.filter(|offset| *offset >= 0).unwrap_or(high);
            let from = place.committed.unwrap_or(low).max(low);
            let count = u64::try_from(young.saturating_sub(from)).unwrap_or(0);
            if count > 0 {
                unread.push((place.partition, count));
            }
        }
        Ok(unread)
    })
    .await
}

fn times(client: &BaseConsumer<Watch>, link: &Link, places: &[Place], at: SystemTime) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for place in places {
        list.add_partition_offset(&place.topic, place.partition, Offset::Offset(millis(at)))
            .map_err(|error| from_client(&error, "seek"))?;
    }
    client.offsets_for_times(list, link.config.connect_timeout).map_err(|error| from_client(&error, "seek"))
}

/// Members of groups: all, or one.
pub(crate) async fn members(link: &Arc<Link>, group: Option<&str>) -> Result<Vec<(String, String, u32)>> {
    let (client, limit) = (link.client(), link.config.connect_timeout);
    let group = group.map(str::to_owned);
    blocking(limit, "list groups", move || {
        use rdkafka::producer::Producer as _;
        let groups = client
            .client()
            .fetch_group_list(group.as_deref(), limit)
            .map_err(|error| from_client(&error, "list groups"))?;
        Ok(groups
            .groups()
            .iter()
            .map(|group| {
                let members = u32::try_from(group.members().len()).unwrap_or(u32::MAX);
                (group.name().to_owned(), group.state().to_owned(), members)
            })
            .collect())
    })
    .await
}

/// Fails when the group has members: its places are theirs to write.
pub(crate) async fn must_be_empty(link: &Arc<Link>, group: &str) -> Result<()> {
    let members: u32 = members(link, Some(group)).await?.iter().map(|(_, _, members)| members).sum();
    if members == 0 {
        return Ok(());
    }
    let error: Error = fault(ErrorKind::Rejected, format!("the group has {members} member(s)"));
    Err(error
        .with_context("group", group)
        .with_hint("stop its consumers (a killed one counts until its session ends), then try again"))
}
