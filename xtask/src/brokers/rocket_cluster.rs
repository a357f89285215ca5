//! RocketMQ on loopback as services run it: two name servers, and two brokers of one cluster, each registered with both.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::ready;
use super::rocket::{self, Place};
use super::state::State;

/// The processes, by the names for `--node`.
pub(crate) const NODES: [&str; 4] = ["names-1", "names-2", "broker-a", "broker-b"];
const NAMES: usize = 2;

/// A port for each name server. Then for each broker the one two below its own, a gap, its own, and the one only other
/// brokers use.
pub(crate) const PORTS: usize = NAMES + 2 * EACH;
const EACH: usize = 4;
/// A broker's own among its ports.
const OWN: usize = 2;
const REPLICATION: usize = 3;

/// The process which has a port.
pub(crate) fn node_of(port: usize) -> usize {
    match port.checked_sub(NAMES) {
        None => port,
        Some(port) => NAMES + port / EACH,
    }
}

fn port_of(state: &State, node: usize, index: usize) -> Result<u16> {
    match node.checked_sub(NAMES) {
        None => state.port(node),
        Some(broker) => state.port(NAMES + broker * EACH + index),
    }
}

/// The commands which become the nodes.
pub(crate) fn servers(folder: &Path, state: &State) -> Result<Vec<Command>> {
    let names = format!("127.0.0.1:{};127.0.0.1:{}", state.port(0)?, state.port(1)?);
    (0..)
        .zip(NODES)
        .map(|(node, name)| {
            let home = folder.join(name);
            let port = port_of(state, node, OWN)?;
            if node < NAMES {
                return rocket::name_server(&home, port);
            }
            let replication = port_of(state, node, REPLICATION)?;
            rocket::broker_at(&home, &Place { name, names: names.clone(), port, replication }, false)
        })
        .collect()
}

/// A name server that has just started knows no broker yet; a broker is registered with each name server that lives.
pub(crate) fn is_ready(state: &State, node: usize) -> Result<()> {
    let port = port_of(state, node, OWN)?;
    if node < NAMES {
        return ready::connect(port).map(drop);
    }
    for (names, process) in state.processes().enumerate().take(NAMES) {
        if process.is_alive() {
            ready::rocket_broker(port_of(state, names, OWN)?, port)?;
        }
    }
    Ok(())
}

/// What of its data lies outside of its folder.
pub(crate) fn clean(folder: &Path) -> Result<()> {
    NODES.iter().try_for_each(|name| rocket::clean(&folder.join(name)))
}

/// The name servers.
pub(crate) fn url(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().take(NAMES).map(|port| format!("127.0.0.1:{port}")).collect();
    format!("rocketmq://{}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_somebodys() {
        let owners: Vec<usize> = (0..PORTS).map(node_of).collect();
        assert_eq!(owners, [0, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(url(&[7, 8, 9]), "rocketmq://127.0.0.1:7,127.0.0.1:8");
    }
}
