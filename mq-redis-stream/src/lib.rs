#![doc = include_str!("../docs.md")]

mod abandoned;
mod admin;
mod ask;
mod atomic;
mod broker;
mod capability;
mod claims;
mod cluster;
mod config;
mod connection;
mod consumer;
mod core;
mod dead_letters;
mod error;
#[cfg(test)]
mod fuzz;
mod groups;
mod keeper;
mod link;
mod names;
mod outgoing;
mod parameter;
mod producer;
mod reader;
mod reply;
mod scheduler;
mod script;
mod sentinel;
mod server;
mod session;
mod settler;
mod signs;
mod slots;
mod state;
mod tls;
mod url;
mod wire;

pub use broker::RedisBroker;
pub use config::{Deployment, Durability, RedisConfig};
