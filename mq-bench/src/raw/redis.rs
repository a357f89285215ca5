//! redis-rs, with pipelines of XADD, and of XACK together with the next XREADGROUP.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use mq::config::Url;
use mq::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, Value};
use tokio::task::JoinHandle;

use crate::cases::Place;
use crate::pair::{Cost, cost};

/// Pipelines under way at once, which share the window.
const AT_ONCE: usize = 2;
/// Entries of one read, settled by one XACK.
const READ: u64 = 1000;
/// How long a probe's read waits at the broker.
const WAIT_MILLIS: u64 = 500;

pub(crate) struct Client {
    connection: MultiplexedConnection,
}

impl Client {
    pub(crate) async fn connect(url: &Url) -> Result<Self> {
        let (host, port) = url.hosts.first().ok_or_else(|| Error::config("the URL names no host"))?;
        let mut login = RedisConnectionInfo::default();
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password.reveal());
        }
        let info = (host.as_str(), port.unwrap_or(6379)).into_connection_info().map_err(failed)?;
        let client = redis::Client::open(info.set_redis_settings(login)).map_err(failed)?;
        let settings = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&settings).await.map_err(failed)?;
        Ok(Self { connection })
    }

    pub(crate) async fn send(&self, place: &Place, body: &Bytes, window: usize, messages: u64) -> Result<()> {
        let stream = stream(place);
        if window == 1 {
            for _ in 0..messages {
                let command = add(&stream, body);
                stored(self.connection.clone().send_packed_command(&command).await.map_err(failed)?)?;
            }
            return Ok(());
        }
        let length = (window / AT_ONCE).max(1);
        let mut under_way = VecDeque::with_capacity(AT_ONCE);
        let mut left = usize::try_from(messages).unwrap_or(usize::MAX);
        while left > 0 {
            let mut commands = Pipeline::with_capacity(length);
            for _ in 0..length.min(left) {
                commands.add_command(add(&stream, body));
            }
            left -= commands.len();
            if under_way.len() == AT_ONCE
                && let Some(oldest) = under_way.pop_front()
            {
                confirmed(oldest).await?;
            }
            let mut connection = self.connection.clone();
            under_way.push_back(tokio::spawn(async move { answers(&mut connection, &commands).await }));
        }
        for pipeline in under_way {
            confirmed(pipeline).await?;
        }
        Ok(())
    }

    pub(crate) async fn consume(&self, place: &Place, messages: u64) -> Result<Cost> {
        let (stream, group) = (stream(place), place.group.as_str());
        let mut connection = self.connection.clone();
        let mut ids = read(&mut connection, &stream, group, 1, &[]).await?;
        cost(async {
            let mut received = ids.len() as u64;
            while received < messages {
                ids = read(&mut connection, &stream, group, READ.min(messages - received), &ids).await?;
                received += ids.len() as u64;
            }
            let mut last = Pipeline::with_capacity(1);
            last.add_command(ack(&stream, group, &ids));
            answers(&mut connection, &last).await.map(drop)
        })
        .await
    }

    /// Receives until the connection ends, without acknowledging.
    pub(crate) async fn receive(&self, place: &Place, received: &(dyn Fn() + Send + Sync)) -> Result<()> {
        let mut connection = self.connection.clone();
        loop {
            let mut command = redis::cmd("XREADGROUP");
            command
                .arg("GROUP")
                .arg(place.group.as_str())
                .arg("raw")
                .arg("COUNT")
                .arg(READ)
                .arg("BLOCK")
                .arg(WAIT_MILLIS);
            command.arg("NOACK").arg("STREAMS").arg(stream(place)).arg(">");
            match connection.send_packed_command(&command).await.map_err(failed)? {
                Value::Nil => {}
                Value::ServerError(error) => return Err(failed(format!("{error:?}"))),
                _ => received(),
            }
        }
    }
}

fn stream(place: &Place) -> String {
    format!("{{mq:{}:0}}:s", place.topic.name())
}

/// The same fields as `mq` writes.
fn add(stream: &str, body: &Bytes) -> Cmd {
    let now = SystemTime::now();
    let made = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("NOMKSTREAM").arg("*").arg("body").arg(&body[..]);
    command.arg("mq-id").arg(mq::MessageId::generate(now).to_string()).arg("mq-first-ts").arg(made.to_string());
    command
}

fn ack(stream: &str, group: &str, ids: &[Vec<u8>]) -> Cmd {
    let mut command = redis::cmd("XACK");
    command.arg(stream).arg(group).arg(ids);
    command
}

/// Acknowledges what was read before and reads more, in one round trip.
async fn read(
    connection: &mut MultiplexedConnection,
    stream: &str,
    group: &str,
    count: u64,
    before: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>> {
    let mut commands = Pipeline::with_capacity(2);
    if !before.is_empty() {
        commands.add_command(ack(stream, group, before));
    }
    let read = commands.cmd("XREADGROUP").arg("GROUP").arg(group).arg("raw").arg("COUNT").arg(count);
    read.arg("STREAMS").arg(stream).arg(">");
    let entries = answers(connection, &commands).await?.pop().and_then(entries);
    entries.ok_or_else(|| Error::new(ErrorKind::Timeout, "the raw consumer got no more messages"))
}

/// The ids of what was read; the bodies are looked at, and let go.
fn entries(answer: Value) -> Option<Vec<Vec<u8>>> {
    let list = |value| match value {
        Value::Array(items) => Some(items),
        _ => None,
    };
    let entries = list(list(list(answer)?.pop()?)?.pop()?)?;
    let id = |entry| {
        let mut parts = list(entry)?.into_iter();
        let (Value::BulkString(id), fields) = (parts.next()?, parts.next()?) else { return None };
        std::hint::black_box(fields);
        Some(id)
    };
    entries.into_iter().map(id).collect()
}

async fn answers(connection: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Vec<Value>> {
    connection.send_packed_commands(commands, 0, commands.len()).await.map_err(failed)
}

async fn confirmed(pipeline: JoinHandle<Result<Vec<Value>>>) -> Result<()> {
    let died = |error| Error::new(ErrorKind::Internal, "the raw producer died").with_source(error);
    pipeline.await.map_err(died)??.into_iter().try_for_each(stored)
}

fn stored(answer: Value) -> Result<()> {
    match answer {
        Value::BulkString(_) => Ok(()),
        other => Err(Error::new(ErrorKind::Rejected, format!("the raw XADD was not stored: {other:?}"))),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("raw redis client: {error}"))
}
