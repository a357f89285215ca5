#![doc = include_str!("../docs.md")]

mod acks;
mod admin;
mod attempts;
mod audit;
mod away;
mod broker;
mod capability;
mod config;
mod consumer;
mod core;
mod dead_letters;
mod error;
#[cfg(test)]
mod fuzz;
mod gaps;
mod half;
mod lane;
mod lanes;
mod leases;
mod name_servers;
mod names;
mod producer;
mod pull;
mod reader;
mod readers;
mod receipt;
mod remoting;
mod route;
mod routes;
mod sending;
mod session;
mod settler;
mod source;
mod stored;
mod topology;
mod wire;

pub use broker::RocketBroker;
pub use config::RocketConfig;
