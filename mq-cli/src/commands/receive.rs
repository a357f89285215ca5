//! `mq receive`: messages as JSON, one a line.

use std::time::Duration;

use clap::{Args, ValueEnum};
use mq::{Broker, Consumer, Delivery, StartFrom, Subscription};
use serde::Serialize;

use crate::args::TopicGroup;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::parse;
use crate::record::{Record, place};
use crate::stop::Stop;

/// Received and not yet acknowledged, at most: what a crash may deliver twice.
const PREFETCH: usize = 100;
/// Without `--idle`: how long one wait is before the next begins.
const ENDLESS: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: TopicGroup,
    /// Stop after this many messages
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Stop when no message came for this long
    #[arg(long, value_parser = parse::duration)]
    idle: Option<Duration>,
    /// Where a new group starts: earliest, latest, a time, a position
    #[arg(long, value_parser = parse::start)]
    from: Option<StartFrom>,
    /// When messages are acknowledged
    #[arg(long, value_enum, default_value_t)]
    ack: Ack,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// Before the line is printed: a crash may lose messages, none comes twice
    Auto,
    /// After the line is printed and flushed: a crash may repeat messages, none is lost
    #[default]
    Manual,
    /// As manual, for all messages at hand together: faster
    Batched,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    message: Record<'a>,
    attempt: u32,
    position: Option<String>,
    redeliveries: u32,
    redelivered: bool,
}

impl<'a> Line<'a> {
    fn new(delivery: &'a Delivery) -> Self {
        Self {
            message: Record::new(delivery.message(), delivery.id().as_ref()),
            attempt: delivery.attempt(),
            position: place(delivery.position()),
            redeliveries: delivery.redeliveries(),
            redelivered: delivery.redelivered(),
        }
    }
}

pub(crate) async fn run(broker: &Broker, arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let max = arguments.max.unwrap_or(u64::MAX);
    let prefetch = usize::try_from(max).unwrap_or(PREFETCH).min(PREFETCH);
    let subscription = Subscription::new(&arguments.of.topic, &arguments.of.group);
    let subscription = subscription.prefetch(prefetch).start(arguments.from.clone().unwrap_or_default());
    let mut consumer = broker.consumer(subscription).await?;
    let mut received = 0;
    let ended = receive(&mut consumer, &arguments, &mut stop, output, &mut received).await;
    let closed = consumer.close().await;
    ended?;
    closed?;
    let idle = arguments.idle.is_some() && stop.signal().is_none();
    match (stop.signal(), arguments.max) {
        (_, Some(max)) if received >= max => {}
        (Some(signal), Some(max)) => {
            output::note(format_args!("mq: stopped after {received} of {max} messages"));
            return Err(Failure::Signal(signal));
        }
        (_, Some(max)) if idle => output::note(format_args!("mq: received {received} of {max} messages")),
        _ => output::note(format_args!("mq: received {received} messages")),
    }
    Ok(())
}

async fn receive(
    consumer: &mut Consumer,
    arguments: &Arguments,
    stop: &mut Stop,
    output: &mut Output,
    received: &mut u64,
) -> Result<(), Failure> {
    let max = arguments.max.unwrap_or(u64::MAX);
    while *received < max {
        let many = if arguments.ack == Ack::Batched { PREFETCH } else { 1 };
        let many = usize::try_from(max - *received).unwrap_or(many).min(many);
        let batch = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            batch = consumer.recv_batch(many, arguments.idle.unwrap_or(ENDLESS)) => batch?,
        };
        if batch.is_empty() && arguments.idle.is_some() {
            return Ok(());
        }
        *received += u64::try_from(batch.len()).unwrap_or(0);
        print(batch, arguments.ack, output).await?;
    }
    Ok(())
}

/// Prints and acknowledges. What could not be printed is given back by dropping it.
async fn print(batch: Vec<Delivery>, ack: Ack, output: &mut Output) -> Result<(), Failure> {
    if ack == Ack::Auto {
        for delivery in batch {
            let line = serde_json::to_vec(&Line::new(&delivery)).map_err(std::io::Error::from)?;
            delivery.ack().await?;
            output.raw_line(&line)?;
        }
        output.flush()?;
        return Ok(());
    }
    for delivery in &batch {
        output.json_line(&Line::new(delivery))?;
    }
    output.flush()?;
    for delivery in batch {
        drop(delivery.ack());
    }
    Ok(())
}
