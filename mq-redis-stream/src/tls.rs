//! The client with its login and its certificates.

use mq_core::error::{ErrorKind, Result};
use redis::{Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use crate::config::RedisConfig;
use crate::error::{error, from_client};
use crate::slots::Address;

/// Begins a certificate in a PEM file.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

pub(crate) fn client(config: &RedisConfig, Address(host, port): Address) -> Result<Client> {
    let address = if config.tls.enabled {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut login = RedisConnectionInfo::default().set_db(config.database);
    if let Some(user) = &config.user {
        login = login.set_username(user);
    }
    if !config.password.reveal().is_empty() {
        login = login.set_password(config.password.reveal());
    }
    let info = address.into_connection_info().map_err(|cause| from_client(&cause))?.set_redis_settings(login);
    if !config.tls.enabled {
        return Client::open(info).map_err(|cause| from_client(&cause));
    }
    // The client takes the process's provider of cryptography, and panics where there is none, or where the features of
    // other crates bring two. What the application has chosen stays.
    if CryptoProvider::get_default().is_none() {
        // An error: somebody else was faster.
        let _ = ring::default_provider().install_default();
    }
    let read = |setting: &str, path: &std::path::Path| {
        std::fs::read(path).map_err(|cause| {
            error(ErrorKind::Config, format!("{setting}: {} cannot be read: {cause}", path.display()))
                .with_hint("name a PEM file this program may read")
        })
    };
    let client_tls = match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("tls.certificate", certificate)?,
            client_key: read("tls.key", key)?,
        }),
        _ => None,
    };
    let root_cert = config.tls.ca.as_deref().map(|path| read("tls.ca", path)).transpose()?;
    // The client takes a file without a certificate for an authority that trusts nobody.
    if root_cert.as_deref().is_some_and(|pem| !pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE)) {
        return Err(error(ErrorKind::Config, "tls.ca holds no certificate").with_hint("name a PEM file"));
    }
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(|cause| {
        error(
            ErrorKind::Config,
            format!("the certificates cannot be used: {}", crate::error::printable(&cause.to_string())),
        )
        .with_hint("check tls.ca, tls.certificate and tls.key: PEM files, the key that of the certificate")
    })
}
