//! Errors of the client, in the words of the contract.

use mq_core::error::{Error, ErrorKind, Result};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

/// The adapter's name in errors and in the capability matrix.
pub(crate) const BACKEND: &str = "kafka";

/// An error of this adapter that no answer of the broker caused.
pub(crate) fn fault(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(kind, message).with_backend(BACKEND)
}

/// The client's error, in the words of the contract.
pub(crate) fn from_client(error: &KafkaError, operation: &'static str) -> Error {
    let mapped = match error {
        // The text of a configuration error holds the value refused, which may be a secret: name only the property.
        KafkaError::ClientConfig(_, _, name, _) => Error::config(format!("the client refuses the value of `{name}`"))
            .with_hint("check it against https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"),
        KafkaError::ClientCreation(reason) => Error::config(format!("the client cannot be made: {reason}")),
        KafkaError::Nul(_) => Error::config("a name or value contains a zero byte"),
        _ => match error.rdkafka_error_code() {
            Some(code) => from_code(code),
            None => Error::new(ErrorKind::Internal, error.to_string()),
        },
    };
    mapped.with_backend(BACKEND).with_operation(operation)
}

/// What a code of librdkafka or of the broker means to a caller.
pub(crate) fn from_code(code: Code) -> Error {
    let (kind, hint) = meaning(code);
    let mut error = Error::new(kind, code.to_string()).with_context("code", format!("{code:?}"));
    if let Some(hint) = hint {
        error = error.with_hint(hint);
    }
    if is_ambiguous(code) { error.ambiguous() } else { error }
}

/// What to do about a code.
pub(crate) fn hint(code: Code) -> Option<&'static str> {
    meaning(code).1
}

fn meaning(code: Code) -> (ErrorKind, Option<&'static str>) {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
            (ErrorKind::NotFound, Some("create the topic first: mq topic create TOPIC"))
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => (
            ErrorKind::TooLarge,
            Some("raise `max.message.bytes` of the topic and `producer.max_message_bytes`, or send a reference"),
        ),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => (ErrorKind::Auth, Some("check user, password and SASL mechanism")),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SecurityDisabled => {
            (ErrorKind::Auth, Some("ask an operator for the permission (ACL) on this topic, group or cluster"))
        }
        Code::QueueFull => (ErrorKind::Backpressure, Some("send slower, or raise `producer.buffer_bytes`")),
        Code::ThrottlingQuotaExceeded => (ErrorKind::Backpressure, Some("the broker's quota is used up: slow down")),
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            (ErrorKind::Timeout, None)
        }
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerNotAvailable
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NetworkException
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::WaitingForCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::Outdated
        | Code::RebalanceInProgress
        | Code::ReplicaNotAvailable => {
            (ErrorKind::Unavailable, Some("check that the brokers run and that this address reaches them"))
        }
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy => (ErrorKind::Closed, None),
        Code::TopicAlreadyExists => (ErrorKind::TopologyConflict, None),
        Code::InvalidReplicationFactor => (
            ErrorKind::Rejected,
            Some(
                "the cluster has fewer brokers than copies asked for: set `profile = \"development\"` (URL: ?profile=development) or `topic.replicas`",
            ),
        ),
        Code::InvalidTopic | Code::InvalidGroupId => (
            ErrorKind::Config,
            Some("use ASCII letters, digits, `.`, `_` and `-`; Kafka refuses names that differ only in `.` and `_`"),
        ),
        Code::NonEmptyGroup | Code::UnknownMemberId | Code::IllegalGeneration => {
            (ErrorKind::Rejected, Some("the group has consumers: stop them, then try again"))
        }
        Code::GroupIdNotFound => (ErrorKind::NotFound, None),
        Code::PolicyViolation | Code::InvalidConfig | Code::InvalidPartitions | Code::InvalidRecord => {
            (ErrorKind::Rejected, None)
        }
        _ => (ErrorKind::Internal, None),
    }
}

/// A message may be stored although the client gave up on it.
fn is_ambiguous(code: Code) -> bool {
    matches!(
        code,
        Code::MessageTimedOut | Code::PurgeInflight | Code::NotEnoughReplicasAfterAppend | Code::RequestTimedOut
    )
}

/// Runs a blocking call of the client off the runtime's threads, and gives up waiting after `limit`.
///
/// The call itself has a timeout of its own; the outer one is for the case that the client exceeds it.
pub(crate) async fn blocking<T: Send + 'static>(
    limit: std::time::Duration,
    operation: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let margin = std::time::Duration::from_secs(1);
    match tokio::time::timeout(limit + margin, tokio::task::spawn_blocking(call)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            Err(fault(ErrorKind::Internal, "the blocking call was cancelled or panicked").with_operation(operation))
        }
        Err(_) => Err(Error::timeout(limit).with_backend(BACKEND).with_operation(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::error::Retryability;

    #[test]
    fn a_timed_out_message_may_be_stored() {
        assert_eq!(from_code(Code::MessageTimedOut).retryability(), Retryability::Ambiguous);
        assert_eq!(from_code(Code::UnknownTopic).kind(), ErrorKind::NotFound);
        assert!(from_code(Code::AllBrokersDown).is_transient());
    }

    #[test]
    fn a_refused_setting_prints_no_value() {
        let error = rdkafka::ClientConfig::new().set("acks", "hunter2").create::<rdkafka::producer::BaseProducer>();
        let text = from_client(&error.err().unwrap(), "open producer").to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
