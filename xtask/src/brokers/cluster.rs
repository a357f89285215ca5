//! Several nodes of one broker: ordinary instances, killed and started one by one, that know of each other.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Instance, Kind};

/// What a node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// This node's, from 1 on.
    pub(crate) number: usize,
    /// Kafka's cluster id; the secret that Erlang's nodes share.
    pub(crate) id: String,
    /// The ports of each node, this one's among them.
    pub(crate) nodes: Vec<Vec<u16>>,
}

impl Cluster {
    /// A port of each node, with the node's number.
    pub(crate) fn each_port(&self, index: usize) -> Result<Vec<(usize, u16)>> {
        let port = |(node, ports): (usize, &Vec<u16>)| {
            let port = ports.get(index).copied().context("the state file names too few ports of a node")?;
            Ok((node + 1, port))
        };
        self.nodes.iter().enumerate().map(port).collect()
    }

    /// The port of the first node, which has what the nodes share.
    pub(crate) fn first_port(&self, index: usize) -> Result<u16> {
        self.each_port(index)?.first().map(|(_, port)| *port).context("a cluster without nodes")
    }
}

/// The instances `NAME-1` to `NAME-COUNT`.
pub(crate) fn nodes(kind: Kind, name: &str, count: usize) -> Result<Vec<Instance>> {
    if count == 1 {
        return Ok(vec![Instance::new(kind, name)?]);
    }
    if !(1..=7).contains(&count) {
        bail!("a cluster of {count} nodes: 1 to 7 are possible");
    }
    (1..=count).map(|number| Instance::new(kind, &format!("{name}-{number}"))).collect()
}

/// Tells instances that are new of each other; those that exist know already.
pub(crate) fn form(instances: &[Instance]) -> Result<()> {
    if instances.len() < 2 {
        return Ok(());
    }
    let id = id()?;
    let mut states = instances.iter().map(Instance::prepare).collect::<Result<Vec<_>>>()?;
    if states.iter().all(|state| state.cluster.is_some()) {
        return Ok(());
    }
    let nodes: Vec<Vec<u16>> = states.iter().map(|state| state.ports.clone()).collect();
    for ((index, instance), state) in instances.iter().enumerate().zip(&mut states) {
        if state.server.is_some() {
            bail!("{instance} is no node of this cluster: take it down first");
        }
        state.cluster = Some(Cluster { number: index + 1, id: id.clone(), nodes: nodes.clone() });
        instance.remember(state)?;
    }
    Ok(())
}

/// Kafka wants 16 random bytes in URL-safe base64: 21 characters of that alphabet and one which leaves no bits over.
pub(crate) fn id() -> Result<String> {
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random numbers")?;
    let digits: String = random.chars().filter(char::is_ascii_hexdigit).take(21).collect();
    Ok(format!("{digits}A"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_22_url_safe_characters() {
        let id = id().unwrap();
        assert_eq!(id.len(), 22);
        assert!(id.chars().all(|character| character.is_ascii_alphanumeric()));
    }

    #[test]
    fn nodes_are_numbered_instances() {
        let names = |count| nodes(Kind::Kafka, "x", count).unwrap().into_iter().map(|node| node.name);
        assert_eq!(names(1).collect::<Vec<_>>(), ["x"]);
        assert_eq!(names(3).collect::<Vec<_>>(), ["x-1", "x-2", "x-3"]);
        assert!(nodes(Kind::Kafka, "x", 0).is_err());
    }
}
