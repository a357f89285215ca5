//! `mq seek`: moves a group to another place in its topic.

use clap::Args;
use mq::Broker;
use mq::driver::SeekTo;
use serde_json::json;

use crate::args::TopicGroup;
use crate::failure::Failure;
use crate::output::Output;
use crate::parse;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: TopicGroup,
    /// earliest, latest, a time (2026-01-31T12:00:00Z or milliseconds since 1970), or a position (PARTITION:OFFSET)
    #[arg(long, value_parser = parse::seek)]
    to: SeekTo,
}

pub(crate) async fn run(broker: &Broker, arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let Arguments { of, to } = arguments;
    broker.admin().seek(&of.topic, &of.group, &to).await?;
    let to = match &to {
        SeekTo::Earliest => "earliest".to_owned(),
        SeekTo::Latest => "latest".to_owned(),
        SeekTo::Time(at) => humantime::format_rfc3339_millis(*at).to_string(),
        SeekTo::Position(position) => position.to_string(),
        other => format!("{other:?}"),
    };
    let value = json!({"topic": of.topic.as_str(), "group": of.group.as_str(), "to": to});
    output.result(&value, format_args!("group {} of {} goes on at {to}", of.group, of.topic))?;
    Ok(())
}
