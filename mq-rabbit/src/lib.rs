#![doc = include_str!("../docs.md")]

mod acks;
mod admin;
mod audit;
mod broker;
mod capability;
mod config;
mod consumer;
mod core;
mod dead_letters;
mod delay;
mod error;
#[cfg(test)]
mod fuzz;
mod lane;
mod ledger;
mod link;
mod names;
mod parking;
mod producer;
mod quiet;
mod registry;
mod session;
mod settler;
mod shallow;
mod source;
mod stream;
mod tls;
mod topology;
mod value;
mod wire;

pub use broker::RabbitBroker;
pub use config::RabbitConfig;
