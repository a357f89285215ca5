//! What is known of an instance between two commands: a small JSON file beside its data.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::kind::Kind;
use crate::process::Process;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) broker: Kind,
    /// The first is the one clients connect to.
    pub(crate) ports: Vec<u16>,
    /// The broker itself: the JVM or the Erlang VM, no wrapper.
    pub(crate) server: Option<Process>,
    /// Its further nodes, where one instance is a whole cluster.
    #[serde(default)]
    pub(crate) others: Vec<Process>,
    /// What it needs beside it (Erlang's port mapper), ended together with it.
    pub(crate) helper: Option<Process>,
    /// `None`: a node by itself.
    #[serde(default)]
    pub(crate) cluster: Option<Cluster>,
}

impl State {
    pub(crate) fn load(file: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
        };
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a state file of this version: delete its folder", file.display()))?;
        Ok(Some(state))
    }

    /// Written beside and renamed: a reader sees the old or the new state, never half of one.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let partial = file.with_extension("partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&partial, file))
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    /// True when all of it does.
    pub(crate) fn is_running(&self) -> bool {
        self.server.is_some() && self.processes().all(Process::is_alive)
    }

    /// Of the broker itself.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.server.iter().chain(&self.others)
    }

    pub(crate) fn port(&self, index: usize) -> Result<u16> {
        self.ports.get(index).copied().context("the state file names too few ports: `down` and `up` the instance")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_file() {
        let folder = std::env::temp_dir().join(format!("xtask-state-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("state.json");
        assert_eq!(State::load(&file).unwrap(), None);
        let server = Some(Process::identify(std::process::id()).unwrap());
        let state = State {
            broker: Kind::Rabbit310,
            ports: vec![1, 2, 3],
            server,
            others: Vec::new(),
            helper: None,
            cluster: None,
        };
        state.save(&file).unwrap();
        let read = State::load(&file).unwrap().unwrap();
        assert_eq!(read, state);
        assert!(read.is_running());
        assert!(fs::read_to_string(&file).unwrap().contains("\"rabbit-3.10\""));
        fs::write(&file, "{}").unwrap();
        assert!(format!("{:#}", State::load(&file).unwrap_err()).contains("state file"));
        fs::remove_dir_all(folder).unwrap();
    }
}
