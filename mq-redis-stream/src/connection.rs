//! Making one connection, watching it, and making it again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mq_core::error::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};

use crate::ask::ends_connection;
use crate::config::RedisConfig;
use crate::error::{BACKEND, checked, from_client, within};
use crate::link::{Live, Role, Shared, To};
use crate::slots::Address;
use crate::{cluster, script, sentinel, tls};

/// The first pause between two attempts to connect; it doubles.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Makes the connection again whenever it is lost, until the link is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut number = 0;
    let mut pause = FIRST_PAUSE;
    let limit = shared.config.connect_timeout;
    loop {
        let connecting = async {
            let mut master = None;
            if matches!(shared.role, Role::Master) {
                let address = sentinel::master(&shared.config).await?;
                let client = tls::client(&shared.config, address.clone())?;
                *shared.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
                master = Some(address);
            }
            let client = shared.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut connection = connect(&shared.config, &client, limit).await?;
            match shared.role {
                Role::Member => cluster::serves(&mut connection, limit).await?,
                Role::Master => sentinel::is_master(&mut connection, limit).await?,
                _ => {}
            }
            Ok((connection, master))
        };
        match connecting.await {
            Ok((connection, master)) => {
                number += 1;
                pause = FIRST_PAUSE;
                shared.succeeded(Live { number, standing: number, to: To::One(connection) });
                watch(&shared, number, master.as_ref()).await;
                tracing::debug!(address = %shared.address, "the connection is lost");
            }
            Err(cause) => {
                tracing::debug!(address = %shared.address, %cause, "no connection yet");
                shared.failed(&cause);
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(shared.config.max_reconnect_delay);
            }
        }
    }
}

/// Returns when the connection is lost: reported by whoever used it, or because it answers no more.
async fn watch(shared: &Shared, number: u64, master: Option<&Address>) {
    let pause = shared.config.session / 4;
    loop {
        let connection = match tokio::time::timeout(pause, shared.lost.notified()).await {
            Ok(()) => return,
            Err(_) => shared.live.borrow().as_ref().map(|live| live.to.clone()),
        };
        let Some(To::One(mut connection)) = connection else { return };
        let ping = redis::cmd("PING");
        let answered = tokio::select! {
            answered = within(pause * 3, connection.send_packed_command(&ping)) => answered,
            () = shared.lost.notified() => return,
        };
        let replaced = match master {
            // One that was cut off from the others does not know that it is replaced; and Sentinels that cannot be
            // asked replace nobody.
            Some(master) => sentinel::master(&shared.config).await.is_ok_and(|now| now != *master),
            None => false,
        };
        if replaced || answered.as_ref().is_err_and(ends_connection) {
            shared.live.send_if_modified(|live| {
                let is = live.as_ref().is_some_and(|live| live.number == number);
                if is {
                    *live = None;
                }
                is
            });
            return;
        }
    }
}

pub(crate) fn without_backend(cause: &Error) -> String {
    let text = cause.to_string();
    let text = text.strip_prefix("redis-stream: ").unwrap_or(&text);
    text.split("; hint: ").next().unwrap_or(text).to_owned()
}

pub(crate) async fn connect(config: &RedisConfig, client: &Client, limit: Duration) -> Result<MultiplexedConnection> {
    // Deadlines are ours: the client's own would end reads that block.
    let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let connecting = async {
        let made = client.get_multiplexed_async_connection_with_config(&settings).await;
        let mut connection = made.map_err(|cause| from_client(&cause))?;
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg(&config.name);
        // Without the permission it has no name.
        let _ = connection.send_packed_command(&name).await;
        load(&mut connection, limit).await?;
        Ok(connection)
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(Error::timeout(limit).with_backend(BACKEND)))
}

pub(crate) async fn load(connection: &mut MultiplexedConnection, limit: Duration) -> Result<()> {
    let mut commands = redis::pipe();
    for text in script::ALL {
        commands.cmd("SCRIPT").arg("LOAD").arg(*text);
    }
    let answers = within(limit, connection.send_packed_commands(&commands, 0, script::ALL.len())).await?;
    for answer in answers {
        checked(answer)?;
    }
    Ok(())
}
