//! What a Kafka record has and a message of the contract has not.

use std::sync::Arc;

use mq_core::message::{Message, Native};
use rdkafka::message::OwnedHeaders;

/// Kept with a delivered message, so that retries and dead letters are written as the record came.
#[derive(Debug)]
pub(crate) struct Odd {
    /// Places in the header list whose value is null (not the same as empty).
    pub(crate) nulls: Vec<usize>,
    /// The whole list as the client has it, when a name is not UTF-8: such a header cannot be shown, only kept.
    pub(crate) raw: Option<OwnedHeaders>,
}

impl Odd {
    pub(crate) fn into_native(self) -> Native {
        Arc::new(self)
    }

    /// What is odd about `message`, if anything.
    pub(crate) fn of(message: &Message) -> Option<&Self> {
        message.native().and_then(|native| native.downcast_ref())
    }
}
