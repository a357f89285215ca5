//! `mq send`: one message, or one for each line of standard input.

mod arguments;
mod pipeline;
mod resend;

pub(crate) use arguments::{Arguments, run};
