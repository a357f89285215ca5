//! What is risky about a topic and its group on this cluster.

use std::time::{Duration, SystemTime};

use mq_core::config::Topology as Mode;
use mq_core::driver::{AuditSpec, Finding};
use mq_core::error::{ErrorKind, Result};

use crate::config::Profile;
use crate::group::{places, unread_before};
use crate::names;
use crate::topology::{Existing, Topology};

/// The client's own default, in milliseconds.
const MAX_POLL: u64 = 300_000;

type Settings = [(String, String)];

fn setting<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
    settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn number(settings: &Settings, name: &str) -> Option<i64> {
    setting(settings, name)?.parse().ok()
}

/// Looks at everything that can be seen; what may not be seen is passed over.
pub(crate) async fn examine(topology: &Topology, spec: &AuditSpec) -> Result<Vec<Finding>> {
    let topic = &spec.group.topic;
    let existing = topology.required(topic).await?;
    let settings = topology.settings(topic.name()).await;
    let mut findings = Vec::new();
    copies(topology, &existing, &settings, &mut findings);
    policies(&settings, &mut findings);
    handler(topology, spec, &mut findings);
    derived(topology, spec, &mut findings).await?;
    unread(topology, spec, &existing, &settings, &mut findings).await?;
    Ok(findings)
}

/// How many copies there are, and how many a confirmation waits for.
fn copies(topology: &Topology, existing: &Existing, settings: &Settings, findings: &mut Vec<Finding>) {
    let config = &topology.link().config;
    let in_sync = number(settings, "min.insync.replicas").and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    let replicas = existing.replicas;
    if in_sync > replicas {
        findings.push(Finding::refusal(
            "min-insync-replicas",
            format!("min.insync.replicas is {in_sync}, but there are {replicas} copies: no send is ever confirmed"),
            "lower min.insync.replicas of the topic, or add copies",
        ));
    }
    if config.profile == Profile::Development {
        return;
    }
    let (wanted, wanted_in_sync) = config.replication();
    if replicas < wanted {
        findings.push(Finding::warning(
            "replication-factor",
            format!("the topic has {replicas} copies, the production profile promises {wanted}: a lost disk may lose confirmed messages"),
            "add copies (kafka-reassign-partitions), or say so: profile = \"development\", or topic.replicas",
        ));
    }
    if in_sync < wanted_in_sync && in_sync <= replicas {
        findings.push(Finding::warning(
            "min-insync-replicas",
            format!("a send is confirmed by {in_sync} copies, the production profile promises {wanted_in_sync}: a confirmed message may be lost with one broker"),
            format!("kafka-configs --alter --add-config min.insync.replicas={wanted_in_sync}"),
        ));
    }
}

fn policies(settings: &Settings, findings: &mut Vec<Finding>) {
    if setting(settings, "unclean.leader.election.enable") == Some("true") {
        findings.push(Finding::warning(
            "unclean-leader-election",
            "a copy that lacks confirmed messages may become the leader: they would be lost",
            "kafka-configs --alter --add-config unclean.leader.election.enable=false",
        ));
    }
    if setting(settings, "cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        findings.push(Finding::warning(
            "compaction",
            "the topic is compacted: of several messages of a key only the last is kept, read or not, and a message without a key is refused",
            "use a topic with cleanup.policy=delete for messages that must all be handled",
        ));
    }
}

fn handler(topology: &Topology, spec: &AuditSpec, findings: &mut Vec<Finding>) {
    let native = topology.link().config.native.get("max.poll.interval.ms");
    let poll = native.and_then(|value| value.reveal().parse().ok()).unwrap_or(MAX_POLL);
    let poll = Duration::from_millis(poll);
    if spec.handler_timeout.is_some_and(|limit| limit > poll) {
        findings.push(Finding::warning(
            "handler-timeout",
            format!("a handler may run longer than max.poll.interval.ms ({} s): when partitions move meanwhile, this member is thrown out and the message handled a second time", poll.as_secs()),
            "shorten the timeout, or raise max.poll.interval.ms in [broker.kafka.native]",
        ));
    }
}

/// The topics of the group's own: inbox, dead letters, retries.
async fn derived(topology: &Topology, spec: &AuditSpec, findings: &mut Vec<Finding>) -> Result<()> {
    let group = &spec.group;
    let declares = topology.link().config.topology == Mode::Declare;
    let mut missing = Vec::new();
    for place in topology.group_places(&group.topic, &group.group, &group.retry_delays).await? {
        if topology.existing(&place.name).await?.is_none() {
            missing.push(place.name);
            continue;
        }
        let settings = topology.settings(&place.name).await;
        if setting(&settings, "cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            findings.push(Finding::refusal(
                "derived-compaction",
                format!("`{}` is compacted: retries and dead letters of one key would delete each other", place.name),
                format!("kafka-configs --alter --entity-name {} --add-config cleanup.policy=delete", place.name),
            ));
        }
        let delay = names::retry_delay(&place.name).unwrap_or_default();
        let keep = number(&settings, "retention.ms").and_then(|millis| u64::try_from(millis).ok());
        if let Some(keep) = keep.filter(|keep| Duration::from_millis(*keep) <= delay) {
            findings.push(Finding::refusal(
                "derived-retention",
                format!("`{}` keeps messages for {keep} ms: a retry is deleted before it is due", place.name),
                format!("kafka-configs --alter --entity-name {} --add-config retention.ms=1209600000", place.name),
            ));
        }
        let wanted =
            place.config.iter().find(|(name, _)| *name == "max.message.bytes").and_then(|(_, n)| n.parse().ok());
        if let (Some(is), Some(wanted)) = (number(&settings, "max.message.bytes"), wanted)
            && is < wanted
        {
            findings.push(Finding::warning(
                "derived-size",
                format!("`{}` takes messages of {is} B: the largest of the topic do not fit with their record, and stay unsettled", place.name),
                format!("kafka-configs --alter --entity-name {} --add-config max.message.bytes={wanted}", place.name),
            ));
        }
    }
    if !missing.is_empty() && !declares {
        findings.push(Finding::refusal(
            "dead-letter-place",
            format!(
                "missing: {}: what fails could be stored nowhere, and would block its partition",
                missing.join(", ")
            ),
            format!("let an operator create what `mq topology {} --group {}` prints", group.topic, group.group),
        ));
    }
    Ok(())
}

/// Messages that are gone, or about to go, before the group has read them.
async fn unread(
    topology: &Topology,
    spec: &AuditSpec,
    existing: &Existing,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let (topic, link) = (&spec.group.topic, topology.link());
    let id = names::group_id(topic, &spec.group.group);
    let of = (topic.name().to_owned(), existing.partitions);
    let found = match places(link, &id, vec![of.clone()]).await {
        Ok(found) => found,
        // Who may not read the group learns that from what it does next.
        Err(error) if error.kind() == ErrorKind::Auth => return Ok(()),
        Err(error) => return Err(error),
    };
    let gone: i64 = found
        .iter()
        .filter_map(|place| Some(place.low.saturating_sub(place.committed?)))
        .filter(|count| *count > 0)
        .fold(0, i64::saturating_add);
    if gone > 0 {
        findings.push(Finding::warning(
            "retention-lost",
            format!("{gone} messages were deleted before the group had read them"),
            "raise the topic's retention, or add consumers; the messages are lost to this group",
        ));
    }
    let Some(keep) = number(settings, "retention.ms").and_then(|millis| u64::try_from(millis).ok()) else {
        return Ok(());
    };
    // Three quarters of their time are over.
    let Some(old) = SystemTime::now().checked_sub(Duration::from_millis(keep / 4 * 3)) else { return Ok(()) };
    // A group that is nowhere has missed nothing yet.
    if found.iter().all(|place| place.committed.is_none()) {
        return Ok(());
    }
    let unread: u64 = unread_before(link, &id, of, old).await?.iter().map(|(_, count)| *count).sum();
    if unread > 0 {
        findings.push(Finding::warning(
            "retention-lag",
            format!("{unread} unread messages are older than three quarters of the topic's retention: they are deleted soon, read or not"),
            "raise retention.ms of the topic now, then add consumers",
        ));
    }
    Ok(())
}
