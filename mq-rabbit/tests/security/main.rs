//! Encryption, logins and permissions, on a real RabbitMQ (`cargo xtask brokers up rabbit-4.0` prints the environment):
//! each way works from send to ack, and each mistake is an error that says what to do, in time, without the password.
#![expect(clippy::unwrap_used, reason = "a test ends with its first surprise")]

mod audit;
mod control;
mod logins;
mod permissions;
mod place;
mod refusals;
mod secrets;
