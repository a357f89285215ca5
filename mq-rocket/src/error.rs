//! What the broker says, in the words of the contract.

use std::borrow::Cow;

use mq_core::error::{Error, ErrorKind};

/// The adapter's name in errors, capabilities and the matrix.
pub(crate) const BACKEND: &str = "rocket";

const PERMISSION: &str = "give the user or the topic the permission named";

/// An error of this adapter.
pub(crate) fn error(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}

/// Answers to a request that the adapter tells apart.
pub(crate) mod answer {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const SYSTEM_ERROR: i32 = 1;
    pub(crate) const SYSTEM_BUSY: i32 = 2;
    pub(crate) const FLUSH_DISK_TIMEOUT: i32 = 10;
    pub(crate) const SLAVE_NOT_AVAILABLE: i32 = 11;
    pub(crate) const FLUSH_SLAVE_TIMEOUT: i32 = 12;
    pub(crate) const MESSAGE_ILLEGAL: i32 = 13;
    pub(crate) const SERVICE_NOT_AVAILABLE: i32 = 14;
    pub(crate) const NO_PERMISSION: i32 = 16;
    pub(crate) const TOPIC_NOT_EXIST: i32 = 17;
    pub(crate) const PULL_NOT_FOUND: i32 = 19;
    pub(crate) const PULL_RETRY_IMMEDIATELY: i32 = 20;
    pub(crate) const PULL_OFFSET_MOVED: i32 = 21;
    pub(crate) const QUERY_NOT_FOUND: i32 = 22;
    pub(crate) const GROUP_NOT_EXIST: i32 = 26;
    pub(crate) const POLLING_FULL: i32 = 209;
    pub(crate) const POLLING_TIMEOUT: i32 = 210;
    pub(crate) const FLOW_CONTROL: i32 = 215;
}

/// Translates a refusal. The broker's texts name objects and arguments, never secrets; its stack traces are cut off.
pub(crate) fn from_answer(code: i32, remark: Option<&str>) -> Error {
    let text = remark.unwrap_or("no reason given");
    let (kind, hint) = match code {
        answer::SYSTEM_BUSY | answer::FLOW_CONTROL => (ErrorKind::Backpressure, "send more slowly"),
        answer::FLUSH_DISK_TIMEOUT | answer::SLAVE_NOT_AVAILABLE | answer::FLUSH_SLAVE_TIMEOUT => {
            let why = "stored, but not yet as safely as the broker is configured to";
            return error(ErrorKind::Timeout, why).with_context("code", code).ambiguous();
        }
        answer::MESSAGE_ILLEGAL if text.contains("size") || text.contains("length") => {
            (ErrorKind::TooLarge, "send a reference instead of the content, or raise maxMessageSize at the broker")
        }
        answer::SERVICE_NOT_AVAILABLE => (ErrorKind::Unavailable, "is the broker's disk full, or is it stopping?"),
        answer::NO_PERMISSION if is_login(text) => (ErrorKind::Auth, "check user and password"),
        answer::NO_PERMISSION => (ErrorKind::Auth, PERMISSION),
        answer::TOPIC_NOT_EXIST => (ErrorKind::NotFound, "create the topic first: mq topic create"),
        answer::GROUP_NOT_EXIST => (ErrorKind::NotFound, "create the group first: mq group create"),
        answer::SYSTEM_ERROR if is_permission(text) => (ErrorKind::Auth, PERMISSION),
        answer::SYSTEM_ERROR if is_refusal(text) => (ErrorKind::Auth, "check user and password"),
        _ => (ErrorKind::Rejected, ""),
    };
    let error = error(kind, format!("the broker answered {code}: {}", printable(text)));
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

/// The broker has no code of its own for a login it does not like.
fn is_refusal(text: &str) -> bool {
    text.contains("AclException") || text.contains("AuthenticationException")
}

/// True when it knows who asks, and does not let him.
fn is_permission(text: &str) -> bool {
    text.contains("AuthorizationException") || (text.contains("AclException") && text.contains("permission"))
}

/// True when it does not know who asks; the code is that of a permission that is missing.
fn is_login(text: &str) -> bool {
    let unknown = text.starts_with("User:") && text.contains("is not found");
    unknown || text.contains("check signature failed") || text.contains("username cannot be null")
}

/// Cuts and escapes text from the wire.
pub(crate) fn printable(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).flat_map(char::escape_debug).collect()
}

/// The same error once more, for whoever else it concerns.
pub(crate) fn again(cause: &Error) -> Error {
    let mut copy = error(cause.kind(), cause.message().to_owned()).with_retryability(cause.retryability());
    for (name, value) in cause.context() {
        copy = copy.with_context(name, value);
    }
    match cause.hint() {
        Some(hint) => copy.with_hint(hint.to_owned()),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_and_a_permission_are_told_apart() {
        // As a broker 5.4.0 says it.
        for text in ["check signature failed.", "User:nobody is not found.", "username cannot be null."] {
            let error = from_answer(answer::NO_PERMISSION, Some(text));
            assert_eq!((error.kind(), error.hint()), (ErrorKind::Auth, Some("check user and password")), "{text}");
        }
        for (text, hint) in [
            ("org.apache.rocketmq.auth.authorization.exception.AuthorizationException: no permission", PERMISSION),
            ("AclException: No default permission for t", PERMISSION),
            ("AuthenticationException: check signature failed.", "check user and password"),
        ] {
            let error = from_answer(answer::SYSTEM_ERROR, Some(text));
            assert_eq!((error.kind(), error.hint()), (ErrorKind::Auth, Some(hint)), "{text}");
        }
        let error = from_answer(answer::NO_PERMISSION, Some("the topic[t] sending message is forbidden"));
        assert!(error.kind() == ErrorKind::Auth && error.hint().is_some_and(|hint| hint.contains("permission")));
    }
}
