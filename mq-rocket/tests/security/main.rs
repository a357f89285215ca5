//! Encryption and logins, on real brokers: one that asks for neither and takes both ways, and one that demands a
//! certificate and a login (`cargo xtask brokers up rocket-5.4 rocket-5.4-guarded` prints the environment). Each way works
//! from send to ack, and each mistake is an error that says what to do, in time, without the secret.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with its first surprise")]

mod logins;
mod place;
mod refusals;
