//! Debian packages, installed when missing, without starting their services.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::lock::Lock;
use crate::{command, paths};

const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What the tests need besides the brokers: a C tool chain and headers for librdkafka, and stock clients.
pub(crate) const TOOLS: [&str; 11] = [
    "gcc",
    "g++",
    "make",
    "pkg-config",
    "openssl",
    "libssl-dev",
    "zlib1g-dev",
    "kcat",
    "amqp-tools",
    "python3-pika",
    "redis-tools",
];

/// Makes sure that the packages are installed.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    if missing(packages).is_empty() {
        return Ok(());
    }
    let home = paths::software()?;
    let _lock = Lock::acquire(&home.join("apt.lock"), PATIENCE)?;
    // Another run may have installed them while this one waited.
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing packages: {0}. Run `sudo apt-get install {0}`, or this command as root", missing.join(" "));
    }
    eprintln!("installing {}", missing.join(" "));
    let _policy = ServicePolicy::install()?;
    let log = home.join("log/apt.log");
    if install(&missing, &log).is_ok() {
        return Ok(());
    }
    // No package lists yet, or stale ones: a bare machine has none. Where only some of the archives answer, the
    // installation tells whether that is enough.
    let updated = command::run(apt().arg("update"), &log, PATIENCE);
    let installed = install(&missing, &log);
    if installed.is_err() { updated.and(installed) } else { installed }
}

fn install(packages: &[&str], log: &Path) -> Result<()> {
    command::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages), log, PATIENCE)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Acquire::Retries=3",
    ]);
    command
}

fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    command::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_some_and(|status| status == "installed")
}

/// Denies the start of system services while packages are installed, unless the machine has a policy of its own.
struct ServicePolicy(Option<PathBuf>);

impl ServicePolicy {
    fn install() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self(None));
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n").with_context(|| format!("{} cannot be written", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("{} is left behind and keeps services from starting: {error}", path.display());
        }
    }
}
