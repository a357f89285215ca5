//! `mq topic create|list|describe|delete`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use mq::driver::{GroupSpec, TopicInfo, TopicSpec};
use mq::{Broker, Group, Topic};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a topic; nothing happens when it is there as asked
    Create(Create),
    /// Every topic
    List,
    /// One topic with its properties
    Describe(Named),
    /// Delete a topic, its groups and what belongs to them
    Delete(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    topic: Topic,
    /// Partitions, where the broker has any
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Create this group of it too; may be given several times
    #[arg(long = "group")]
    groups: Vec<Group>,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    topic: Topic,
}

impl Command {
    /// What belongs to another program is refused before it is touched.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Create(Create { topic, .. }) | Self::Delete(Named { topic }) => Ok(topic.check_declarable()?),
            Self::List | Self::Describe(_) => Ok(()),
        }
    }
}

pub(crate) async fn run(broker: &Broker, command: Command, output: &mut Output) -> Result<(), Failure> {
    let admin = broker.admin();
    match command {
        Command::Create(create) => {
            let mut spec = TopicSpec::new(create.topic.clone());
            spec.partitions = create.partitions;
            admin.declare_topic(&spec).await?;
            for group in &create.groups {
                admin.declare_group(&GroupSpec::new(create.topic.clone(), group.clone())).await?;
            }
            let groups: Vec<&str> = create.groups.iter().map(Group::as_str).collect();
            let text = match groups.as_slice() {
                [] => format!("topic {} is there", create.topic),
                groups => format!("topic {} is there, with the groups {}", create.topic, groups.join(", ")),
            };
            output.result(&json!({"topic": create.topic.as_str(), "groups": groups}), text)?;
        }
        Command::List => {
            for topic in admin.list_topics().await? {
                output.result(&to_json(&topic), &topic.topic)?;
            }
        }
        Command::Describe(Named { topic }) => {
            let topic = admin.describe_topic(&topic).await?;
            output.result(&to_json(&topic), to_text(&topic))?;
        }
        Command::Delete(Named { topic }) => {
            admin.delete_topic(&topic).await?;
            output.result(&json!({"deleted": topic.as_str()}), format_args!("topic {topic} is deleted"))?;
        }
    }
    Ok(())
}

fn to_json(topic: &TopicInfo) -> Value {
    json!({
        "topic": topic.topic.as_str(),
        "partitions": topic.partitions,
        "properties": properties(&topic.properties),
    })
}

fn to_text(topic: &TopicInfo) -> String {
    let mut text = topic.topic.to_string();
    if let Some(partitions) = topic.partitions {
        let _ = write!(text, "\npartitions {partitions}");
    }
    for (name, value) in &topic.properties {
        let _ = write!(text, "\n{name} {value}");
    }
    text
}

/// Properties as the broker names them, as a JSON object.
pub(crate) fn properties(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect::<Map<_, _>>())
}
