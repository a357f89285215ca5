//! RabbitMQ of a given Debian release: the machine's own package where the release is the machine's, else a small
//! Debian of that release in a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::apt_sources::archives;
use super::{apt, lock::Lock};
use crate::{command, paths};

const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The code name of the Debian release this machine runs.
pub(crate) fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("not a Debian machine: no /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.context("not a Debian machine: /etc/os-release names no release")?;
    Ok(name.trim_matches('"').to_owned())
}

/// Makes sure that a Debian of the given release with RabbitMQ is there; answers its root folder.
pub(crate) fn root(release_name: &str) -> Result<PathBuf> {
    if release()? == release_name {
        apt::ensure(&["rabbitmq-server"])?;
        return Ok(PathBuf::from("/"));
    }
    let home = paths::software()?;
    let folder = home.join(format!("debian-{release_name}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("a Debian {release_name} in a folder needs root: run this command as root once");
    }
    apt::ensure(&["debootstrap", "debian-archive-keyring"])?;
    let _lock = Lock::acquire(&home.join("debian.lock"), PATIENCE)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let archives = archives(Path::new("/etc/apt"), &release()?);
    let mut failure = anyhow!("apt names no Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d");
    for archive in archives {
        match bootstrap(release_name, &archive, &home) {
            Ok(partial) => {
                fs::rename(&partial, &folder)
                    .with_context(|| format!("{} cannot be put in place", folder.display()))?;
                return Ok(folder);
            }
            Err(error) => failure = error.context(format!("Debian {release_name} from {archive}")),
        }
    }
    Err(failure)
}

/// Makes sure that a package is there, in a Debian that [`root`] has made: `program` tells.
pub(crate) fn package_in(root: &Path, package: &str, program: &str) -> Result<()> {
    if root.join(program).exists() {
        return Ok(());
    }
    if root == Path::new("/") {
        return apt::ensure(&[package]);
    }
    let home = paths::software()?;
    let _lock = Lock::acquire(&home.join("debian.lock"), PATIENCE)?;
    if root.join(program).exists() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{package} in {} needs root: run this command as root once", root.display());
    }
    eprintln!("putting {package} into {}", root.display());
    // Only what it needs to run is unpacked: nothing in there is started by the installation.
    let names = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    fs::write(root.join("etc/resolv.conf"), names).ok();
    let mut install = Command::new("unshare");
    install.args(["--mount", "--propagation", "private", "chroot"]).arg(root);
    install.args(["sh", "-c", INSTALL, package]).env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(proxy) = apt_proxy() {
        install.env("http_proxy", &proxy).env("https_proxy", proxy);
    }
    command::run(&mut install, &home.join("log/debootstrap.log"), PATIENCE)
}

const INSTALL: &str = "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d && \
                       { apt-get install -y --no-install-recommends \"$0\" || { apt-get update && \
                       apt-get install -y --no-install-recommends \"$0\"; }; }";

fn bootstrap(release_name: &str, archive: &str, home: &Path) -> Result<PathBuf> {
    let partial = home.join(format!("debian-{release_name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("{} cannot be removed", partial.display()))?;
    }
    eprintln!("putting Debian {release_name} with RabbitMQ into {} (about 400 MB)", partial.display());
    // Its own mount namespace: whatever is mounted meanwhile goes away with the command, also when it is killed.
    let mut debootstrap = Command::new("unshare");
    debootstrap
        .args([
            "--mount",
            "--propagation",
            "private",
            "debootstrap",
            "--variant=minbase",
            "--include=rabbitmq-server,redis-server",
        ])
        .arg(release_name)
        .arg(&partial)
        .arg(archive);
    if let Some(proxy) = apt_proxy() {
        debootstrap.env("http_proxy", &proxy).env("https_proxy", proxy);
    }
    command::run(&mut debootstrap, &home.join("log/debootstrap.log"), PATIENCE)?;
    // Where the folder of a broker is mounted.
    fs::create_dir_all(partial.join("mq"))?;
    fs::remove_dir_all(partial.join("var/cache/apt/archives")).ok();
    Ok(partial)
}

/// The proxy apt is configured with; debootstrap knows only the environment.
fn apt_proxy() -> Option<String> {
    let text = command::output(Command::new("apt-config").args(["dump", "--format", "%v%n", "Acquire::http::Proxy"]))?;
    Some(text.trim().to_owned()).filter(|proxy| !proxy.is_empty() && proxy != "DIRECT")
}
