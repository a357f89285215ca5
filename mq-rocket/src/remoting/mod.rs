//! The broker's remoting protocol: frames over TCP, many requests under way on one connection.

mod access;
mod acl;
pub(crate) mod code;
mod connection;
mod frame;
mod link;

pub(crate) use access::Access;
pub(crate) use connection::{Connection, Failure, Question};
pub(crate) use frame::Command;
pub(crate) use link::Link;
