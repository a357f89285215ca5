//! Which server is the master, as Sentinels say: asked whenever a connection is made, and while it stands.

use std::time::Duration;

use mq_core::error::{ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};

use crate::config::RedisConfig;
use crate::error::{checked, error, from_client, within};
use crate::reply;
use crate::slots::Address;
use crate::tls;

/// How long one Sentinel may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The master's address, as the first Sentinel says that answers.
pub(crate) async fn master(config: &RedisConfig) -> Result<Address> {
    let first = Address(config.host.clone(), config.port);
    let others = config.seeds.iter().filter_map(|seed| Address::parse(seed));
    let mut failure = None;
    for sentinel in std::iter::once(first).chain(others) {
        match tokio::time::timeout(LIMIT, ask(config, &sentinel)).await {
            Ok(Ok(Some(address))) => return Ok(address),
            Ok(Ok(None)) => {
                return Err(error(ErrorKind::Config, "the Sentinels know no master of that name")
                    .with_context("master", &config.master)
                    .with_hint("redis-sentinel://HOST:26379,HOST:26379/NAME, as in their `sentinel monitor NAME …`"));
            }
            Ok(Err(cause)) if !cause.is_transient() => return Err(cause),
            Ok(Err(cause)) => failure = Some(cause),
            Err(_) => {}
        }
    }
    Err(failure
        .unwrap_or_else(|| error(ErrorKind::Unavailable, "no Sentinel answers"))
        .with_hint("are these the Sentinels' own ports (26379 by default)?"))
}

async fn ask(config: &RedisConfig, sentinel: &Address) -> Result<Option<Address>> {
    let mut login = config.clone();
    login.database = 0;
    login.user.clone_from(&config.sentinel_user);
    login.password.clone_from(&config.sentinel_password);
    let client = tls::client(&login, sentinel.clone())?;
    let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&settings).await;
    let mut connection = connected.map_err(|cause| from_client(&cause))?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(&config.master);
    let answer = within(LIMIT, connection.send_packed_command(&command)).await.and_then(checked)?;
    if answer == Value::Nil {
        return Ok(None);
    }
    let mut parts = reply::items(answer).into_iter();
    let host = parts.next().and_then(reply::text);
    let port = parts.next().as_ref().and_then(reply::number).and_then(|port| u16::try_from(port).ok());
    match (host, port) {
        (Some(host), Some(port)) => Ok(Some(Address::named(&host, port, sentinel, config))),
        _ => Err(crate::error::unexpected("SENTINEL GET-MASTER-ADDR-BY-NAME")),
    }
}

/// An error unless this server is a master: Sentinels name the old one until the new one is chosen.
pub(crate) async fn is_master(connection: &mut MultiplexedConnection, limit: Duration) -> Result<()> {
    let answer = within(limit, connection.send_packed_command(&redis::cmd("ROLE"))).await.and_then(checked)?;
    match reply::items(answer).into_iter().next().and_then(reply::text).as_deref() {
        Some("master") => Ok(()),
        _ => Err(error(ErrorKind::Unavailable, "the server that the Sentinels name is no master (yet)")),
    }
}
