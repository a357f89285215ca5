//! What the client and the broker say, in the words of the contract.

use std::future::Future;
use std::time::Duration;

use lapin::ErrorKind as Client;
use mq_core::error::{Error, ErrorKind, Result};

/// The adapter's name in errors, capabilities and the matrix.
pub(crate) const BACKEND: &str = "rabbit";

/// An error of this adapter.
pub(crate) fn error(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}

/// The reply code of a closed channel or connection, and its text, where the broker sent one.
pub(crate) fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        Client::ProtocolError(error) => Some((error.get_id(), error.get_message().to_string())),
        _ => None,
    }
}

/// True when the client refused a publish by itself: of such a message no frame was queued.
pub(crate) fn was_never_sent(error: &lapin::Error) -> bool {
    matches!(error.kind(), Client::InvalidChannelState(_, "basic.publish"))
}

/// Translates an error of the client. The broker's texts name objects and arguments, never credentials.
pub(crate) fn from_client(cause: &lapin::Error) -> Error {
    if let Some((code, text)) = reply(cause) {
        return from_reply(code, &text);
    }
    match cause.kind() {
        Client::IOError(io) if io.kind() == std::io::ErrorKind::InvalidData => from_tls(&io.to_string()),
        Client::IOError(io) => error(ErrorKind::Unavailable, format!("the connection failed: {io}")),
        Client::SerialisationError(_) | Client::ParsingError(_) => {
            error(ErrorKind::Internal, format!("the AMQP frame could not be read or written: {cause}"))
        }
        Client::AuthProviderError(_) => error(ErrorKind::Auth, "the login could not be prepared"),
        _ => error(ErrorKind::Unavailable, format!("the connection is lost: {cause}")),
    }
}

/// TLS alerts by which a server refuses the client's certificate, in the words of rustls.
const CERTIFICATE_REFUSED: &[&str] =
    &["CertificateRequired", "UnknownCA", "BadCertificate", "CertificateUnknown", "CertificateExpired", "AccessDenied"];

fn from_tls(text: &str) -> Error {
    let alert = text.strip_prefix("received fatal alert: ").unwrap_or_default();
    if CERTIFICATE_REFUSED.iter().any(|name| alert.starts_with(name)) {
        return error(ErrorKind::Auth, format!("the broker refused the client's certificate: {text}"))
            .with_hint("check tls.certificate and tls.key: the broker wants a certificate it trusts");
    }
    if text.contains("peer certificate") {
        return error(ErrorKind::Auth, format!("the broker's certificate is not trusted: {text}"))
            .with_hint("check tls.ca, and that the certificate names the host (or set tls.server_name)");
    }
    if text.contains("corrupt message") || !alert.is_empty() {
        return error(ErrorKind::Unavailable, format!("TLS failed: {text}"))
            .with_hint("check that this port speaks TLS (without: amqp://)");
    }
    error(ErrorKind::Auth, format!("the encrypted connection cannot be made: {text}"))
        .with_hint("check the files of tls.ca, tls.certificate and tls.key")
}

/// As [`from_client`], while nothing was heard from the broker yet: what cannot be read then is another protocol.
pub(crate) fn from_first_words(cause: &lapin::Error, encrypted: bool) -> Error {
    match cause.kind() {
        Client::ParsingError(_) | Client::SerialisationError(_) if !encrypted => {
            error(ErrorKind::Unavailable, "what answers on this port does not speak AMQP")
                .with_hint("check the port; one with TLS wants amqps://")
        }
        // A port with TLS may just hang up.
        Client::IOError(_) if !encrypted => from_client(cause)
            .with_hint("is the broker running, and is this its AMQP port? One with TLS wants amqps://"),
        _ => from_client(cause),
    }
}

fn from_reply(code: u16, text: &str) -> Error {
    let (kind, hint) = match code {
        320 | 541 => (ErrorKind::Unavailable, ""),
        // A quorum queue that has not come up again after a restart of its node.
        404 if text.contains("inaccessible") || text.contains("stopped by supervisor") => (ErrorKind::Unavailable, ""),
        403 if text.contains("Login was refused") => (ErrorKind::Auth, "check user and password"),
        403 => (ErrorKind::Auth, "give the user the permission named (rabbitmqctl set_permissions)"),
        404 => (ErrorKind::NotFound, ""),
        405 => (ErrorKind::TopologyConflict, "another connection holds it exclusively"),
        406 if text.contains("message size") => {
            (ErrorKind::TooLarge, "raise max_message_size at the broker, or send a reference instead of the content")
        }
        406 if text.contains("inequivalent arg") => (
            ErrorKind::TopologyConflict,
            "what exists differs from what is asked for: ask for the same (mode, limits), or delete it and declare anew",
        ),
        406 if text.contains("timed out") => {
            (ErrorKind::Timeout, "a message was held longer than the broker's consumer_timeout")
        }
        311 => (ErrorKind::TooLarge, ""),
        530 if text.contains("vhost") => (ErrorKind::NotFound, "create the virtual host, or correct it in the URL"),
        506 => (ErrorKind::Backpressure, ""),
        _ => (ErrorKind::Rejected, ""),
    };
    let error = error(kind, format!("the broker answered {code}: {}", printable(text)));
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

/// Awaits an answer of the broker for at most `limit`.
pub(crate) async fn within<T>(limit: Duration, answer: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(from_client(&cause)),
        Err(_) => Err(Error::timeout(limit).with_backend(BACKEND)),
    }
}

/// Cuts and escapes text from the wire.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(300).flat_map(char::escape_debug).collect()
}
