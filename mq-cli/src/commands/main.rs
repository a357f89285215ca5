//! Runs the command asked for, with a connection and standard output.

use std::process::ExitCode;
use std::time::Duration;

use mq::{Broker, Error, ErrorKind};
use tokio::runtime::{Builder, Runtime};

use super::{bench, conformance, dlq, doctor, group, lag, receive, scheduler, seek, send, topic, topology, work};
use crate::args::{Arguments, Command, Global};
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;

/// How long threads of clients may linger after everything is done and flushed.
const LINGER: Duration = Duration::from_millis(500);

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { global, command } = arguments;
    if let Command::Conformance(arguments) = &command {
        // The suite has a runtime of its own.
        return conformance::run(global.url.as_deref(), arguments);
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Bench(arguments) => bench::run(global.url.as_deref(), &arguments).await,
            command => with_broker(global, command).await,
        }
    });
    runtime.shutdown_timeout(LINGER);
    outcome.map(|()| ExitCode::SUCCESS)
}

fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread().enable_all().build();
    Ok(built.map_err(|error| Error::new(ErrorKind::Internal, "cannot start the runtime").with_source(error))?)
}

async fn with_broker(global: Global, command: Command) -> Result<(), Failure> {
    check(&command)?;
    let broker = connect(global.url.as_deref()).await?;
    let mut output = Output::new(global.json);
    run(&broker, command, &mut output).await?;
    output.flush()?;
    Ok(broker.close().await?)
}

/// What can be refused without asking the broker.
fn check(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Topic(command) => command.check(),
        Command::Send(arguments) => arguments.check(),
        _ => Ok(()),
    }
}

async fn run(broker: &Broker, command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Topic(command) => topic::run(broker, command, output).await,
        Command::Group(command) => group::run(broker, command, output).await,
        Command::Send(arguments) => send::run(broker, arguments, output).await,
        Command::Receive(arguments) => receive::run(broker, arguments, output).await,
        Command::Work(arguments) => work::run(broker, *arguments, output).await,
        Command::Dlq(command) => dlq::run(broker, command, output).await,
        Command::Lag(arguments) => lag::run(broker, arguments, output).await,
        Command::Seek(arguments) => seek::run(broker, arguments, output).await,
        Command::Scheduler => scheduler::run(broker).await,
        Command::Topology(arguments) => topology::run(broker, arguments, output).await,
        Command::Doctor(arguments) => doctor::run(broker, &arguments, output).await,
        Command::Bench(_) | Command::Conformance(_) => Ok(()),
    }
}
