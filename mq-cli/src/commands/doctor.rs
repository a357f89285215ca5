//! `mq doctor`: does the broker answer, what can it do, what is risky about its set-up.

use std::time::Duration;

use clap::Args;
use mq::capability::{Capability, Feature, Level};
use mq::driver::{AuditSpec, Finding, GroupSpec, Severity};
use mq::{Broker, Error, ErrorKind, Group, GroupMode, Topic};
use serde_json::{Value, json};

use crate::failure::{Failure, one_line};
use crate::output::Output;
use crate::parse::{self, Delays};

/// Changes nothing. The exit code is 1 when a worker would refuse to start.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// NAME, or queue:NAME, exchange:NAME for what another program owns
    #[arg(requires = "group")]
    topic: Option<Topic>,
    /// The group whose set-up is looked at
    #[arg(long, requires = "topic")]
    group: Option<Group>,
    /// The delays of its worker's retries
    #[arg(long, value_parser = parse::delays, default_value = "1s,5s,30s")]
    retry: Delays,
    /// How long a handler of its worker may run
    #[arg(long, value_parser = parse::duration)]
    timeout: Option<Duration>,
    /// Its worker keeps the order of each key
    #[arg(long)]
    by_key: bool,
}

/// How long the broker may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) async fn run(broker: &Broker, arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let health = broker.health(DEADLINE).await;
    let latency = health.latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
    let value = json!({
        "broker": broker.name(),
        "ready": health.ready,
        "latency_ms": latency,
        "detail": health.detail,
    });
    let answers = if health.ready { "answers" } else { "does not answer" };
    output.result(&value, format_args!("{} {answers}: {}", broker.name(), health.detail))?;
    for (feature, capability) in broker.capabilities().iter() {
        output.result(&to_json(feature, capability), to_text(feature, capability))?;
    }
    if !health.ready {
        output.flush()?;
        let error = Error::new(ErrorKind::Unavailable, "the broker does not answer").with_backend(broker.name());
        return Err(error.with_hint(health.detail).into());
    }
    for warning in broker.admin().audit().await? {
        output.result(&json!({"warning": warning}), format_args!("warning: {warning}"))?;
    }
    let (Some(topic), Some(group)) = (&arguments.topic, &arguments.group) else { return Ok(()) };
    let findings = broker.admin().examine(&asked(arguments, topic, group)).await?;
    for finding in &findings {
        output.result(&finding_json(finding), one_line(&finding.to_string()))?;
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Refusal).count() {
        0 => Ok(()),
        count => {
            output.flush()?;
            Err(Failure::Partly(format!("{count} of it would lose messages: a worker does not start like this")))
        }
    }
}

fn asked(arguments: &Arguments, topic: &Topic, group: &Group) -> AuditSpec {
    let mut spec = GroupSpec::new(topic.clone(), group.clone());
    spec.retry_delays.clone_from(&arguments.retry.0);
    if arguments.by_key {
        spec.mode = GroupMode::Ordered;
    }
    AuditSpec::new(spec).handler_timeout(arguments.timeout)
}

/// `{"warning": …}` or `{"refusal": …}`, with the name of the check and what to do.
fn finding_json(finding: &Finding) -> Value {
    json!({
        (finding.severity.to_string()): finding.text,
        "check": finding.check,
        "hint": finding.hint,
    })
}

fn to_json(feature: Feature, capability: &Capability) -> Value {
    let limits = &capability.limits;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json!({
        "capability": feature.name(),
        "level": capability.level,
        "lateness_ms": limits.lateness.map(millis),
        "granularity_ms": limits.granularity.map(millis),
        "max_delay_ms": limits.max_delay.map(millis),
        "max_bytes": limits.max_bytes,
        "duplicate_window": limits.duplicate_window,
        "needs_process": limits.needs_process,
        "note": capability.note,
    })
}

fn to_text(feature: Feature, capability: &Capability) -> String {
    let level = match capability.level {
        Level::Native => "native",
        Level::Emulated => "emulated",
        Level::Unsupported => "unsupported",
    };
    match capability.note.as_str() {
        "" => format!("{feature}: {level}"),
        note => format!("{feature}: {level}: {note}"),
    }
}
