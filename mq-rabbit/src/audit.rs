//! What is risky about a group's queues on this broker.
//!
//! AMQP shows neither a queue's properties nor its policy. But to declare a queue that exists changes nothing: the broker
//! compares, and names the first property that differs.

use std::time::Duration;

use lapin::types::AMQPValue;
use mq_core::config::Topology as Mode;
use mq_core::driver::{AuditSpec, Finding};
use mq_core::error::{ErrorKind, Result};
use mq_core::name::TopicKind;

use crate::core::Core;
use crate::names;
use crate::topology::{GroupPlan, QueueSpec};

/// RabbitMQ's default for how long a message may be held without being settled.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// No queue has it: the broker answers what the queue has instead.
const NOWHERE: &str = "mq-doctor-asks";

pub(crate) async fn examine(core: &Core, spec: &AuditSpec, plan: &GroupPlan) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let group = &spec.group;
    if spec.handler_timeout.is_some_and(|limit| limit > CONSUMER_TIMEOUT) {
        findings.push(Finding::warning(
            "handler-timeout",
            "a handler may run longer than RabbitMQ's consumer_timeout (30 min unless configured): the broker then ends the channel and delivers again what it had out",
            "shorten the timeout, or raise consumer_timeout in rabbitmq.conf",
        ));
    }
    if let Some(reason) = core.publishing.blocked() {
        findings.push(Finding::warning(
            "blocked",
            format!("the broker accepts no messages now ({reason}): retries and dead letters wait, and what they belong to stays unsettled"),
            "free memory or disk on the broker",
        ));
    }
    let mut missing = Vec::new();
    for queue in &plan.queues {
        match same(core, queue).await? {
            Answer::Missing => missing.push(queue.name.clone()),
            Answer::Same => {}
            Answer::Forbidden(text) => findings.push(Finding::refusal(
                "permission",
                text,
                "rabbitmqctl set_permissions: the user needs configure, write and read on TOPIC, TOPIC--.*, mq-delay-.*, mq-registry, and write on amq.default",
            )),
            Answer::Differs(text) => findings.push(Finding::refusal(
                "queue-differs",
                format!("`{}` is not as the SDK declares it, so its promises do not hold: {text}", queue.name),
                "connect with the settings it was made with, or drain, delete and declare it anew",
            )),
        }
    }
    if !missing.is_empty() && core.config.topology != Mode::Declare {
        findings.push(Finding::refusal(
            "dead-letter-place",
            format!("missing: {}: what fails could be stored nowhere", missing.join(", ")),
            format!("let an operator create what `mq topology {} --group {}` prints", group.topic, group.group),
        ));
    }
    if group.topic.kind() == TopicKind::Queue {
        foreign(core, &names::group_queue(&group.topic, &group.group), &mut findings).await?;
    }
    Ok(findings)
}

/// What the broker answers to a declaration.
enum Answer {
    Same,
    Missing,
    Forbidden(String),
    Differs(String),
}

async fn same(core: &Core, queue: &QueueSpec) -> Result<Answer> {
    match core.topology.queue_counts(&queue.name).await {
        Ok(None) => return Ok(Answer::Missing),
        Ok(Some(_)) => {}
        Err(error) if error.kind() == ErrorKind::Auth => return Ok(Answer::Forbidden(error.to_string())),
        Err(error) => return Err(error),
    }
    match core.topology.ensure_queue(queue).await {
        Ok(()) => Ok(Answer::Same),
        // The broker's words are escaped, its quotes too.
        Err(error) if error.kind() == ErrorKind::TopologyConflict => {
            Ok(Answer::Differs(error.to_string().replace("\\'", "'")))
        }
        Err(error) if error.kind() == ErrorKind::Auth => Ok(Answer::Forbidden(error.to_string())),
        Err(error) => Err(error),
    }
}

/// A queue of another program: durable, replicated, and with a way out for what is returned too often?
async fn foreign(core: &Core, name: &str, findings: &mut Vec<Finding>) -> Result<()> {
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let nowhere = ("x-dead-letter-exchange", AMQPValue::LongString(NOWHERE.into()));
    // The type alone first: what else differs would be named before it.
    let text = match same(core, &QueueSpec::foreign(name, vec![quorum.clone()])).await? {
        Answer::Differs(text)
            if ["'durable'", "'auto_delete'", "exclusive", "'x-queue-type'"].iter().any(|word| text.contains(word)) =>
        {
            text
        }
        Answer::Same | Answer::Differs(_) => {
            let asked = QueueSpec::foreign(name, vec![quorum.clone(), nowhere]);
            let Answer::Differs(text) = same(core, &asked).await? else { return Ok(()) };
            text
        }
        Answer::Missing | Answer::Forbidden(_) => return Ok(()),
    };
    if text.contains("'durable'") {
        findings.push(Finding::warning(
            "transient-queue",
            format!("the queue `{name}` is not durable: it ends with its broker, and all its messages with it"),
            "let its owner declare it durable, best as a quorum queue",
        ));
        return Ok(());
    }
    if text.contains("'auto_delete'") || text.contains("exclusive") {
        findings.push(Finding::warning(
            "transient-queue",
            format!("the queue `{name}` is deleted with its last consumer, and all its messages with it"),
            "let its owner declare it without auto-delete",
        ));
        return Ok(());
    }
    if text.contains("'x-queue-type'") {
        findings.push(Finding::warning(
            "classic-queue",
            format!("the queue `{name}` is not a quorum queue: without copies (or mirrored, which loses confirmed messages) it is lost with its node"),
            "let its owner move to a quorum queue",
        ));
        return Ok(());
    }
    if !(text.contains("'x-dead-letter-exchange'") && text.contains("is none")) {
        return Ok(());
    }
    let impossible = ("x-delivery-limit", AMQPValue::LongLongInt(1_999_999_999));
    let Answer::Differs(text) = same(core, &QueueSpec::foreign(name, vec![quorum, impossible])).await? else {
        return Ok(());
    };
    if !text.contains("'x-delivery-limit'") {
        return Ok(());
    }
    let hint = "let its owner set a dead-letter exchange (a policy does for an existing queue)";
    findings.push(match text.contains("is none") {
        true => Finding::warning(
            "delivery-limit",
            format!("the queue `{name}` has no dead letters of its own: RabbitMQ 4 drops a message after 20 returns (a policy may say otherwise, which cannot be seen)"),
            hint,
        ),
        false => Finding::refusal(
            "delivery-limit",
            format!("the queue `{name}` drops a message that is returned too often: it has a delivery limit, and no dead letters"),
            hint,
        ),
    });
    Ok(())
}
