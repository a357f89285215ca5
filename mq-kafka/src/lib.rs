#![doc = include_str!("../docs.md")]

mod admin;
mod assignment;
mod audit;
mod broker;
mod capabilities;
mod client;
mod commits;
mod config;
mod consumer;
mod dead_letters;
mod decode;
mod encode;
mod error;
mod first;
mod flow;
#[cfg(test)]
mod fuzz;
mod group;
mod handoff;
mod lane;
mod link;
mod many;
mod names;
mod native;
mod offset_map;
mod outgoing;
mod partition;
mod producer;
mod reader;
mod rebalance;
mod refusal;
mod reports;
mod scheduler;
mod settler;
mod shared;
mod state;
mod step;
mod stranded;
mod topology;
mod tracker;
mod transaction;
mod window;

pub use broker::Kafka;
pub use config::{Config, ConsumerConfig, Mechanism, ProducerConfig, Profile, Sasl, TopicConfig};
