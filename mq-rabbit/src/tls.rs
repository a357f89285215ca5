//! Opening one connection: address, encryption, login.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_rs::Runtime;
use lapin::tcp::{AsyncTcpStream, OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use mq_core::error::{Error, ErrorKind, Result};

use crate::config::RabbitConfig;
use crate::error::{BACKEND, error, from_first_words};
use crate::quiet;
use crate::stream::{Guarded, Kit};

/// So often at least a connection can be tried within the connect deadline.
const ATTEMPTS: u32 = 3;

/// Connects to the first host that answers, within the connect deadline.
pub(crate) async fn connect(config: &RabbitConfig, role: &str) -> Result<Connection> {
    let limit = config.connect_timeout;
    match tokio::time::timeout(limit, connect_any(config, role, limit)).await {
        Ok(result) => result,
        Err(_) => Err(Error::timeout(limit).with_backend(BACKEND)),
    }
}

async fn connect_any(config: &RabbitConfig, role: &str, limit: Duration) -> Result<Connection> {
    let tls = load(config).await?;
    let addresses = config.addresses();
    // One silent host must not eat the whole deadline, nor a host that was silent for a moment.
    let share = limit / u32::try_from(addresses.len()).unwrap_or(1).max(ATTEMPTS);
    let mut last = None;
    for (host, port) in addresses {
        let attempt = connect_one(config, role, tls.as_ref(), &host, port);
        let failure = match tokio::time::timeout(share, attempt).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failure)) => failure,
            Err(_) => Error::timeout(share).with_backend(BACKEND),
        };
        last = Some(failure.with_context("host", format!("{host}:{port}")));
    }
    Err(last.unwrap_or_else(|| Error::config("RabbitMQ needs a host")))
}

async fn connect_one(
    config: &RabbitConfig,
    role: &str,
    tls: Option<&Arc<OwnedTLSConfig>>,
    host: &str,
    port: u16,
) -> Result<Connection> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|cause| error(ErrorKind::Unavailable, format!("the host's name cannot be resolved: {cause}")))?;
    let addresses: Vec<SocketAddr> = found.collect();
    let uri = AMQPUri {
        scheme: if tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: config.user.clone(), password: config.password.reveal().to_owned() },
            host: host.to_owned(),
            port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(config.heartbeat),
            auth_mechanism: Some(mechanism(config)),
            ..AMQPQueryString::default()
        },
    };
    let mut properties =
        ConnectionProperties::default().with_connection_name(format!("{} ({role})", config.name).into());
    for (name, value) in &config.native {
        let name = lapin::types::ShortString::try_new(name.as_str())
            .map_err(|_| Error::config("the name of a native client property is longer than 255 bytes"))?;
        properties = properties.with_client_property(name, value.as_str().into());
    }
    let kit = Kit::current();
    let (plain, runtime) = (kit.plain().clone(), Runtime::new(kit));
    let encrypted = tls.is_some();
    let server_name = config.tls.server_name.clone().unwrap_or_else(|| host.to_owned());
    let tls = tls.cloned();
    let connection = Connection::connector(
        uri,
        runtime,
        async move |_, _| {
            quiet::this_thread();
            let stream = AsyncTcpStream::connect(&plain, addresses.clone()).await?;
            let stream = match &tls {
                None => stream,
                Some(tls) => stream.into_tls(&server_name, tls.as_ref().as_ref()).await?,
            };
            Ok(AsyncTcpStream::Plain(Guarded::new(stream)))
        },
        properties,
    );
    connection.await.map_err(|cause| from_first_words(&cause, encrypted))
}

fn mechanism(config: &RabbitConfig) -> SASLMechanism {
    let defaults = RabbitConfig::default();
    let no_user = config.user == defaults.user && config.password == defaults.password;
    if config.tls.certificate.is_some() && no_user { SASLMechanism::External } else { SASLMechanism::Plain }
}

async fn load(config: &RabbitConfig) -> Result<Option<Arc<OwnedTLSConfig>>> {
    if !config.tls.enabled {
        return Ok(None);
    }
    let read = async |what: &'static str, path: &std::path::Path| {
        tokio::fs::read(path).await.map_err(|cause| {
            Error::config(format!("the file of tls.{what} cannot be read: {cause}"))
                .with_backend(BACKEND)
                .with_context("path", path.display())
        })
    };
    let cert_chain = match &config.tls.ca {
        None => None,
        Some(path) => Some(
            String::from_utf8(read("ca", path).await?)
                .map_err(|_| Error::config("the file of tls.ca is not PEM").with_backend(BACKEND))?,
        ),
    };
    let identity = match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => {
            Some(OwnedIdentity::PKCS8 { pem: read("certificate", certificate).await?, key: read("key", key).await? })
        }
        _ => None,
    };
    Ok(Some(Arc::new(OwnedTLSConfig { identity, cert_chain })))
}
