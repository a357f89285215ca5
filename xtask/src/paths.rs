//! Where things live: the repository, its target folder, the cache of downloaded brokers.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the workspace: the folder above this crate, or the first workspace above the current folder when
/// the binary runs without cargo.
pub(crate) fn root() -> Result<PathBuf> {
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&manifest).parent()
    {
        return Ok(parent.to_path_buf());
    }
    let here = env::current_dir().context("the current folder cannot be read")?;
    here.ancestors()
        .find(|folder| is_workspace(&folder.join("Cargo.toml")))
        .map(Path::to_path_buf)
        .with_context(|| format!("no cargo workspace at or above {}", here.display()))
}

fn is_workspace(manifest: &Path) -> bool {
    std::fs::read_to_string(manifest).is_ok_and(|text| text.contains("[workspace]"))
}

/// The cargo target folder (`CARGO_TARGET_DIR` or `target`).
pub(crate) fn target() -> Result<PathBuf> {
    Ok(match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root()?.join(folder),
        None => root()?.join("target"),
    })
}

/// Data, logs and state of broker instances. `cargo clean` may delete it: it holds nothing worth keeping.
pub(crate) fn instances() -> Result<PathBuf> {
    Ok(target()?.join("brokers"))
}

/// Downloaded broker software, shared by all checkouts and kept over `cargo clean`.
pub(crate) fn software() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("MQ_BROKERS_HOME") {
        return std::path::absolute(folder).context("MQ_BROKERS_HOME is not a usable path");
    }
    if let Some(cache) = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(cache).join("mq-brokers"));
    }
    let home = env::var_os("HOME")
        .context("neither MQ_BROKERS_HOME nor XDG_CACHE_HOME nor HOME is set: nowhere to keep broker software")?;
    Ok(PathBuf::from(home).join(".cache/mq-brokers"))
}

/// What the conformance runs have found, one JSON file a profile.
pub(crate) fn results() -> Result<PathBuf> {
    Ok(target()?.join("conformance"))
}
