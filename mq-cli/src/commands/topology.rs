//! `mq topology`: what must exist on the broker for a group.

use std::fmt::Write as _;

use clap::Args;
use mq::driver::{GroupSpec, TopologyItem};
use mq::{Broker, StartFrom};
use serde_json::{Value, json};

use super::group::Mode;
use super::topic::properties;
use crate::args::TopicGroup;
use crate::failure::Failure;
use crate::output::Output;
use crate::parse::{self, Delays};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    of: TopicGroup,
    /// The delays of retries, as for `mq work`
    #[arg(long, value_parser = parse::delays, default_value = "1s,5s,30s")]
    retry: Delays,
    /// Where the group starts
    #[arg(long, value_parser = parse::start)]
    from: Option<StartFrom>,
    /// How the group's consumers share the messages
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
}

pub(crate) async fn run(broker: &Broker, arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let mut spec = GroupSpec::new(arguments.of.topic, arguments.of.group);
    spec.start = arguments.from.unwrap_or_default();
    spec.mode = arguments.mode.into();
    spec.retry_delays = arguments.retry.0;
    for item in broker.admin().topology(&spec).await? {
        output.result(&to_json(&item), to_text(&item))?;
    }
    Ok(())
}

fn to_json(item: &TopologyItem) -> Value {
    json!({
        "kind": item.kind,
        "name": item.name,
        "properties": properties(&item.properties),
        "exists": item.exists,
    })
}

fn to_text(item: &TopologyItem) -> String {
    let mut text = format!("{} {}", item.kind, item.name);
    for (name, value) in &item.properties {
        let _ = write!(text, " {name}={value}");
    }
    match item.exists {
        Some(true) => text.push_str(" (exists)"),
        Some(false) => text.push_str(" (missing)"),
        None => {}
    }
    text
}
