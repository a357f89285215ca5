//! `mq bench`.

use clap::{Args as ClapArgs, ValueEnum};
use mq::{Error, ErrorKind, Result};

use crate::{cases, report};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// P1: confirmed pipelined sends, 256 in flight.
    Send,
    /// P2: consuming with an ack per message.
    Consume,
    /// P2 beside: the whole worker.
    Worker,
    /// P4: a lone confirmed send.
    Lone,
    /// P5: sixteen by key against one after the other, 5 ms handler.
    Lanes,
}

/// One of the ways compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The raw client.
    Raw,
    /// `mq`.
    Ours,
}

impl Way {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Raw => Self::Ours,
            Self::Ours => Self::Raw,
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Pairs of runs.
    pub(crate) pairs: usize,
    /// Messages per run; what suits the case when not given.
    pub(crate) messages: Option<u64>,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// Only one way.
    pub(crate) only: Option<Way>,
}

/// Measures the raw client beside `mq`, turn by turn in one process.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// What to measure; everything when not given.
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Pairs of runs.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Messages per run; what suits the case when not given.
    #[arg(long)]
    messages: Option<u64>,
    /// Bytes of a body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Only one way, without comparing: for a profiler.
    #[arg(long, value_enum)]
    only: Option<Way>,
    /// One line of JSON per case.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn extent(&self) -> Extent {
        Extent { pairs: self.pairs, messages: self.messages, size: self.size, only: self.only }
    }
}

/// Runs the cases against the broker at `url`.
///
/// # Errors
/// When a run fails, or, after all have run, when a budget is missed.
pub async fn run(args: &Args, url: &str) -> Result<()> {
    let chosen = if args.cases.is_empty() { Case::value_variants().to_vec() } else { args.cases.clone() };
    let mut missed = Vec::new();
    for case in chosen {
        let outcome = cases::measure(case, url, args.extent()).await?;
        report::print(&outcome, args.json)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot print the figures").with_source(error))?;
        if !outcome.kept() {
            missed.push(format!("{case:?}").to_lowercase());
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Rejected, format!("budgets missed: {}", missed.join(", ")))
        .with_hint("timings are noisy on a busy machine: run it alone, with more pairs"))
}
