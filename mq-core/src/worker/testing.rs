//! Help for the worker's own tests.

use crate::driver::{Incoming, Origin, Token};
use crate::message::{Control, Message, Position};
use crate::worker::context::Context;

/// A delivery of partition `lane` that is known by `major`.
pub(crate) fn context(lane: u32, major: u64) -> Context {
    Context::new(Incoming {
        token: Token { epoch: 0, lane, major, minor: 0 },
        message: Message::new("t").unwrap().body("12345678"),
        position: Position::None,
        control: Control::default(),
        redeliveries: 0,
        redelivered: false,
        origin: Origin::Topic,
    })
}
