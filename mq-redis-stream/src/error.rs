//! What the client and the broker say, in the words of the contract.

use std::future::Future;
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::Topic;
use redis::{RedisError, ServerError, Value};

/// The adapter's name in errors, capabilities and the matrix.
pub(crate) const BACKEND: &str = "redis-stream";

const NO_PERMISSION: &str = "give the user the command and the keys (ACL SETUSER)";

/// An error of this adapter.
pub(crate) fn error(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}

/// Translates an error of the client. What was under way when a connection ended may have been done.
pub(crate) fn from_client(cause: &RedisError) -> Error {
    if let Some(code) = cause.code() {
        return from_reply(code, cause.detail().unwrap_or_default());
    }
    match cause.kind() {
        redis::ErrorKind::AuthenticationFailed => error(ErrorKind::Auth, "the broker refused user and password")
            .with_hint("check user and password: redis://USER:PASSWORD@HOST:PORT"),
        redis::ErrorKind::InvalidClientConfig => {
            error(ErrorKind::Config, format!("the client cannot be set up: {}", printable(&cause.to_string())))
        }
        redis::ErrorKind::Parse => {
            error(ErrorKind::Unavailable, "what answers on this port does not speak Redis' protocol")
                .with_hint("check the port; one with TLS wants rediss://")
        }
        _ => from_io(&cause.to_string()),
    }
}

fn from_io(text: &str) -> Error {
    if text.contains("certificate") || text.contains("CertificateRequired") || text.contains("UnknownCA") {
        return error(ErrorKind::Auth, format!("the certificate is not trusted: {}", printable(text)))
            .with_hint("check tls.ca, tls.certificate and tls.key, and that the server's certificate names the host");
    }
    error(ErrorKind::Unavailable, format!("the connection failed: {}", printable(text)))
}

/// Translates an error the broker sent in an answer.
pub(crate) fn from_server(cause: &ServerError) -> Error {
    from_reply(cause.code(), cause.details().unwrap_or_default())
}

fn from_reply(code: &str, text: &str) -> Error {
    // Inside a script a refusal has no code of its own: what 7.0 and what later versions say.
    let in_script = text.contains("ACL failure in script") || text.contains("The user executing the script can't");
    let (kind, hint) = match code {
        "ERR" if in_script => (ErrorKind::Auth, NO_PERMISSION),
        "ERR" if text.starts_with("DB index") => {
            (ErrorKind::Config, "the URL ends in the number of a database the server has: redis://HOST:PORT/0")
        }
        "OOM" => (ErrorKind::Backpressure, "the broker is at its maxmemory: consume, trim, or give it more"),
        "LOADING" | "MASTERDOWN" | "READONLY" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "NOREPLICAS" => {
            (ErrorKind::Unavailable, "")
        }
        "MISCONF" => (ErrorKind::Unavailable, "the broker cannot write to its disk"),
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Auth, "check user and password in the URL"),
        "NOPERM" => (ErrorKind::Auth, NO_PERMISSION),
        "WRONGTYPE" => (ErrorKind::TopologyConflict, "the key belongs to something that is no stream"),
        "NOGROUP" => (ErrorKind::NotFound, "the stream or its group was deleted"),
        "MOVED" | "ASK" => (ErrorKind::Unavailable, "the keys are on another node of the cluster by now"),
        "CROSSSLOT" => (ErrorKind::Unsupported, "on a cluster one step reaches the keys of one slot only"),
        _ => (ErrorKind::Rejected, ""),
    };
    let error = error(kind, format!("the broker answered {}: {}", printable(code), printable(text)));
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

/// Awaits an answer of the broker for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = std::result::Result<T, RedisError>>,
) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(from_client(&cause)),
        Err(_) => Err(Error::timeout(limit).with_backend(BACKEND)),
    }
}

/// The same error once more.
pub(crate) fn copy(cause: &Error) -> Error {
    let text = cause.to_string();
    let text = text.strip_prefix("redis-stream: ").unwrap_or(&text).to_owned();
    let text = text.split("; hint: ").next().unwrap_or_default().to_owned();
    let copy = error(cause.kind(), text).with_retryability(cause.retryability());
    match cause.hint() {
        Some(hint) => copy.with_hint(hint.to_owned()),
        None => copy,
    }
}

/// Names the topic where a permission is missing: the broker does not say which key it is about.
pub(crate) fn about(cause: Error, topic: &Topic) -> Error {
    if cause.kind() == ErrorKind::Auth { cause.with_context("topic", topic) } else { cause }
}

/// An answer of another shape than the command gives.
pub(crate) fn unexpected(what: &'static str) -> Error {
    error(ErrorKind::Internal, format!("the broker's answer to {what} is not understood"))
        .with_hint("is something between this program and Redis that changes answers?")
}

/// An answer, or the error it holds.
pub(crate) fn checked(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(cause) => Err(from_server(&cause)),
        value => Ok(value),
    }
}

/// Cuts and escapes text from the wire.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(300).flat_map(char::escape_debug).collect()
}
