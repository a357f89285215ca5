//! Each command to the node that has its key, and after it when that has moved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mq_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::ask::{Answer, spread};
use crate::error::error;
use crate::link::{Link, Live, Shared, To};
use crate::slots::{Address, Redirect, SlotMap, key_of, slot};

/// How often a command may be sent to another node before it has failed.
const REDIRECTS: usize = 5;
/// Between two attempts at a command whose slot is being moved.
const AGAIN: Duration = Duration::from_millis(20);
/// The nodes that have keys, each with the connection that stands.
pub(crate) struct Nodes {
    pub(crate) map: SlotMap,
    pub(crate) members: HashMap<Address, Member>,
}

/// A node, and its connection.
pub(crate) struct Member {
    pub(crate) link: Link,
    pub(crate) number: u64,
    pub(crate) connection: MultiplexedConnection,
}

impl Nodes {
    pub(crate) fn each(&self) -> Vec<(Address, MultiplexedConnection)> {
        self.members.iter().map(|(address, member)| (address.clone(), member.connection.clone())).collect()
    }
}

/// The node that has a key.
pub(crate) fn owner(live: &Live, key: &str) -> Result<Address> {
    let To::Many(nodes) = &live.to else { return Err(error(ErrorKind::Internal, "no cluster")) };
    nodes.map.master(slot(key.as_bytes())).cloned().ok_or_else(uncovered)
}

fn uncovered() -> Error {
    error(ErrorKind::Unavailable, "no node of the cluster has this key's slot")
        .with_hint("look at CLUSTER NODES and CLUSTER SLOTS")
}

/// Where a command goes next.
#[derive(Clone)]
enum Target {
    Owner,
    At(Address, bool),
}

/// Each command to where its key is, all nodes at once; what is refused there follows its slot. The commands for one
/// node stay in order, and so do those that are sent on.
pub(crate) async fn run(
    link: &Link,
    number: u64,
    nodes: Arc<Nodes>,
    commands: &Pipeline,
    wait: Option<&Cmd>,
    limit: Duration,
) -> Vec<Result<Answer>> {
    let deadline = Instant::now() + limit;
    let commands: Vec<&Cmd> = commands.cmd_iter().collect();
    let mut answers: Vec<Option<Result<Answer>>> = commands.iter().map(|_| None).collect();
    let mut open: Vec<(usize, Target)> = (0..commands.len()).map(|at| (at, Target::Owner)).collect();
    let mut redirects = 0;
    while !open.is_empty() {
        let mut parts: Vec<(Address, Vec<(usize, bool)>)> = Vec::new();
        for (at, target) in std::mem::take(&mut open) {
            let Some(command) = commands.get(at) else { continue };
            let (address, asking) = match target {
                Target::At(address, asking) => (address, asking),
                Target::Owner => match place(&nodes, command) {
                    Some(address) => (address, false),
                    None => {
                        set(&mut answers, at, Err(uncovered()));
                        continue;
                    }
                },
            };
            match parts.iter_mut().find(|(known, _)| *known == address) {
                Some((_, list)) => list.push((at, asking)),
                None => parts.push((address, vec![(at, asking)])),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let sent = parts.iter().map(|(address, list)| part(link, &nodes, address, list, &commands, wait, left));
        let all = join_all(sent).await;
        let (mut moved, mut again) = (false, false);
        for ((address, list), results) in parts.into_iter().zip(all) {
            for ((at, asking), result) in list.into_iter().zip(results) {
                let redirect = match &result {
                    Ok(answer) => Redirect::of(&answer.value, &address, &link.shared.config),
                    Err(_) => {
                        // Nothing more under this number: what follows must not overtake what has failed.
                        link.report(number);
                        None
                    }
                };
                match redirect {
                    Some(Redirect::Moved(to)) if redirects < REDIRECTS => {
                        moved = true;
                        open.push((at, Target::At(to, false)));
                    }
                    Some(Redirect::Ask(to)) if redirects < REDIRECTS => open.push((at, Target::At(to, true))),
                    Some(Redirect::Again) if Instant::now() + AGAIN < deadline => {
                        again = true;
                        open.push((at, Target::At(address.clone(), asking)));
                    }
                    _ => {
                        if result.as_ref().is_ok_and(|answer| stands_still(&answer.value)) {
                            link.report(number);
                        }
                        set(&mut answers, at, result);
                    }
                }
            }
        }
        open.sort_by_key(|(at, _)| *at);
        redirects += 1;
        if moved {
            link.shared.lost.notify_one();
        }
        if again {
            redirects -= 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
    let missing = || Err(error(ErrorKind::Internal, "a command was not sent"));
    answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
}

fn set(answers: &mut [Option<Result<Answer>>], at: usize, answer: Result<Answer>) {
    if let Some(place) = answers.get_mut(at) {
        *place = Some(answer);
    }
}

/// The whole cluster, or this node, takes nothing now; when it does again, what was sent behind might overtake.
fn stands_still(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(cause) if matches!(cause.code(), "CLUSTERDOWN" | "READONLY" | "MASTERDOWN"))
}

fn place(nodes: &Nodes, command: &Cmd) -> Option<Address> {
    match key_of(command) {
        Some(key) => nodes.map.master(slot(key)).cloned(),
        None => nodes.members.keys().next().cloned(),
    }
}

/// What goes to one node.
async fn part(
    link: &Link,
    nodes: &Nodes,
    address: &Address,
    list: &[(usize, bool)],
    commands: &[&Cmd],
    wait: Option<&Cmd>,
    limit: Duration,
) -> Vec<Result<Answer>> {
    let mut pipeline = Pipeline::with_capacity(list.len() + 1);
    // An answer to `ASKING` comes before that of the command.
    let mut wanted = Vec::with_capacity(list.len());
    for (at, asking) in list {
        if *asking {
            pipeline.cmd("ASKING");
            wanted.push(false);
        }
        if let Some(command) = commands.get(*at) {
            pipeline.add_command((*command).clone());
            wanted.push(true);
        }
    }
    if let Some(wait) = wait {
        pipeline.add_command(wait.clone());
    }
    let answers = match nodes.members.get(address) {
        Some(member) => member.link.run_here(member.number, &mut member.connection.clone(), &pipeline, limit).await,
        None => elsewhere(link, address, &pipeline, limit).await,
    };
    let mut wanted = wanted.into_iter();
    let mut answers = spread(answers, wanted.len(), wait.is_some());
    answers.retain(|_| wanted.next().unwrap_or(false));
    answers
}

/// To a node that had no keys when the connections were made.
async fn elsewhere(link: &Link, address: &Address, commands: &Pipeline, limit: Duration) -> Result<Vec<Value>> {
    let deadline = Instant::now() + limit;
    let member = member(&link.shared, address)?;
    let mut live = member.ready(deadline).await?;
    let To::One(connection) = &mut live.to else { return Err(uncovered()) };
    let left = deadline.saturating_duration_since(Instant::now());
    member.run_here(live.number, connection, commands, left).await
}

pub(crate) fn member(shared: &Shared, address: &Address) -> Result<Link> {
    let Some(mut links) = shared.links() else { return Err(error(ErrorKind::Internal, "no cluster")) };
    if let Some(link) = links.get(address) {
        return Ok(link.clone());
    }
    let link = Link::member(Arc::clone(&shared.config), address.clone())?;
    links.insert(address.clone(), link.clone());
    Ok(link)
}
