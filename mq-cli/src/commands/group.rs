//! `mq group create|list|delete`.

use clap::{Args, Subcommand, ValueEnum};
use mq::driver::GroupSpec;
use mq::{Broker, GroupMode, StartFrom, Topic};
use serde_json::json;

use super::topic::properties;
use crate::args::TopicGroup;
use crate::failure::Failure;
use crate::output::Output;
use crate::parse;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a group with its retry and dead-letter places
    Create(Create),
    /// Every group of a topic
    List(List),
    /// Delete a group with its retry and dead-letter places
    Delete(TopicGroup),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    of: TopicGroup,
    /// Where it starts: earliest, latest, a time, a position. Default: with what is sent from now on; on a log (Kafka)
    /// with the oldest message
    #[arg(long, value_parser = parse::start)]
    from: Option<StartFrom>,
    /// How its consumers share the messages; fixed for the life of the group where the broker makes it a property
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    topic: Topic,
}

/// How the consumers of a group share its messages.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Mode {
    /// Any consumer may get any message
    #[default]
    Shared,
    /// Messages of one key go to one consumer at a time, in order
    Ordered,
}

impl From<Mode> for GroupMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Shared => Self::Shared,
            Mode::Ordered => Self::Ordered,
        }
    }
}

pub(crate) async fn run(broker: &Broker, command: Command, output: &mut Output) -> Result<(), Failure> {
    let admin = broker.admin();
    match command {
        Command::Create(Create { of: TopicGroup { topic, group }, from, mode }) => {
            let mut spec = GroupSpec::new(topic, group);
            spec.start = from.unwrap_or_default();
            spec.mode = mode.into();
            admin.declare_group(&spec).await?;
            let value = json!({"topic": spec.topic.as_str(), "group": spec.group.as_str()});
            output.result(&value, format_args!("group {} of {} is there", spec.group, spec.topic))?;
        }
        Command::List(List { topic }) => {
            for group in admin.list_groups(&topic).await? {
                let value = json!({
                    "topic": topic.as_str(),
                    "group": group.group.as_str(),
                    "members": group.members,
                    "properties": properties(&group.properties),
                });
                output.result(&value, &group.group)?;
            }
        }
        Command::Delete(TopicGroup { topic, group }) => {
            admin.delete_group(&topic, &group).await?;
            let value = json!({"topic": topic.as_str(), "deleted": group.as_str()});
            output.result(&value, format_args!("group {group} of {topic} is deleted"))?;
        }
    }
    Ok(())
}
