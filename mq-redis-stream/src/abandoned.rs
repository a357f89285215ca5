//! Groups of broadcast consumers that died: nobody reads them again, and they would hold back trimming for ever.

use std::collections::HashSet;
use std::time::Duration;

use mq_core::error::{ErrorKind, Result};
use mq_core::name::{Group, Topic};

use crate::core::Core;
use crate::names::Keys;
use crate::session::millis;
use crate::{groups, reply, script};

/// Begins the name of a broadcast consumer's group.
const BROADCAST: &str = "broadcast-";
/// How long a broadcast consumer may be without a connection and still go on where it stopped.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A name for the group of a new broadcast consumer.
pub(crate) fn name() -> Result<Group> {
    Group::parse(format!("{BROADCAST}{:016x}", fastrand::u64(..)))
}

fn is_broadcast(name: &str) -> bool {
    let number = name.strip_prefix(BROADCAST).unwrap_or_default();
    number.len() == 16 && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes those of a partition.
pub(crate) async fn remove(core: &Core, topic: &Topic, keys: &Keys) -> Result<()> {
    let found = match groups::of_stream(core, &keys.stream).await {
        Ok(found) => found,
        // The stream was deleted.
        Err(cause) if cause.kind() == ErrorKind::Rejected => return Ok(()),
        Err(cause) => return Err(cause),
    };
    let candidates: Vec<Group> = found
        .into_iter()
        .filter(|(name, _)| is_broadcast(name))
        .filter_map(|(name, _)| Group::parse(name).ok())
        .collect();
    if candidates.is_empty() {
        return Ok(());
    }
    // A group somebody has declared under such a name is no broadcast consumer's.
    let mut ask = redis::cmd("SMEMBERS");
    ask.arg(core.groups_key(topic));
    let declared: HashSet<String> = reply::items(core.ask(&ask).await?).into_iter().filter_map(reply::text).collect();
    for group in candidates.iter().filter(|group| !declared.contains(group.as_str())) {
        let own = keys.of_group(group);
        let mut named = vec![keys.stream.clone(), keys.members(group.as_str())];
        named.extend(own);
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let mut command = script::call(&script::ABANDONED, &named);
        command.arg(group.as_str()).arg(millis(ABANDONED));
        if reply::number(&core.ask(&command).await?) == Some(1) {
            tracing::info!(%topic, group = group.as_str(), "removed the group of a broadcast consumer that died");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_broadcast() {
        assert!(is_broadcast(name().unwrap().as_str()));
        for other in
            ["broadcast-", "broadcast-orders", "broadcast-0123456789ABCDEF", "g", "xbroadcast-0123456789abcdef"]
        {
            assert!(!is_broadcast(other), "{other}");
        }
    }
}
