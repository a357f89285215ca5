//! Encryption, logins and rights, on a real Kafka that asks for them (`cargo xtask brokers up kafka` prints the
//! environment): each way works from send to ack, and each mistake is an error that says what to do, in time, without
//! the password.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with its first surprise")]

mod audit;
mod logins;
mod place;
mod refusals;
mod rights;
mod secrets;
