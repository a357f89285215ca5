//! `mq-bench`: the benchmarks without the rest of the command.

use clap::Parser;

/// Raw client beside `mq`, interleaved in one process.
#[derive(Debug, Parser)]
struct Command {
    /// The broker.
    #[arg(long, env = "MQ_URL")]
    url: String,
    #[command(flatten)]
    args: mq_bench::cli::Args,
}

#[tokio::main]
async fn main() -> Result<(), mq::Error> {
    let command = Command::parse();
    mq_bench::cli::run(&command.args, &command.url).await
}
