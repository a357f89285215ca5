//! Half messages: prepared, decided, asked back about.

mod asked;
mod decided;
mod driver;
mod presence;
mod ticket;

pub(crate) use driver::RocketHalf;
