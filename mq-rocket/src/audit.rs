//! What is risky about the broker's settings and a group's places.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_core::driver::Finding;
use mq_core::error::{ErrorKind, Result};
use serde::Deserialize;
use tokio::time::Instant;

use crate::config::RocketConfig;
use crate::core::Core;
use crate::error::error;
use crate::remoting::{Command, code};
use crate::route::Node;
use crate::topology;

/// From this on a broker deletes its oldest files, whoever still needs them.
const DELETES: f64 = 0.85;
/// What a delayed message needs beyond its own size; see `max_message_bytes`.
const TIMER_ROOM: usize = 64 * 1024;

/// What a broker says of itself.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    broker: String,
    /// `None`: this user may not read them.
    known: Option<BTreeMap<String, String>>,
    /// How full the disk of its log is, 1 is full.
    disk: Option<f64>,
}

#[derive(Deserialize)]
struct Runtime {
    #[serde(default)]
    table: BTreeMap<String, String>,
}

impl Settings {
    /// Of every broker; and the names of those that are away.
    pub(crate) async fn read(core: &Core, deadline: Instant) -> Result<(Vec<Self>, Vec<String>)> {
        let nodes = core.nodes(deadline).await?;
        let read = topology::on_each(&nodes, |node| async move { Self::of(core, &node, deadline).await }).await?;
        Ok((read.done.into_iter().map(|(_, settings)| settings).collect(), read.away))
    }

    async fn of(core: &Core, node: &Node, deadline: Instant) -> Result<Self> {
        let known = match ask(core, node, code::GET_BROKER_CONFIG, deadline).await? {
            None => None,
            Some(answer) => Some(properties(&String::from_utf8_lossy(&answer.body))),
        };
        let disk = match ask(core, node, code::GET_BROKER_RUNTIME_INFO, deadline).await? {
            None => None,
            Some(answer) => {
                let runtime: Runtime = serde_json::from_slice(&answer.body)
                    .map_err(|_| error(ErrorKind::Internal, "what the broker says of itself cannot be read"))?;
                runtime.table.get("commitLogDiskRatio").and_then(|text| text.parse().ok())
            }
        };
        Ok(Self { broker: node.name.clone(), known, disk })
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.known.as_ref()?.get(name).map(String::as_str)
    }

    /// What an operator should know before trusting this broker.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let Self { broker, .. } = self;
        let mut warnings = Vec::new();
        if self.known.is_none() {
            warnings.push(format!(
                "{broker}: this user may not read the broker's settings: how durable messages are is not known; give it \
                 the permission of the cluster, or ask an administrator"
            ));
        }
        if self.is("flushDiskType", "ASYNC_FLUSH") {
            warnings.push(format!(
                "{broker}: flushDiskType=ASYNC_FLUSH: a crash of the machine loses what was confirmed in the last half \
                 second; set flushDiskType=SYNC_FLUSH"
            ));
        }
        if self.is("brokerRole", "ASYNC_MASTER") {
            warnings.push(format!(
                "{broker}: brokerRole=ASYNC_MASTER: what is confirmed may be on one machine only; set \
                 brokerRole=SYNC_MASTER with a replica"
            ));
        }
        if self.is("autoCreateTopicEnable", "true") {
            warnings.push(format!(
                "{broker}: autoCreateTopicEnable=true: other clients make a topic of every misspelt name; set it to false"
            ));
        }
        if self.is("popConsumerKVServiceEnable", "true") {
            warnings.push(format!(
                "{broker}: popConsumerKVServiceEnable=true: brokers of that time lose a message given back in the same \
                 millisecond as another, and one given back too often; set it to false"
            ));
        }
        if let Some(hours) = self.get("fileReservedTime") {
            warnings.push(format!(
                "{broker}: fileReservedTime={hours}: what is older than that many hours is deleted, whether it was \
                 consumed or not, retries and dead letters too"
            ));
        }
        warnings
    }

    /// What is risky for a group with these retry delays.
    pub(crate) fn findings(&self, config: &RocketConfig, delays: &[Duration]) -> Vec<Finding> {
        let Self { broker, .. } = self;
        let mut findings = Vec::new();
        if self.is("timerWheelEnable", "false") {
            let text = format!("{broker}: timerWheelEnable=false: the broker takes no delayed message and no retry");
            let hint = "set timerWheelEnable=true and start the broker again";
            findings.push(if delays.is_empty() {
                Finding::warning("timer", text, hint)
            } else {
                Finding::refusal("timer", text, hint)
            });
        }
        if let Some(disk) = self.disk
            && disk >= DELETES
        {
            findings.push(Finding::warning(
                "disk",
                format!(
                    "{broker}: its disk is {:.0} % full: from 85 % on it deletes its oldest messages, from 90 % on it takes no more",
                    disk * 100.0
                ),
                "free disk at the broker, or shorten fileReservedTime",
            ));
        }
        if let Some(most) = self.get("maxMessageSize").and_then(|text| text.parse::<usize>().ok())
            && config.max_message_bytes > most.saturating_sub(TIMER_ROOM)
        {
            findings.push(Finding::warning(
                "message-size",
                format!(
                    "{broker}: maxMessageSize={most}: its timer loses retries and delayed messages of nearly that size, and max_message_bytes={} lets them pass",
                    config.max_message_bytes
                ),
                "keep max_message_bytes 64 KiB below the broker's maxMessageSize",
            ));
        }
        let kept = self.get("fileReservedTime").and_then(|text| text.parse::<u64>().ok());
        if let (Some(hours), Some(longest)) = (kept, delays.iter().max())
            && *longest >= Duration::from_secs(hours.saturating_mul(3600))
        {
            findings.push(Finding::refusal(
                "retention",
                format!("{broker}: fileReservedTime={hours}: a retry would be deleted before it is due"),
                "shorten the longest retry delay, or raise fileReservedTime",
            ));
        }
        findings
    }
}

/// The answer; `None` to one who may not ask.
async fn ask(core: &Core, node: &Node, code: i32, deadline: Instant) -> Result<Option<Command>> {
    match core.ask_soon(node, Command::request(code), deadline).await?.success() {
        Ok(answer) => Ok(Some(answer)),
        Err(cause) if cause.kind() == ErrorKind::Auth => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn properties(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use mq_core::driver::Severity;

    use super::*;

    fn settings(text: &str, disk: f64) -> Settings {
        Settings { broker: "broker-a".to_owned(), known: Some(properties(text)), disk: Some(disk) }
    }

    fn checks(settings: &Settings, delays: &[Duration]) -> Vec<(&'static str, Severity)> {
        let findings = settings.findings(&RocketConfig::default(), delays);
        findings.into_iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    #[test]
    fn a_sound_broker_is_left_alone() {
        let sound = settings("flushDiskType=SYNC_FLUSH\nbrokerRole=SYNC_MASTER\nautoCreateTopicEnable=false\n", 0.5);
        assert!(sound.warnings().is_empty() && checks(&sound, &[]).is_empty());
    }

    #[test]
    fn what_is_risky_is_found() {
        let bad = settings(
            "flushDiskType=ASYNC_FLUSH\nbrokerRole=ASYNC_MASTER\nautoCreateTopicEnable=true\n\
             popConsumerKVServiceEnable=true\nfileReservedTime=1\ntimerWheelEnable=false\nmaxMessageSize=4194303",
            0.87,
        );
        assert_eq!(bad.warnings().len(), 5);
        let found = checks(&bad, &[Duration::from_secs(3600)]);
        let names: Vec<_> = found.iter().map(|(check, _)| *check).collect();
        assert_eq!(names, ["timer", "disk", "message-size", "retention"]);
        assert_eq!(found.first(), Some(&("timer", Severity::Refusal)));
        assert_eq!(checks(&bad, &[]).first(), Some(&("timer", Severity::Warning)));
        let unread = Settings { broker: "b".to_owned(), known: None, disk: None };
        assert!(unread.warnings()[0].contains("may not read") && checks(&unread, &[]).is_empty());
    }
}
