//! An order system: five services, one topic, and nobody waits for anybody.
//!
//! The shop publishes orders. Stock, payment, logistics and notification each read all of them, as groups of their own.
//! On the way a service dies and comes back, a database does not answer, an order arrives twice, another is garbled.
//! The closing table is counted from what really happened.
//!
//! ```sh
//! cargo run --example order_system
//! MQ_URL='kafka://127.0.0.1:9092?profile=development' cargo run --example order_system --features kafka
//! MQ_URL=amqp://guest:guest@127.0.0.1:5672 cargo run --example order_system --features rabbit
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod ledger;
mod services;
mod shop;
mod story;
mod timeline;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let url = std::env::var("MQ_URL").ok().filter(|url| !url.is_empty()).unwrap_or_else(|| "memory:".to_owned());
    match story::tell(&url).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
