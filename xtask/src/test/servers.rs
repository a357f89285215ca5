//! The brokers of one run: an instance of its own, fresh data, gone at the end.

use std::path::Path;

use anyhow::Result;

use crate::brokers::{Instance, Kind, Report, each};

const PREFIX: &str = "test-";

/// Taken down when dropped, also when the run fails or is interrupted.
#[derive(Debug)]
pub(crate) struct Servers {
    instances: Vec<Instance>,
    pub(crate) reports: Vec<Report>,
}

impl Servers {
    pub(crate) fn up() -> Result<Self> {
        remove_abandoned();
        let name = format!("{PREFIX}{}", std::process::id());
        let instances = Kind::EVERY.iter().map(|kind| Instance::new(*kind, &name)).collect::<Result<Vec<_>>>()?;
        for instance in &instances {
            instance.install()?;
        }
        // Made before the start: brokers that did start are taken down when another does not.
        let mut servers = Self { instances, reports: Vec::new() };
        servers.reports = each(&servers.instances, "up", Instance::up)?;
        Ok(servers)
    }

    pub(crate) fn report(&self, kind: Kind) -> Option<&Report> {
        self.reports.iter().find(|report| report.broker == kind)
    }

    /// The logs of the brokers are worth keeping where a test has failed; their data is not.
    pub(crate) fn keep_logs(&self, logs: &Path) {
        for report in &self.reports {
            let copy = logs.join(format!("server-{}.log", report.broker.name()));
            if let Err(error) = std::fs::copy(&report.log, &copy) {
                eprintln!("{} is not kept: {error}", report.log.display());
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Err(error) = each(&self.instances, "down", Instance::down) {
            eprintln!("error: {error:#}");
        }
    }
}

/// Takes down what runs left which were ended by SIGKILL. The owner's process id is in the name.
fn remove_abandoned() {
    for instance in Instance::known().unwrap_or_default() {
        let owner = instance.name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            eprintln!("{instance} was left by a run that is gone");
            if let Err(error) = instance.down() {
                eprintln!("error: {error:#}");
            }
        }
    }
}
