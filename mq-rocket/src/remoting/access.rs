//! How connections are made: encryption and login.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mq_core::config::Tls;
use mq_core::error::{Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::acl::Login;
use crate::config::RocketConfig;
use crate::error::{BACKEND, error, printable};

/// What every connection of one broker needs.
#[derive(Clone)]
pub(crate) struct Access {
    pub(super) login: Option<Login>,
    pub(super) encryption: Option<Encryption>,
    pub(super) max_pause: Duration,
}

impl Access {
    pub(crate) fn new(config: &RocketConfig) -> Result<Self> {
        let encryption = config.tls.enabled.then(|| Encryption::new(&config.tls)).transpose();
        Ok(Self {
            login: Login::new(&config.user, &config.password),
            encryption: encryption.map_err(|cause| cause.with_backend(BACKEND))?,
            max_pause: config.max_reconnect_delay,
        })
    }
}

/// TLS, as configured.
#[derive(Clone)]
pub(super) struct Encryption {
    connector: TlsConnector,
    server_name: Option<String>,
}

impl Encryption {
    fn new(tls: &Tls) -> Result<Self> {
        let unusable = |cause: rustls::Error| {
            Error::config(format!("the certificates cannot be used: {}", printable(&cause.to_string())))
                .with_hint("check tls.ca, tls.certificate and tls.key: PEM files, the key that of the certificate")
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?.with_root_certificates(authorities(tls)?);
        let config = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(&read("tls.key", key)?)
                    .map_err(|_| no_pem("tls.key holds no private key"))?;
                builder.with_client_auth_cert(certificates("tls.certificate", certificate)?, key).map_err(unusable)?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name: tls.server_name.clone() })
    }

    /// Encrypts a connection to `address`, which is `HOST:PORT`.
    pub(super) async fn over(&self, stream: TcpStream, address: &str) -> Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = self.server_name.as_deref().unwrap_or(host.trim_start_matches('[').trim_end_matches(']'));
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::config("the host is no name a certificate can have").with_backend(BACKEND))?;
        self.connector.connect(name, stream).await.map_err(|cause| {
            refusal(&cause).unwrap_or_else(|| {
                let text = format!("no encrypted connection to {address}: {}", printable(&cause.to_string()));
                error(ErrorKind::Unavailable, text)
                    .with_hint("does this port take TLS? One that does not wants rocketmq://")
            })
        })
    }
}

fn authorities(tls: &Tls) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(path) = &tls.ca else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    for certificate in certificates("tls.ca", path)? {
        store.add(certificate).map_err(|_| no_pem("tls.ca holds a certificate that cannot be read"))?;
    }
    Ok(store)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(setting, path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(no_pem(format!("{setting} holds no certificate"))),
    }
}

fn no_pem(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::config(text).with_hint("name a PEM file")
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| {
        Error::config(format!("{setting}: {} cannot be read: {cause}", path.display()))
            .with_hint("name a PEM file this program may read")
    })
}

/// What no second attempt mends: one side does not trust the other.
pub(super) fn refusal(cause: &std::io::Error) -> Option<Error> {
    let cause = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    let hint = match cause {
        rustls::Error::InvalidCertificate(_) => {
            "is tls.ca the authority that signed the broker's certificate, and does that name the host?"
        }
        rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => {
            "the broker wants a certificate it trusts: set tls.certificate and tls.key"
        }
        _ => return None,
    };
    let text = format!("a certificate is not trusted: {}", printable(&cause.to_string()));
    Some(error(ErrorKind::Auth, text).with_hint(hint))
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::CertificateRequired
            | A::BadCertificate
            | A::UnknownCA
            | A::CertificateUnknown
            | A::CertificateExpired
            | A::CertificateRevoked
            | A::UnsupportedCertificate
            | A::NoCertificate
            | A::AccessDenied
    )
}
