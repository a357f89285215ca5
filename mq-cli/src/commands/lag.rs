//! `mq lag`: how far a group is behind.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use mq::Broker;
use mq::driver::Lag;
use serde_json::{Value, json};

use crate::args::TopicGroup;
use crate::failure::Failure;
use crate::output::Output;
use crate::record::place;
use crate::stop::Stop;

/// How often `--watch` looks again.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: TopicGroup,
    /// Look again every second, until stopped
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(broker: &Broker, arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let Arguments { of, watch } = arguments;
    let admin = broker.admin();
    let mut stop = Stop::listen()?;
    loop {
        let lag = tokio::select! {
            () = stop.requested() => return stopped(watch, &stop),
            lag = admin.lag(&of.topic, &of.group) => lag?,
        };
        output.result(&to_json(&of, &lag), to_text(&lag))?;
        output.flush()?;
        if !watch {
            return Ok(());
        }
        tokio::select! {
            () = stop.requested() => return stopped(watch, &stop),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn stopped(watch: bool, stop: &Stop) -> Result<(), Failure> {
    match stop.signal().filter(|_| !watch) {
        None => Ok(()),
        Some(signal) => Err(Failure::Signal(signal)),
    }
}

fn to_json(of: &TopicGroup, lag: &Lag) -> Value {
    let partitions = lag.partitions.iter().map(|partition| {
        json!({
            "partition": partition.partition,
            "ready": partition.ready,
            "position": place(&partition.position),
            "end": place(&partition.end),
        })
    });
    json!({
        "topic": of.topic.as_str(),
        "group": of.group.as_str(),
        "ready": lag.ready,
        "unsettled": lag.unsettled,
        "retrying": lag.retrying,
        "dead": lag.dead,
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn to_text(lag: &Lag) -> String {
    let mut text = format!("ready {}", lag.ready);
    for (name, count) in [("unsettled", lag.unsettled), ("retrying", lag.retrying), ("dead", lag.dead)] {
        if let Some(count) = count {
            let _ = write!(text, "  {name} {count}");
        }
    }
    for partition in &lag.partitions {
        let (number, ready) = (partition.partition, partition.ready);
        let _ = write!(text, "\npartition {number}  ready {ready}  at {}  end {}", partition.position, partition.end);
    }
    text
}
