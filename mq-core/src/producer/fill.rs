//! Makes a message ready to be sent, whoever sends it.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::message::{Message, MessageId, control};
use crate::name::printable;
use crate::producer::SendError;

/// Checks a message and gives it an id and a time.
pub(crate) fn fill(mut message: Message, clock: Clock) -> Result<Message, SendError> {
    if let Err(error) = check(&message) {
        return Err(SendError::new(error, message));
    }
    if message.made_at().is_none() || message.message_id().is_none() {
        let now = clock.now();
        let made = message.made_at().unwrap_or(now);
        message = message.timestamp(made);
        if message.message_id().is_none() {
            message = message.id(MessageId::generate(now));
        }
    }
    Ok(message)
}

/// Refuses what would be misread on the other side.
fn check(message: &Message) -> Result<()> {
    match message.headers().iter().find(|(name, _)| control::is_reserved(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::config(format!("the header `{}` is reserved", printable(name)))
            .with_hint("header names that start with `mq-` are the SDK's own; set the id with Message::id")),
    }
}
