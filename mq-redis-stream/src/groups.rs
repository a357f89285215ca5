//! Groups: a group of every stream of a topic, and an inbox of its own beside each.

use std::time::SystemTime;

use mq_core::driver::GroupSpec;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::message::Position;
use mq_core::name::{Group, Topic};
use mq_core::subscription::StartFrom;
use redis::Value;

use crate::core::{Core, no_group, no_topic};
use crate::error::{BACKEND, about, error, from_server};
use crate::reply::{self, EntryId};

/// The id before the first message at or after a time.
pub(crate) fn before(time: SystemTime) -> EntryId {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().div_ceil(1_000_000);
    EntryId(u64::try_from(millis).unwrap_or(u64::MAX), 0).before()
}

/// Partition and id of a position of ours.
pub(crate) fn place(position: &Position, count: u32) -> Result<(u32, EntryId)> {
    let bad = || {
        Error::config(format!("`{position}` is no position in this topic"))
            .with_backend(BACKEND)
            .with_hint("PARTITION:MILLISECONDS-NUMBER, as receipts and deliveries show it")
    };
    let Position::Entry { partition, id } = position else { return Err(bad()) };
    let id = EntryId::parse(id.as_bytes()).ok_or_else(bad)?;
    if *partition >= count { Err(bad()) } else { Ok((*partition, id)) }
}

/// Creates the group where it is not there yet; nothing happens where it is.
pub(crate) async fn declare(core: &Core, spec: &GroupSpec, remember: bool) -> Result<()> {
    create(core, spec, remember).await.map_err(|cause| about(cause, &spec.topic))
}

async fn create(core: &Core, spec: &GroupSpec, remember: bool) -> Result<()> {
    let count = core.require_topic(&spec.topic).await?;
    let group = spec.group.as_str();
    let mut commands = redis::pipe();
    for partition in 0..count {
        let start = match &spec.start {
            StartFrom::SinceDeclared | StartFrom::Earliest => "0".to_owned(),
            StartFrom::Latest => "$".to_owned(),
            StartFrom::Time(time) => before(*time).to_string(),
            StartFrom::Position(position) => match place(position, count)? {
                (of, id) if of == partition => id.before().to_string(),
                _ => "0".to_owned(),
            },
            _ => return Err(Error::config("a group cannot start there").with_backend(BACKEND)),
        };
        let keys = core.keys(&spec.topic, partition);
        commands.cmd("XGROUP").arg("CREATE").arg(&keys.stream).arg(group).arg(start);
        commands.cmd("XGROUP").arg("CREATE").arg(keys.inbox(group)).arg(group).arg("0").arg("MKSTREAM");
    }
    if remember {
        commands.cmd("SADD").arg(core.groups_key(&spec.topic)).arg(group);
    }
    for answer in core.ask_many(&commands).await? {
        match answer {
            Value::ServerError(cause) if cause.code() == "BUSYGROUP" => {}
            Value::ServerError(cause) if cause.to_string().contains("requires the key to exist") => {
                core.forget(&spec.topic);
                return Err(no_topic(&spec.topic));
            }
            Value::ServerError(cause) => return Err(from_server(&cause)),
            _ => {}
        }
    }
    Ok(())
}

/// The names of the groups of a stream.
pub(crate) async fn of_stream(core: &Core, stream: &str) -> Result<Vec<(String, Vec<(String, Value)>)>> {
    let mut command = redis::cmd("XINFO");
    command.arg("GROUPS").arg(stream);
    let groups = reply::items(core.ask(&command).await?).into_iter().map(reply::pairs);
    Ok(groups.filter_map(|info| Some((reply::text(reply::field(&info, "name")?)?, info))).collect())
}

/// [`ErrorKind::NotFound`] unless the group is there.
pub(crate) async fn require(core: &Core, topic: &Topic, group: &Group) -> Result<u32> {
    let count = core.require_topic(topic).await?;
    for partition in 0..count {
        let keys = core.keys(topic, partition);
        for stream in [keys.stream.clone(), keys.inbox(group.as_str())] {
            let groups = match of_stream(core, &stream).await {
                Ok(groups) => groups,
                Err(cause) if cause.kind() == ErrorKind::Rejected => return Err(no_group(topic, group)),
                Err(cause) => return Err(cause),
            };
            if !groups.iter().any(|(name, _)| name == group.as_str()) {
                return Err(no_group(topic, group));
            }
        }
    }
    Ok(count)
}

/// Deletes the group and what belongs to it.
pub(crate) async fn delete(core: &Core, topic: &Topic, group: &Group, count: u32) -> Result<()> {
    let mut commands = redis::pipe();
    for partition in 0..count {
        let keys = core.keys(topic, partition);
        commands.cmd("XGROUP").arg("DESTROY").arg(&keys.stream).arg(group.as_str());
        let delete = commands.cmd("UNLINK");
        for key in keys.of_group(group) {
            delete.arg(key);
        }
    }
    commands.cmd("SREM").arg(core.groups_key(topic)).arg(group.as_str());
    for answer in core.ask_many(&commands).await? {
        match answer {
            // The stream itself is gone.
            Value::ServerError(cause) if cause.to_string().contains("requires the key to exist") => {}
            Value::ServerError(cause) => return Err(from_server(&cause)),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what would touch a stream of another program.
pub(crate) fn refuse_foreign(topic: &Topic) -> Result<()> {
    topic.check_declarable().map_err(|cause| error(cause.kind(), format!("`{topic}` belongs to another program")))
}
