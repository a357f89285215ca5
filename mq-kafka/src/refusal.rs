//! Why there is no connection. librdkafka gives most reasons the same code and tells them apart only in its text.

use mq_core::error::{Error, ErrorKind};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::fault;

/// TLS alerts by which a server refuses the client's certificate, in OpenSSL's words.
const CERTIFICATE_REFUSED: &[&str] = &[
    "alert bad certificate",
    "alert certificate required",
    "alert certificate unknown",
    "alert certificate expired",
    "alert certificate revoked",
    "alert unsupported certificate",
    "alert unknown ca",
    "alert access denied",
];

/// What the client said last, as an error of the contract.
pub(crate) fn explain(code: Code, reason: &str) -> Error {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            fault(ErrorKind::Auth, format!("the broker refused the login: {reason}"))
                .with_hint("check user, password and SASL mechanism")
        }
        Code::Fatal if says(&["uthorization failed"]) => {
            fault(ErrorKind::Auth, format!("the client has stopped for good: {reason}")).with_hint(
                "ask an operator for the permission (ACL) to write (Kafka asks it of an idempotent producer before the \
                 first message), then start the program again",
            )
        }
        Code::Fatal => fault(ErrorKind::Rejected, format!("the client has stopped for good: {reason}"))
            .with_hint("start the program again"),
        _ if says(CERTIFICATE_REFUSED) => {
            fault(ErrorKind::Auth, format!("the broker refused the client's certificate: {reason}"))
                .with_hint("check `tls.certificate` and `tls.key`: the broker wants a certificate it trusts")
        }
        _ if says(&["certificate verify failed"]) => {
            fault(ErrorKind::Auth, format!("the broker's certificate is not trusted: {reason}"))
                .with_hint("check `tls.ca`, and that the certificate names the host connected to")
        }
        _ if code == Code::SSL || says(&["SSL handshake failed", "SSL connection closed", "SSL routines"]) => {
            fault(ErrorKind::Unavailable, format!("TLS failed: {reason}"))
                .with_hint("check that this port speaks TLS (without: kafka://), and `tls.ca`")
        }
        _ if says(&["onnection refused", "ailed to resolve", "onnect to", "timed out"]) => {
            fault(ErrorKind::Unavailable, reason.to_owned())
                .with_hint("check that the brokers run and that this address reaches them")
        }
        // What a server does which does not understand the client, and also one which is going down.
        _ => fault(ErrorKind::Unavailable, format!("the connection ended: {reason}")).with_hint(
            "check that the brokers run; a port that wants TLS (kafkas://), or a user and a password, ends it as well",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_cannot_mend_is_told_from_what_it_can() {
        let kind = |reason| explain(Code::BrokerTransportFailure, reason).kind();
        assert_eq!(kind("Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate"), ErrorKind::Auth);
        assert_eq!(kind("SSL handshake failed: ...:certificate verify failed: broker certificate"), ErrorKind::Auth);
        assert_eq!(kind("Connect to ipv4#127.0.0.1:1 failed: Connection refused"), ErrorKind::Unavailable);
        assert_eq!(kind("Disconnected"), ErrorKind::Unavailable);
        assert_eq!(explain(Code::Fatal, "Cluster authorization failed").kind(), ErrorKind::Auth);
    }
}
