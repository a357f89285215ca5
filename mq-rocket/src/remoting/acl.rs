//! Signs requests for the broker's ACL.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mq_core::config::Secret;
use ring::hmac;

use super::frame::Command;

/// An access key and its secret.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    access: String,
    secret: Secret,
}

impl Login {
    /// `None` without an access key.
    pub(crate) fn new(access: &str, secret: &Secret) -> Option<Self> {
        (!access.is_empty()).then(|| Self { access: access.to_owned(), secret: secret.clone() })
    }

    /// Adds the access key and the signature: of the values of all fields, by the order of their names, and the body.
    /// The protocol wants HMAC with SHA-1, whose weakness is one of plain hashes.
    pub(crate) fn sign(&self, command: &mut Command) {
        command.fields.insert("AccessKey".to_owned(), self.access.clone());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.secret.reveal().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        for value in command.fields.values() {
            context.update(value.as_bytes());
        }
        context.update(&command.body);
        command.fields.insert("Signature".to_owned(), STANDARD.encode(context.sign()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_fields_in_order_and_the_body() {
        let login = Login::new("key", &Secret::new("secret")).unwrap();
        let mut one = Command::request(1).field("b", "2").field("a", "1").body("x");
        login.sign(&mut one);
        let mut other = Command::request(1).field("a", "1").field("b", "2").body("y");
        login.sign(&mut other);
        assert_ne!(one.fields.get("Signature"), other.fields.get("Signature"));
        assert_eq!(one.fields.get("Signature").map(String::len), Some(28));
        assert!(!format!("{login:?}").contains("secret\""));
        assert!(Login::new("", &Secret::default()).is_none());
    }
}
