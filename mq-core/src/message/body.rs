//! Typed arguments of handlers, taken from a message.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// Makes a handler's argument out of a message.
///
/// A failure means the message cannot be understood: it goes to the dead letters at once, byte for byte, with the
/// reason `decode`; it is not retried, since the same bytes would fail again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a handler's argument",
    note = "take `Json<T>`, `Text`, `Body` or `Message`, or implement `FromMessage`"
)]
pub trait FromMessage: Sized + Send {
    /// Reads the argument out of `message`.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`], saying what is wrong with the bytes without printing them.
    fn from_message(message: &Message) -> Result<Self>;
}

/// The body as JSON. A tombstone reads as JSON `null`, so `Json<Option<T>>` accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send> FromMessage for Json<T> {
    fn from_message(message: &Message) -> Result<Self> {
        let body = message.body_bytes().map_or(b"null".as_slice(), |body| body);
        serde_json::from_slice(body).map(Json).map_err(|error| {
            // The message of serde_json quotes the input (a wrong variant, say): name only the place and the class.
            Error::new(
                ErrorKind::Codec,
                format!(
                    "the body ({} B) is not the JSON expected: {:?} error at line {} column {}",
                    body.len(),
                    error.classify(),
                    error.line(),
                    error.column()
                ),
            )
        })
    }
}

/// The body as UTF-8 text; a tombstone is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl FromMessage for Text {
    fn from_message(message: &Message) -> Result<Self> {
        let body = message.body_bytes().ok_or_else(|| Error::new(ErrorKind::Codec, "the message has no body"))?;
        let text = std::str::from_utf8(body).map_err(|error| {
            Error::new(ErrorKind::Codec, format!("the body ({} B) is not UTF-8", body.len())).with_source(error)
        })?;
        Ok(Self(text.to_owned()))
    }
}

/// The body as it is; a tombstone reads as no bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(pub Bytes);

impl FromMessage for Body {
    fn from_message(message: &Message) -> Result<Self> {
        Ok(Self(message.body_bytes().cloned().unwrap_or_default()))
    }
}

impl FromMessage for Message {
    fn from_message(message: &Message) -> Result<Self> {
        Ok(message.clone())
    }
}

/// For handlers that need only the context.
impl FromMessage for () {
    fn from_message(_: &Message) -> Result<Self> {
        Ok(())
    }
}
