//! Real brokers on loopback: installed on first use, several instances side by side, ended by their own process ids.

pub(crate) mod cli;
pub(crate) mod cluster;
mod instance;
mod kafka;
mod kind;
mod launch;
mod ports;
mod rabbit;
mod ready;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod rocket;
mod rocket_cluster;
mod room;
mod state;
mod tls;

pub(crate) use cli::each;
pub(crate) use instance::{Instance, Report};
pub(crate) use kind::Kind;
