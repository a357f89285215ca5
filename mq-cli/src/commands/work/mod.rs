//! `mq work`: a command for each message, with retries and dead letters.

mod arguments;
mod child;
mod environment;
mod run;

pub(crate) use arguments::Arguments;
pub(crate) use run::run;
