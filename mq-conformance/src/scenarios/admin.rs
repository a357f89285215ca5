//! Topics, groups, lag and health (G15, G18).

use std::time::{Duration, Instant};

use mq_core::capability::Feature;
use mq_core::driver::{GroupSpec, Lag, TopicSpec};
use mq_core::error::{Error, ErrorKind};
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, Subscription};

use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("admin":
    declaring_twice_changes_nothing [2] [Topology];
    a_conflict_is_typed [15] [Topology];
    topics_are_listed_and_described [15] [Topology, ListTopics];
    what_is_deleted_is_gone [15] [Topology];
    groups_are_listed_and_deleted [15] [Topology];
    what_is_unknown_is_not_found [1, 15] [Topology];
    topology_names_everything_to_create [18] [Topology];
    lag_counts_what_waits [15] [Lag];
    lag_counts_dead_letters [7, 15] [Lag, DeadLetters];
    health_answers [13, 18] [];
    a_closed_broker_says_so [12] [];
    the_audit_answers [18] [];
);

/// The lag, as soon as it is as it should be, else as it is after a while: brokers count lazily.
pub(super) async fn lag_when(lab: &Lab, topic: &Topic, group: &Group, right: impl Fn(&Lag) -> bool) -> Verdict<Lag> {
    let admin = lab.admin().await?;
    let began = Instant::now();
    loop {
        let lag = admin.lag(topic, group).await?;
        if right(&lag) || began.elapsed() > Duration::from_secs(8) {
            return Ok(lag);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn must_fail<T>(outcome: Result<T, Error>, kinds: &[ErrorKind], what: &str) -> Verdict<Error> {
    match outcome {
        Ok(_) => Err(Failure::new(format!("{what} was accepted; expected is one of {kinds:?}"))),
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => Err(Failure::new(format!("{what}: expected is one of {kinds:?}, got {error:?}"))),
    }
}

async fn declaring_twice_changes_nothing(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 5).await?;
    lab.declare(topic.as_str()).await?;
    lab.group(&topic, "g").await?;
    let broker = lab.fresh().await?;
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group.clone())).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(5).await?;
    reader.close().await
}

async fn a_conflict_is_typed(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let admin = lab.admin().await?;
    let mut spec = GroupSpec::new(topic.clone(), group.clone());
    spec.mode = GroupMode::Ordered;
    // Where the mode is no property of the group, there is no conflict.
    if let Err(error) = admin.declare_group(&spec).await {
        ensure_eq!(error.kind(), ErrorKind::TopologyConflict, "a shared group declared as ordered: {error}");
        ensure!(error.hint().is_some(), "the conflict names no way out: {error}");
        let broker = lab.broker().await?;
        let subscription = Subscription::new(&topic, &group).mode(GroupMode::Ordered);
        must_fail(broker.consumer(subscription).await, &[ErrorKind::TopologyConflict], "consuming it as ordered")?;
    }
    let info = admin.describe_topic(&topic).await?;
    if let Some(partitions) = info.partitions {
        let spec = TopicSpec::new(topic.clone()).partitions(partitions + 3);
        let error = must_fail(admin.declare_topic(&spec).await, &[ErrorKind::TopologyConflict], "other partitions")?;
        ensure!(error.to_string().contains(topic.as_str()), "the conflict does not name the topic: {error}");
    }
    // Nothing was broken by asking.
    let producer = lab.producer().await?;
    lab.send_many(&producer, &topic, 1).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(1).await?;
    reader.close().await
}

async fn topics_are_listed_and_described(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let admin = lab.admin().await?;
    let topics = admin.list_topics().await?;
    let named: Vec<&str> =
        topics.iter().map(|info| info.topic.as_str()).filter(|name| name.contains(topic.as_str())).collect();
    ensure_eq!(named, [topic.as_str()], "the topic in the list, once, without what is derived from it");
    ensure_eq!(admin.describe_topic(&topic).await?.topic, topic, "the topic described");
    Ok(())
}

async fn what_is_deleted_is_gone(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let admin = lab.admin().await?;
    admin.delete_topic(&topic).await?;
    let began = Instant::now();
    while admin.describe_topic(&topic).await.is_ok() {
        ensure!(began.elapsed() < lab.patience(), "a deleted topic is still described");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    must_fail(admin.describe_topic(&topic).await, &[ErrorKind::NotFound], "describing a deleted topic")?;
    if lab.supports(Feature::ListTopics) {
        let topics = admin.list_topics().await?;
        ensure!(topics.iter().all(|info| info.topic != topic), "a deleted topic is listed");
    }
    Ok(())
}

async fn groups_are_listed_and_deleted(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let admin = lab.admin().await?;
    for name in ["one", "two"] {
        let group = lab.group(&topic, name).await?;
        // On a log a group exists once it has a place: reading makes one.
        let mut reader = lab.reader(&topic, &group).await?;
        reader.silent(Duration::from_millis(300)).await?;
        reader.close().await?;
    }
    let names = |groups: Vec<mq_core::driver::GroupInfo>| {
        let mut names: Vec<String> = groups.iter().map(|info| info.group.to_string()).collect();
        names.sort();
        names
    };
    ensure_eq!(names(admin.list_groups(&topic).await?), ["one", "two"], "the groups of the topic");
    admin.delete_group(&topic, &Group::parse("one")?).await?;
    let began = Instant::now();
    while names(admin.list_groups(&topic).await?) != ["two"] {
        ensure!(began.elapsed() < lab.patience(), "a deleted group is still listed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn what_is_unknown_is_not_found(lab: &Lab) -> Verdict {
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let group = Group::parse("g")?;
    let admin = lab.admin().await?;
    let began = Instant::now();
    must_fail(admin.describe_topic(&nowhere).await, &[ErrorKind::NotFound], "describing an unknown topic")?;
    must_fail(admin.delete_topic(&nowhere).await, &[ErrorKind::NotFound], "deleting an unknown topic")?;
    let spec = GroupSpec::new(nowhere.clone(), group.clone());
    must_fail(admin.declare_group(&spec).await, &[ErrorKind::NotFound], "a group on an unknown topic")?;
    let broker = lab.broker().await?;
    let outcome = broker.consumer(Subscription::new(&nowhere, &group)).await;
    let error = must_fail(outcome, &[ErrorKind::NotFound], "consuming an unknown topic")?;
    ensure!(error.to_string().contains(nowhere.as_str()), "the error does not name the topic: {error}");
    ensure!(error.hint().is_some(), "the error does not say what to do: {error}");
    if lab.supports(Feature::Lag) {
        must_fail(admin.lag(&nowhere, &group).await, &[ErrorKind::NotFound], "the lag of an unknown topic")?;
    }
    ensure!(began.elapsed() < Duration::from_secs(30), "six answers took {:?}", began.elapsed());
    Ok(())
}

async fn topology_names_everything_to_create(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let mut spec = GroupSpec::new(topic.clone(), group);
    spec.retry_delays = vec![lab.delay(Feature::NonBlockingRetry)];
    let items = lab.admin().await?.topology(&spec).await?;
    ensure!(!items.is_empty(), "the topology of a group is empty");
    ensure!(items.iter().any(|item| item.name.contains(topic.as_str())), "the topic is missing: {items:?}");
    ensure!(
        items.iter().all(|item| !item.name.is_empty() && !item.kind.is_empty()),
        "an item without a name: {items:?}"
    );
    Ok(())
}

async fn lag_counts_what_waits(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let lag = lag_when(lab, &topic, &group, |lag| lag.ready == 0).await?;
    ensure_eq!(lag.ready, 0, "waiting in a new group");
    lab.send_many(&lab.producer().await?, &topic, 10).await?;
    let lag = lag_when(lab, &topic, &group, |lag| lag.ready == 10).await?;
    ensure_eq!(lag.ready, 10, "waiting after ten sends");
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(10).await?;
    reader.flush().await?;
    let lag = lag_when(lab, &topic, &group, |lag| lag.ready == 0 && lag.unsettled.unwrap_or(0) == 0).await?;
    ensure_eq!((lag.ready, lag.unsettled.unwrap_or(0)), (0, 0), "waiting and unsettled after ten acks and a flush");
    reader.close().await?;
    if lag.partitions.is_empty() {
        return Ok(());
    }
    let sum: u64 = lag.partitions.iter().map(|partition| partition.ready).sum();
    ensure_eq!(sum, lag.ready, "the lag of all partitions together");
    Ok(())
}

async fn lag_counts_dead_letters(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    lab.send_many(&lab.producer().await?, &topic, 3).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    for delivery in reader.take(3).await? {
        reader.dead_letter(delivery, "no").await?;
    }
    reader.close().await?;
    let lag = lag_when(lab, &topic, &group, |lag| lag.dead == Some(3)).await?;
    // `None` is an honest answer where the broker cannot tell; a wrong number is not.
    ensure!(lag.dead.is_none_or(|dead| dead == 3), "three dead letters are counted as {:?}", lag.dead);
    ensure_eq!(lag.ready, 0, "waiting after all were set aside");
    Ok(())
}

async fn health_answers(lab: &Lab) -> Verdict {
    let broker = lab.fresh().await?;
    let health = broker.health(Duration::from_secs(10)).await;
    ensure!(health.ready && health.latency.is_some(), "a running broker is called not ready: {health:?}");
    broker.close().await?;
    let began = Instant::now();
    let health = broker.health(Duration::from_secs(3)).await;
    ensure!(!health.ready && !health.detail.is_empty(), "a closed connection is called ready: {health:?}");
    ensure!(began.elapsed() < Duration::from_secs(3) + lab.slack(), "health took {:?} of 3 s", began.elapsed());
    Ok(())
}

async fn a_closed_broker_says_so(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.fresh().await?;
    let producer = broker.producer().await?;
    broker.close().await?;
    let limit = Duration::from_secs(30);
    let kinds = [ErrorKind::Closed, ErrorKind::Unavailable];
    let late = |_| Failure::new(format!("a call on a closed broker took more than {limit:?}"));
    let sent = tokio::time::timeout(limit, producer.send(lab.message(&topic, 0))).await.map_err(late)?;
    must_fail(sent.map_err(Error::from), &kinds, "a send")?;
    let opened = tokio::time::timeout(limit, broker.consumer(Subscription::new(&topic, &group))).await.map_err(late)?;
    must_fail(opened, &kinds, "a consumer")?;
    let opened = tokio::time::timeout(limit, broker.producer()).await.map_err(late)?;
    // Opening may succeed lazily; sending may not.
    if let Ok(producer) = opened {
        let sent = tokio::time::timeout(limit, producer.send(lab.message(&topic, 0))).await.map_err(late)?;
        must_fail(sent.map_err(Error::from), &kinds, "a send on a producer opened later")?;
    }
    let again = tokio::time::timeout(limit, broker.close()).await.map_err(late)?;
    if let Err(error) = again {
        ensure_eq!(error.kind(), ErrorKind::Closed, "closing twice: {error}");
    }
    Ok(())
}

async fn the_audit_answers(lab: &Lab) -> Verdict {
    for warning in lab.admin().await?.audit().await? {
        ensure!(warning.len() > 20, "a warning without a reason: `{warning}`");
    }
    Ok(())
}
