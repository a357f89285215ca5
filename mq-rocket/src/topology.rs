//! Topics, groups and the places of groups: what is there, made and removed.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use mq_core::capability::Feature;
use mq_core::config::Topology as Mode;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use mq_core::name::{Group, Topic};
use mq_core::subscription::{Selector, StartFrom};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::{Core, wait};
use crate::error::{BACKEND, answer, error};
use crate::names;
use crate::remoting::{Command, code};
use crate::route::{Node, Queue};
use crate::sending::millis;

/// Queues of the places of a group: order does not matter there.
const PLACE_QUEUES: u32 = 1;
const READ_AND_WRITE: u32 = 6;

/// A group of a topic, by the broker's names.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) retry: String,
    pub(crate) dead_letters: String,
    /// In ordered groups only.
    pub(crate) attempts: String,
}

impl Place {
    pub(crate) fn new(topic: &Topic, group: &Group) -> Result<Self> {
        Ok(Self {
            topic: names::topic(topic)?,
            group: names::group(group),
            retry: names::retry(topic, group),
            dead_letters: names::dead_letters(topic, group),
            attempts: names::attempts(topic, group),
        })
    }

    /// Where the broker keeps what a group gave back of one of its topics.
    pub(crate) fn given_back(&self, topic: &str) -> String {
        format!("%RETRY%{}_{topic}", self.group)
    }
}

/// The broker's settings of a group, as far as they matter here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct GroupConfig {
    group_name: String,
    consume_enable: bool,
    consume_from_min_enable: bool,
    consume_broadcast_enable: bool,
    consume_message_orderly: bool,
    retry_queue_nums: u32,
    retry_max_times: u32,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            group_name: String::new(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queue_nums: 1,
            // The net below the worker's own crash limit.
            retry_max_times: 10_000,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopicConfig {
    read_queue_nums: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Topics {
    #[serde(default)]
    topic_list: BTreeSet<String>,
}

pub(crate) fn check_selector(selector: Option<&Selector>) -> Result<()> {
    let feature = match selector {
        None => return Ok(()),
        Some(Selector::Headers { .. }) => Feature::RoutingHeaders,
        Some(_) => Feature::RoutingPattern,
    };
    Err(Error::unsupported(feature, BACKEND, "give what a group selects a topic of its own"))
}

/// What a consumer needs, by the topology mode.
pub(crate) async fn prepare(
    core: &Core,
    place: &Place,
    start: &StartFrom,
    ordered: bool,
    deadline: Instant,
) -> Result<()> {
    match core.config.topology {
        Mode::Declare => {
            let away = declare(core, place, start, ordered, deadline).await?;
            if !away.is_empty() {
                tracing::warn!(?away, group = place.group, "brokers that are away do not know of the group yet");
            }
            Ok(())
        }
        Mode::Verify => {
            core.fresh_route(&place.topic, deadline).await?;
            if exists(core, place, ordered, deadline).await? {
                return Ok(());
            }
            Err(error(ErrorKind::NotFound, "the group is not declared, and this program may not do it")
                .with_context("group", &place.group)
                .with_hint("mq topology prints what must be created"))
        }
        Mode::Off => Ok(()),
    }
}

/// True when the group and its places are there, as far as brokers can be asked.
pub(crate) async fn exists(core: &Core, place: &Place, ordered: bool, deadline: Instant) -> Result<bool> {
    let attempts = ordered.then_some(&place.attempts);
    for topic in [&place.retry, &place.dead_letters].into_iter().chain(attempts) {
        if !has_topic(core, topic, deadline).await? {
            return Ok(false);
        }
    }
    let nodes = core.nodes(deadline).await?;
    let found = on_each(&nodes, |node| async move { group_config(core, &node, &place.group, deadline).await }).await?;
    Ok(found.done.iter().all(|(_, config)| config.is_some()))
}

/// What several brokers answered.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    pub(crate) done: Vec<(Arc<Node>, T)>,
    /// The names of those that could not be asked.
    pub(crate) away: Vec<String>,
}

impl<T> Answers<T> {
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.done.iter().map(|(node, _)| Arc::clone(node)).collect()
    }
}

/// The same at several brokers. Those that are away are named; an error when all are, or when one refuses.
pub(crate) async fn on_each<T, F: Future<Output = Result<T>>>(
    nodes: &[Arc<Node>],
    ask: impl Fn(Arc<Node>) -> F,
) -> Result<Answers<T>> {
    let asked = nodes.iter().map(|node| {
        let asked = ask(Arc::clone(node));
        async move { (node, asked.await) }
    });
    let (mut answers, mut last) = (Answers { done: Vec::new(), away: Vec::new() }, None);
    for (node, outcome) in join_all(asked).await {
        match outcome {
            Ok(answer) => answers.done.push((Arc::clone(node), answer)),
            Err(cause) if cause.is_transient() => {
                answers.away.push(node.name.clone());
                last.get_or_insert(cause);
            }
            Err(cause) => return Err(cause),
        }
    }
    match last {
        Some(cause) if answers.done.is_empty() => Err(cause),
        _ => Ok(answers),
    }
}

pub(crate) async fn has_topic(core: &Core, topic: &str, deadline: Instant) -> Result<bool> {
    match core.fresh_route(topic, deadline).await {
        Ok(_) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// The queues a broker itself has of a topic, none when it has none. What a broker makes of its own accord it tells the
/// name server at its next registration only, up to 30 s later: until then no route leads there.
pub(crate) async fn queues_at(core: &Core, node: &Arc<Node>, topic: &str, deadline: Instant) -> Result<Vec<Queue>> {
    let answer = core.ask_soon(node, Command::request(code::GET_TOPIC_CONFIG).field("topic", topic), deadline).await?;
    match answer.code {
        answer::SUCCESS => {
            let config: TopicConfig = serde_json::from_slice(&answer.body)
                .map_err(|_| error(ErrorKind::Internal, "the broker's answer about a topic cannot be read"))?;
            Ok(node.queues(config.read_queue_nums))
        }
        answer::TOPIC_NOT_EXIST => Ok(Vec::new()),
        _ => Err(answer.refusal()),
    }
}

/// Makes the group and its places of a topic that is there. A group that is new begins at `start`. Returns the names of
/// brokers that were away: they do not know of it yet.
pub(crate) async fn declare(
    core: &Core,
    place: &Place,
    start: &StartFrom,
    ordered: bool,
    deadline: Instant,
) -> Result<BTreeSet<String>> {
    let route = core.fresh_route(&place.topic, deadline).await?;
    let new = !has_topic(core, &place.retry, deadline).await?;
    // First: whoever deletes a group of that name elsewhere sees that it is wanted here.
    let mut away = create_topic(core, &place.dead_letters, PLACE_QUEUES, &route.nodes, deadline).await?;
    if ordered {
        // As many queues as the topic has: each keeps the records of one.
        let most = route.nodes.iter().map(|node| route.queues_at(node)).max().unwrap_or(1);
        away.extend(create_topic(core, &place.attempts, most.max(1), &route.nodes, deadline).await?);
    }
    let made = make_group(core, place, &route.nodes, ordered, deadline).await?;
    let nodes = made.nodes();
    away.extend(made.away);
    if new {
        for queue in route.readable.iter().filter(|queue| nodes.contains(&queue.broker)) {
            begin(core, place, queue, start, deadline).await?;
        }
    }
    // Last: a group whose declaration was cut short is declared again, from its start.
    away.extend(create_topic(core, &place.retry, PLACE_QUEUES, &route.nodes, deadline).await?);
    // Whoever deletes it elsewhere may have looked before its places were to be seen.
    make_group(core, place, &nodes, ordered, deadline).await?;
    Ok(away)
}

/// Makes the group where it is not there.
async fn make_group(
    core: &Core,
    place: &Place,
    nodes: &[Arc<Node>],
    ordered: bool,
    deadline: Instant,
) -> Result<Answers<()>> {
    on_each(nodes, |node| async move {
        // A group of the broker's has many topics. What order its messages come in is asked with each request.
        if group_config(core, &node, &place.group, deadline).await?.is_none() {
            create_group(core, &node, &place.group, ordered, deadline).await?;
        }
        Ok(())
    })
    .await
}

/// Makes the group at a broker that was away when it was declared; false when no other broker has it either.
pub(crate) async fn catch_up(
    core: &Core,
    place: &Place,
    node: &Arc<Node>,
    start: &StartFrom,
    ordered: bool,
    deadline: Instant,
) -> Result<bool> {
    let route = core.fresh_route(&place.topic, deadline).await?;
    let others: Vec<_> = route.nodes.iter().filter(|other| other.name != node.name).cloned().collect();
    let known =
        on_each(&others, |other| async move { group_config(core, &other, &place.group, deadline).await }).await?;
    if known.done.iter().all(|(_, config)| config.is_none()) {
        return Ok(false);
    }
    create_group(core, node, &place.group, ordered, deadline).await?;
    for queue in route.readable.iter().filter(|queue| queue.broker.name == node.name) {
        begin(core, place, queue, start, deadline).await?;
    }
    Ok(true)
}

/// Sets where a new group starts in a queue.
async fn begin(core: &Core, place: &Place, queue: &Queue, start: &StartFrom, deadline: Instant) -> Result<()> {
    let offset = match start {
        StartFrom::SinceDeclared | StartFrom::Earliest => return Ok(()),
        StartFrom::Latest => bound(core, &place.topic, queue, code::GET_MAX_OFFSET, deadline).await?,
        StartFrom::Time(at) => at_time(core, &place.topic, queue, *at, deadline).await?,
        StartFrom::Position(Position::Log { partition, offset }) if *partition == queue.partition() => *offset,
        StartFrom::Position(_) => return Ok(()),
        _ => return Err(Error::unsupported(Feature::Replay, BACKEND, "start earliest, latest or at a time")),
    };
    commit(core, place, &place.topic, queue, offset, deadline).await
}

/// Makes a topic at those brokers which have none of that name. Returns the names of those that were away.
pub(crate) async fn create_topic(
    core: &Core,
    topic: &str,
    queues: u32,
    nodes: &[Arc<Node>],
    deadline: Instant,
) -> Result<BTreeSet<String>> {
    let there = match core.fresh_route(topic, deadline).await {
        Ok(route) => route.nodes.clone(),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(cause),
    };
    let lacks = |node: &&Arc<Node>| !there.iter().any(|other| other.name == node.name);
    let lacking: Vec<_> = nodes.iter().filter(lacks).cloned().collect();
    if lacking.is_empty() {
        return Ok(BTreeSet::new());
    }
    let partly = !there.is_empty();
    let made = on_each(&lacking, |node| async move {
        // Another may just be making it, or the name server was started a moment ago.
        if partly && !queues_at(core, &node, topic, deadline).await?.is_empty() {
            return Ok(());
        }
        let command = Command::request(code::UPDATE_AND_CREATE_TOPIC)
            .field("topic", topic)
            .field("defaultTopic", "TBW102")
            .field("readQueueNums", queues)
            .field("writeQueueNums", queues)
            .field("perm", READ_AND_WRITE)
            .field("topicFilterType", "SINGLE_TAG")
            .field("topicSysFlag", 0)
            .field("order", false);
        core.ask_soon(&node, command, deadline).await?.success().map(drop)
    });
    let made = match made.await {
        // Those that have it will do.
        Err(cause) if cause.is_transient() && !there.is_empty() => {
            tracing::warn!(%cause, topic = names::shown(topic), "a broker without this topic is away");
            return Ok(lacking.iter().map(|node| node.name.clone()).collect());
        }
        made => made?,
    };
    let wanted: Vec<Arc<Node>> = made.nodes();
    // The broker tells the name servers in its own time.
    let known = wait(deadline, async || {
        let route = match core.fresh_route(topic, deadline).await {
            Ok(route) => route,
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause),
        };
        let all = wanted.iter().all(|node| route.nodes.iter().any(|known| known.name == node.name));
        Ok(all.then_some(()))
    });
    known.await?.ok_or_else(|| {
        error(ErrorKind::Timeout, "the name server does not know the topic yet")
            .with_context("topic", names::shown(topic))
    })?;
    Ok(made.away.into_iter().collect())
}

/// An error that names the brokers where it was not done.
pub(crate) fn done_on_all(away: &BTreeSet<String>, what: &'static str) -> Result<()> {
    if away.is_empty() {
        return Ok(());
    }
    let names = away.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Err(error(ErrorKind::Unavailable, what)
        .with_context("brokers", names)
        .with_hint("do it again when they are back; until then the other brokers serve"))
}

pub(crate) async fn delete_topic(core: &Core, topic: &str, nodes: &[Arc<Node>], deadline: Instant) -> Result<()> {
    let forget = Command::request(code::DELETE_TOPIC_IN_NAME_SERVER).field("topic", topic);
    let mut away: BTreeSet<String> = core.routes.missing(topic).into_iter().collect();
    core.tell_names(&forget, deadline).await?;
    let deleted = on_each(nodes, |node| async move {
        let command = Command::request(code::DELETE_TOPIC_IN_BROKER).field("topic", topic);
        core.ask_soon(&node, command, deadline).await?.success().map(drop)
    });
    away.extend(deleted.await?.away);
    // The broker may have told the name server of it in between.
    core.tell_names(&forget, deadline).await?;
    core.routes.remove(topic);
    done_on_all(&away, "brokers that are away still have the topic, and will bring it back")
        .map_err(|cause| cause.with_context("topic", names::shown(topic)))
}

async fn create_group(core: &Core, node: &Node, group: &str, ordered: bool, deadline: Instant) -> Result<()> {
    let config =
        GroupConfig { group_name: group.to_owned(), consume_message_orderly: ordered, ..GroupConfig::default() };
    let body = serde_json::to_vec(&config)
        .map_err(|cause| error(ErrorKind::Internal, "a request cannot be written").with_source(cause))?;
    core.ask_soon(node, Command::request(code::UPDATE_AND_CREATE_GROUP).body(body), deadline).await?.success()?;
    Ok(())
}

/// The group as the broker has it; `None` when it has none.
pub(crate) async fn group_config(
    core: &Core,
    node: &Node,
    group: &str,
    deadline: Instant,
) -> Result<Option<GroupConfig>> {
    let answer = core.ask_soon(node, Command::request(code::GET_GROUP).field("group", group), deadline).await?;
    match answer.code {
        answer::SUCCESS => serde_json::from_slice(&answer.body)
            .map(Some)
            .map_err(|_| error(ErrorKind::Internal, "the broker's answer about a group cannot be read")),
        answer::GROUP_NOT_EXIST => Ok(None),
        // The broker says only in words that there is none.
        answer::SYSTEM_ERROR if answer.remark.as_deref().is_some_and(|text| text.contains("No group")) => Ok(None),
        _ => Err(answer.refusal()),
    }
}

/// Removes a group's places of a topic, and the group itself when it reads nothing else.
pub(crate) async fn delete(core: &Core, place: &Place, deadline: Instant) -> Result<()> {
    let nodes = core.nodes(deadline).await?;
    for topic in [&place.retry, &place.dead_letters] {
        delete_topic(core, topic, &nodes, deadline).await?;
    }
    if has_topic(core, &place.attempts, deadline).await? {
        delete_topic(core, &place.attempts, &nodes, deadline).await?;
    }
    // The dead letters of a topic for which the group is just being declared are there before the group.
    let others = ["retry", "dlq"].map(|kind| format!("--{}--{kind}", place.group));
    let wanted = |topic: &String| others.iter().any(|other| topic.ends_with(other));
    if list(core, deadline).await?.iter().any(wanted) {
        return Ok(());
    }
    let deleted = on_each(&nodes, |node| async move {
        let command = Command::request(code::DELETE_GROUP).field("groupName", &place.group).field("cleanOffset", true);
        core.ask_soon(&node, command, deadline).await?.success().map(drop)
    });
    let mut away: BTreeSet<String> = core.missing_nodes().into_iter().collect();
    away.extend(deleted.await?.away);
    done_on_all(&away, "brokers that are away still have the group")
}

/// Every topic any name server knows, the brokers' own among them.
pub(crate) async fn list(core: &Core, deadline: Instant) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for answer in core.ask_names(&Command::request(code::GET_ALL_TOPICS), deadline).await? {
        all.extend(topics(&answer.success()?)?);
    }
    Ok(all)
}

/// The topics a broker makes for itself, and the names of brokers that are away.
pub(crate) async fn list_own(core: &Core, deadline: Instant) -> Result<(BTreeSet<String>, Vec<String>)> {
    let nodes = core.nodes(deadline).await?;
    let asked = on_each(&nodes, |node| async move {
        topics(&core.ask_soon(&node, Command::request(code::GET_SYSTEM_TOPICS), deadline).await?.success()?)
    });
    let mut asked = asked.await?;
    asked.away.extend(core.missing_nodes());
    Ok((asked.done.into_iter().flat_map(|(_, topics)| topics).collect(), asked.away))
}

fn topics(answer: &Command) -> Result<BTreeSet<String>> {
    serde_json::from_slice::<Topics>(&answer.body)
        .map(|topics| topics.topic_list)
        .map_err(|_| error(ErrorKind::Internal, "the list of topics cannot be read"))
}

/// The oldest or the next offset of a queue.
pub(crate) async fn bound(core: &Core, topic: &str, queue: &Queue, code: i32, deadline: Instant) -> Result<i64> {
    let command = Command::request(code).field("topic", topic).field("queueId", queue.id);
    core.ask_soon(&queue.broker, command, deadline).await?.success()?.number("offset")
}

pub(crate) async fn at_time(core: &Core, topic: &str, queue: &Queue, at: SystemTime, deadline: Instant) -> Result<i64> {
    let command = Command::request(code::SEARCH_OFFSET_BY_TIMESTAMP)
        .field("topic", topic)
        .field("queueId", queue.id)
        .field("timestamp", millis(at));
    core.ask_soon(&queue.broker, command, deadline).await?.success()?.number("offset")
}

/// Where a group stands in a queue; `None` where it has not begun.
pub(crate) async fn committed(
    core: &Core,
    place: &Place,
    topic: &str,
    queue: &Queue,
    deadline: Instant,
) -> Result<Option<i64>> {
    let command = Command::request(code::QUERY_CONSUMER_OFFSET)
        .field("consumerGroup", &place.group)
        .field("topic", topic)
        .field("queueId", queue.id)
        .field("setZeroIfNotFound", false);
    let answer = core.ask_soon(&queue.broker, command, deadline).await?;
    match answer.code {
        answer::SUCCESS => Ok(answer.number::<i64>("offset").ok().filter(|offset| *offset >= 0)),
        answer::QUERY_NOT_FOUND => Ok(None),
        _ => Err(answer.refusal()),
    }
}

pub(crate) async fn commit(
    core: &Core,
    place: &Place,
    topic: &str,
    queue: &Queue,
    offset: i64,
    deadline: Instant,
) -> Result<()> {
    let command = Command::request(code::UPDATE_CONSUMER_OFFSET)
        .field("consumerGroup", &place.group)
        .field("topic", topic)
        .field("queueId", queue.id)
        .field("commitOffset", offset);
    core.ask_soon(&queue.broker, command, deadline).await?.success()?;
    Ok(())
}
