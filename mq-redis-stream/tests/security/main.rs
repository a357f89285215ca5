//! Encryption, logins and permissions, on a real Redis (`cargo xtask brokers up redis-8.0` prints the environment): each
//! way works from send to ack, and each mistake is an error that says what to do, in time, without the password.
#![expect(clippy::unwrap_used, reason = "a test ends with its first surprise")]

mod control;
mod logins;
mod permissions;
mod place;
mod refusals;
mod secrets;
