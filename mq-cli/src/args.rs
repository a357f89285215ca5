//! The arguments, as people and scripts write them.

use clap::{Args, Parser, Subcommand};
use mq::{Group, Topic};

use crate::commands;

/// Topics, groups, messages and dead letters on Kafka and RabbitMQ.
///
/// Results go to standard output, remarks and logs to standard error. The exit code is 0 only when everything asked
/// was done, 2 for wrong arguments or settings, 1 for everything else, 128 + n when signal n came before the end.
/// MQ_CONFIG names a configuration file instead of a URL; MQ_LOG sets what is logged, in the syntax of RUST_LOG.
#[derive(Debug, Parser)]
#[command(name = "mq", version, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The broker: kafka://HOST:PORT, amqp://USER:PASSWORD@HOST:PORT/VHOST. Other processes can read arguments; keep
    /// passwords in MQ_URL
    #[arg(long, global = true, env = "MQ_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// Results as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Topics: create, list, describe, delete
    #[command(subcommand)]
    Topic(commands::topic::Command),
    /// Groups: create, list, delete
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Send one message, or one for each line of standard input
    Send(commands::send::Arguments),
    /// Receive messages and print them as JSON, one a line
    Receive(commands::receive::Arguments),
    /// Run a command for each message, with retries and dead letters
    Work(Box<commands::work::Arguments>),
    /// Dead letters: list, show, redrive, purge
    #[command(subcommand)]
    Dlq(commands::dlq::Command),
    /// How far a group is behind
    Lag(commands::lag::Arguments),
    /// Move a group to another place in its topic
    Seek(commands::seek::Arguments),
    /// Move delayed messages and retries to their topics when they are due, until stopped
    Scheduler,
    /// Print what must exist on the broker for a group, for those who may create it
    Topology(commands::topology::Arguments),
    /// Look at the broker: does it answer, what can it do, what is risky about its set-up, or that of one group
    Doctor(commands::doctor::Arguments),
    /// Measure the raw client beside mq, turn by turn
    Bench(commands::bench::Arguments),
    /// Check the broker against everything mq promises
    Conformance(commands::conformance::Arguments),
}

/// One group of one topic.
#[derive(Debug, Args)]
pub(crate) struct TopicGroup {
    /// NAME, or queue:NAME, exchange:NAME for what another program owns
    pub(crate) topic: Topic,
    /// The group of consumers
    #[arg(long)]
    pub(crate) group: Group,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }
}
