//! The arguments of `mq work`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mq::{OnUnknown, StartFrom};

use crate::args::TopicGroup;
use crate::parse::{self, Delays};

/// Runs a command for each message. The body is its standard input; the environment has MQ_ID, MQ_KEY, MQ_TOPIC,
/// MQ_ATTEMPT, MQ_HEADERS (JSON) and MQ_HEADER_<NAME> for each header, its name in upper case with `_` for everything
/// but letters and digits. MQ_BASE64 lists the variables that hold base64, because the value has zero bytes or is not
/// UTF-8; MQ_FILES lists those that hold the path of a file with the value, because it is longer than 64 KiB.
///
/// The exit code decides: 0 done, 75 try again, 65 dead letter, 77 refused (done, not retried); ended by a signal: try
/// again; any other: --on-unknown. A command that cannot be started is a dead letter. The command runs in a process
/// group of its own, which is killed at the --timeout and when the --drain time is over.
///
/// SIGTERM and Ctrl-C drain: what runs may finish, the rest goes back to the broker. A second one aborts. `ready` on
/// standard error says that the subscription stands.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) of: TopicGroup,
    /// How many commands run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) concurrency: u32,
    /// Messages of one key one after the other, across retries too; other keys beside them. Needs a group of the mode
    /// `ordered`
    #[arg(long)]
    pub(super) by_key: bool,
    /// With --by-key: a message that is retried leaves the order of its key, and those behind it do not wait. For brokers
    /// that cannot keep it, such as RocketMQ
    #[arg(long, requires = "by_key")]
    pub(super) unordered_retries: bool,
    /// The delay before each retry; an empty list retries nothing
    #[arg(long, value_parser = parse::delays, default_value = "1s,5s,30s")]
    pub(super) retry: Delays,
    /// At most this many messages a second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// At most this many messages received and not yet settled. Default: twice the concurrency, at least 10
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) prefetch: Option<u32>,
    /// A command that takes longer is killed, and the message tried again
    #[arg(long, value_parser = parse::duration)]
    pub(super) timeout: Option<Duration>,
    /// How long running commands may take to finish when asked to stop
    #[arg(long, value_parser = parse::duration, default_value = "30s")]
    pub(super) drain: Duration,
    /// Where a new group starts: earliest, latest, a time, a position
    #[arg(long, value_parser = parse::start)]
    pub(super) from: Option<StartFrom>,
    /// A message the broker has delivered more often than this without its being settled is a dead letter
    #[arg(long, default_value_t = 10)]
    pub(super) crash_limit: u32,
    /// Run each message once although it may come twice; memory: remembers in this process
    #[arg(long, value_name = "URL")]
    pub(super) idempotency: Option<String>,
    /// What an exit code means that has no meaning of its own
    #[arg(long, value_enum, default_value_t)]
    pub(super) on_unknown: Unknown,
    /// Stop after this many messages, redelivered ones counted
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max: Option<u64>,
    /// Stop when no message came for this long and none is being handled
    #[arg(long, value_parser = parse::duration)]
    pub(super) idle: Option<Duration>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// What becomes of a message whose command failed in an unknown way.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Unknown {
    /// Set it aside at once
    #[default]
    DeadLetter,
    /// Try it again
    Retry,
}

impl From<Unknown> for OnUnknown {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::DeadLetter => Self::DeadLetter,
            Unknown::Retry => Self::Retry,
        }
    }
}
