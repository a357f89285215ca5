//! `mq dlq list|show|redrive|purge`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use mq::dead_letter::DeadLetter;
use mq::driver::DeadLetterDriver;
use mq::{Broker, Group, Topic};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::args::TopicGroup;
use crate::failure::{Failure, one_line};
use crate::output::{self, Output};
use crate::record::{Record, millis, place};

/// How many are listed unless asked for more.
const LISTED: usize = 100;
/// How many are redriven in one call of the adapter, so that progress is durable and a rate can be kept.
const CHUNK: usize = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The oldest dead letters, one a line: position, reason, attempts, id, error. Listing never consumes
    List(Selected),
    /// The oldest dead letters in full: headers and body too
    Show(Selected),
    /// Bring dead letters back to the group they failed in, oldest first, as attempt 1
    Redrive(Redrive),
    /// Delete dead letters, oldest first
    Purge(Selected),
}

#[derive(Debug, Args)]
pub(crate) struct Selected {
    #[command(flatten)]
    of: TopicGroup,
    /// At most this many. Default: 100 for list and show, all there are now for redrive and purge
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    of: Selected,
    /// At most this many a second
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    message: Record<'a>,
    position: Option<String>,
    reason: Option<&'static str>,
    error: Option<&'a str>,
    attempts: Option<u32>,
    redrives: Option<u32>,
    first_failed_ms: Option<u64>,
    failed_ms: Option<u64>,
    origin_topic: Option<&'a str>,
    group: &'a str,
    origin_position: Option<String>,
}

impl<'a> Line<'a> {
    fn new(letter: &'a DeadLetter, group: &'a Group) -> Self {
        let record = letter.record.as_ref();
        Self {
            message: Record::new(&letter.message, letter.message.message_id()),
            position: place(&letter.position),
            reason: record.map(|record| record.reason.as_str()),
            error: record.map(|record| record.error.as_str()),
            attempts: record.map(|record| record.attempts),
            redrives: record.map(|record| record.redrives),
            first_failed_ms: record.and_then(|record| record.first_failed).map(millis),
            failed_ms: record.map(|record| millis(record.failed)),
            origin_topic: record.map(|record| record.topic.as_str()),
            group: group.as_str(),
            origin_position: record.and_then(|record| place(&record.position)),
        }
    }
}

pub(crate) async fn run(broker: &Broker, command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(broker, arguments, output, to_line).await,
        Command::Show(arguments) => list(broker, arguments, output, to_page).await,
        Command::Redrive(arguments) => redrive(broker, arguments, output).await,
        Command::Purge(arguments) => {
            let purged = open(broker, &arguments.of).await?.purge(arguments.max).await?;
            exists_if(purged == 0, broker, &arguments.of).await?;
            output.result(&json!({"purged": purged}), format_args!("purged {purged} dead letters"))?;
            Ok(())
        }
    }
}

async fn open(broker: &Broker, of: &TopicGroup) -> Result<Box<dyn DeadLetterDriver>, Failure> {
    Ok(broker.admin().dead_letters(&of.topic, &of.group).await?)
}

/// Nothing may mean that there is nothing, or that the name is wrong.
async fn exists_if(nothing: bool, broker: &Broker, of: &TopicGroup) -> Result<(), Failure> {
    if nothing && !of.topic.is_foreign() {
        broker.admin().describe_topic(&of.topic).await?;
    }
    Ok(())
}

async fn list(
    broker: &Broker,
    arguments: Selected,
    output: &mut Output,
    text: fn(&DeadLetter) -> String,
) -> Result<(), Failure> {
    let max = arguments.max.map_or(LISTED, |max| usize::try_from(max).unwrap_or(usize::MAX));
    let letters = open(broker, &arguments.of).await?.list(max).await?;
    exists_if(letters.is_empty(), broker, &arguments.of).await?;
    for letter in &letters {
        output.result(&Line::new(letter, &arguments.of.group), text(letter))?;
    }
    if arguments.max.is_none() && letters.len() == max {
        output::note(format_args!("mq: the oldest {max}; there may be more: --max N"));
    }
    Ok(())
}

fn to_line(letter: &DeadLetter) -> String {
    let id = letter.message.message_id().map_or_else(|| "-".to_owned(), ToString::to_string);
    match &letter.record {
        None => format!("{}\tset aside by the broker\t-\t{id}\t-", letter.position),
        Some(record) => {
            let (reason, attempts) = (record.reason, record.attempts);
            format!("{}\t{reason}\t{attempts}\t{}\t{}", letter.position, one_line(&id), one_line(&record.error))
        }
    }
}

fn to_page(letter: &DeadLetter) -> String {
    let message = &letter.message;
    let mut page = String::new();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(page, "{name}: {}", one_line(&value.to_string()));
    };
    field("position", &letter.position);
    if let Some(id) = message.message_id() {
        field("id", id);
    }
    if let Some(record) = &letter.record {
        field("reason", &record.reason);
        field("error", &record.error);
        field("attempts", &record.attempts);
        field("redrives", &record.redrives);
        field("failed", &humantime::format_rfc3339_millis(record.failed));
        field("from", &format_args!("{} {}", record.topic, record.position));
    }
    if let Some(key) = message.key_bytes() {
        field("key", &String::from_utf8_lossy(key));
    }
    for (name, value) in message.headers().iter() {
        field("header", &format_args!("{name}={}", String::from_utf8_lossy(value)));
    }
    match message.body_bytes() {
        None => field("body", &"(none)"),
        Some(body) => field("body", &String::from_utf8_lossy(body)),
    }
    page
}

async fn redrive(broker: &Broker, arguments: Redrive, output: &mut Output) -> Result<(), Failure> {
    let Redrive { of: Selected { of, max }, rate } = arguments;
    let mut letters = open(broker, &of).await?;
    let limit = match max {
        Some(max) => max,
        // Those that fail again while this runs are not "there now": without a bound they could go round for ever.
        None => dead_now(broker, &of.topic, &of.group).await?.unwrap_or(u64::MAX),
    };
    let chunk = rate.map_or(CHUNK, |rate| usize::try_from(rate / 10).unwrap_or(CHUNK).clamp(1, CHUNK));
    let began = Instant::now();
    let mut redriven = 0;
    let outcome = loop {
        let left = usize::try_from(limit - redriven).unwrap_or(chunk).min(chunk);
        if left == 0 {
            break Ok(());
        }
        match letters.redrive(left).await {
            Ok(0) => break Ok(()),
            Ok(moved) => redriven = limit.min(redriven + moved),
            Err(error) => break Err(error),
        }
        if let Some(rate) = rate {
            sleep_until(began + Duration::from_secs_f64(redriven as f64 / rate as f64)).await;
        }
    };
    exists_if(redriven == 0 && outcome.is_ok(), broker, &of).await?;
    output.result(&json!({"redriven": redriven}), format_args!("redrove {redriven} dead letters"))?;
    output.flush()?;
    Ok(outcome?)
}

async fn dead_now(broker: &Broker, topic: &Topic, group: &Group) -> Result<Option<u64>, Failure> {
    Ok(broker.admin().lag(topic, group).await?.dead)
}
