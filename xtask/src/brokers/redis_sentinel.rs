//! A Redis that Sentinels watch: a master, a replica, and three Sentinels that let the replica take over.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::kind::Kind;
use super::redis;
use super::state::State;

const SERVERS: usize = 2;
/// The master and its replica first, then the Sentinels.
pub(crate) const NODES: usize = SERVERS + 3;
pub(crate) const PORTS: usize = NODES;

const NAME: &str = "orders";

/// The commands which become the servers and the Sentinels.
pub(crate) fn servers(folder: &Path, state: &State) -> Result<Vec<Command>> {
    (0..NODES)
        .map(|node| {
            let data = folder.join(format!("node-{}", node + 1));
            fs::create_dir_all(&data).with_context(|| format!("{} cannot be created", data.display()))?;
            let file = data.join("redis.conf");
            // Written once: from then on the Sentinels rewrite it.
            if !file.exists() {
                fs::write(
                    &file,
                    if node < SERVERS { server(state, node, &data)? } else { sentinel(state, node, &data)? },
                )?;
            }
            let mut command = redis::program(Kind::RedisSentinel, &file)?;
            if node >= SERVERS {
                command.arg("--sentinel");
            }
            Ok(command)
        })
        .collect()
}

fn server(state: &State, node: usize, data: &Path) -> Result<String> {
    let copies = if node == 0 { String::new() } else { format!("replicaof 127.0.0.1 {}\n", state.port(0)?) };
    Ok(format!(
        "\
bind 127.0.0.1
port {}
dir {}
appendonly yes
appendfsync always
save \"\"
maxmemory-policy noeviction
repl-diskless-sync-delay 0
{copies}",
        state.port(node)?,
        data.display(),
    ))
}

fn sentinel(state: &State, node: usize, data: &Path) -> Result<String> {
    Ok(format!(
        "\
bind 127.0.0.1
port {}
dir {}
sentinel monitor {NAME} 127.0.0.1 {} 2
sentinel down-after-milliseconds {NAME} 2000
sentinel failover-timeout {NAME} 10000
",
        state.port(node)?,
        data.display(),
        state.port(0)?,
    ))
}

/// The Sentinels, as the adapter's own URL.
pub(crate) fn url(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().skip(SERVERS).map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis-sentinel://{}/{NAME}", hosts.join(","))
}
