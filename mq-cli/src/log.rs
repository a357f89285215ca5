//! Logs on standard error: warnings of mq, errors of the clients, more with `MQ_LOG`.
//!
//! The AMQP client is silent by default: it logs as an error what is the answer to a question (does this queue exist),
//! and what is an error to the command is told as one.

use tracing_subscriber::EnvFilter;

use crate::output;

const DEFAULT: &str = "error,lapin=off,mq=warn,mq_core=warn,mq_kafka=warn,mq_kafka::client=error,mq_rabbit=warn,mq_redis_stream=warn,mq_rocket=warn";
/// The client prints returned messages whole, contents included; the error of the send says the same without them.
const NEVER: &str = "lapin::returned_messages=off";

/// Starts logging as `MQ_LOG` says, in the syntax of `RUST_LOG`.
pub(crate) fn start() {
    let wanted = std::env::var("MQ_LOG").unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { DEFAULT } else { wanted.trim() };
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|error| {
        output::note(format_args!("mq: MQ_LOG is not understood ({error}); it is as if it were not set"));
        EnvFilter::new(DEFAULT)
    });
    let filter = match NEVER.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_valid() {
        assert!(EnvFilter::try_new(DEFAULT).is_ok());
        assert!(EnvFilter::try_new(NEVER).is_ok());
    }
}
