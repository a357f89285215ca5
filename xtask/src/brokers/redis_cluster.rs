//! A Redis Cluster on loopback: three masters, a replica of each, and an address for each node's talk with the others.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::kind::Kind;
use super::redis;
use super::state::State;

const MASTERS: usize = 3;
/// Masters first, then the replica of each.
pub(crate) const NODES: usize = MASTERS * 2;
/// Of each node one for clients, then of each node one for other nodes.
pub(crate) const PORTS: usize = NODES * 2;

const CONFIG: &str = "redis.conf";
const SLOTS: usize = 16_384;

/// The commands which become the nodes.
pub(crate) fn servers(folder: &Path, state: &State) -> Result<Vec<Command>> {
    (0..NODES)
        .map(|node| {
            let home = folder.join(format!("node-{}", node + 1));
            let data = home.join("data");
            fs::create_dir_all(&data).with_context(|| format!("{} cannot be created", data.display()))?;
            let file = home.join(CONFIG);
            fs::write(&file, config(state, node, &data)?)?;
            // Written once: from then on it is the node's own.
            let known = data.join("nodes.conf");
            if !known.exists() {
                fs::write(&known, nodes(state, node)?)?;
            }
            redis::program(Kind::RedisCluster, &file)
        })
        .collect()
}

fn config(state: &State, node: usize, data: &Path) -> Result<String> {
    Ok(format!(
        "\
bind 127.0.0.1
port {}
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port {}
cluster-node-timeout 5000
dir {}
appendonly yes
appendfsync always
save \"\"
maxmemory-policy noeviction
repl-diskless-sync-delay 0
",
        state.port(node)?,
        state.port(NODES + node)?,
        data.display(),
    ))
}

/// The nodes as one of them knows them when it first starts: it need not be told of the others.
fn nodes(state: &State, myself: usize) -> Result<String> {
    let mut text = String::new();
    let first = state.port(0)?;
    let id = |node: usize| format!("{first:036x}{:04x}", node + 1);
    for node in 0..NODES {
        let me = if node == myself { "myself," } else { "" };
        let place = format!("127.0.0.1:{}@{}", state.port(node)?, state.port(NODES + node)?);
        // Each master in an epoch of its own, or they would quarrel about their slots.
        let epoch = node % MASTERS + 1;
        write!(text, "{} {place} {me}", id(node))?;
        if node < MASTERS {
            let (from, to) = (SLOTS * node / MASTERS, SLOTS * (node + 1) / MASTERS - 1);
            writeln!(text, "master - 0 0 {epoch} connected {from}-{to}")?;
        } else {
            writeln!(text, "slave {} 0 0 {epoch} connected", id(node - MASTERS))?;
        }
    }
    writeln!(text, "vars currentEpoch {MASTERS} lastVoteEpoch 0")?;
    Ok(text)
}

/// Every node, masters first.
pub(crate) fn nodes_of(ports: &[u16]) -> String {
    let nodes: Vec<String> = ports.iter().take(NODES).map(|port| format!("127.0.0.1:{port}")).collect();
    nodes.join(",")
}

/// The masters, as the adapter's own URL.
pub(crate) fn url(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().take(MASTERS).map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis-cluster://{}", hosts.join(","))
}
