//! Cargo features: each compiles alone, and brings its own broker's client and no other's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::command;

/// The packages whose features choose brokers.
pub(crate) const PACKAGES: [&str; 3] = ["mq", "mq-cli", "mq-examples"];

/// A feature and the crates that only it may bring.
const CLIENTS: [(&str, &[&str]); 4] = [
    ("kafka", &["mq-kafka", "rdkafka", "rdkafka-sys"]),
    ("rabbit", &["mq-rabbit", "lapin", "amq-protocol"]),
    ("redis-stream", &["mq-redis-stream", "redis"]),
    ("rocket", &["mq-rocket"]),
];

/// What a facade without any broker may compile, itself included.
const CRATES_WITHOUT_BROKER: usize = 60;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    features: std::collections::BTreeMap<String, Vec<String>>,
}

/// The features of a package, without `default`.
pub(crate) fn of(root: &Path, package: &str) -> Result<Vec<String>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version=1", "--no-deps"]).current_dir(root);
    let text = command::output(&mut cargo).context("`cargo metadata` failed")?;
    let metadata: Metadata = serde_json::from_str(&text).context("`cargo metadata` is not what it was")?;
    let package = metadata.packages.into_iter().find(|found| found.name == package);
    let features = package.context("no such package")?.features;
    Ok(features.into_keys().filter(|feature| feature != "default").collect())
}

/// Looks at the dependencies of a package with one feature, or with none.
pub(crate) fn check_purity(root: &Path, package: &str, feature: Option<&str>) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["tree", "-p", package, "-e", "normal,build", "--prefix", "none", "--format", "{p}"]);
    cargo.args(["--no-default-features", "--features", feature.unwrap_or_default()]).current_dir(root);
    let text = command::output(&mut cargo).with_context(|| format!("`{}` failed", command::describe(&cargo)))?;
    let mut crates: Vec<&str> = text.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name).collect();
    crates.sort_unstable();
    crates.dedup();
    judge(&crates, package, feature)
}

fn judge(crates: &[&str], package: &str, feature: Option<&str>) -> Result<()> {
    ensure!(!crates.is_empty(), "no dependencies could be read");
    for (owner, clients) in CLIENTS {
        for client in clients {
            let present = crates.contains(client);
            if present && feature != Some(owner) {
                bail!(
                    "{package} with {} compiles {client}, which belongs to `{owner}`",
                    feature.unwrap_or("no feature")
                );
            }
            if !present && feature == Some(owner) {
                bail!(
                    "{package} with `{owner}` compiles no {client}: the feature does nothing, or this check is stale"
                );
            }
        }
    }
    if package == "mq" && feature.is_none() && crates.len() > CRATES_WITHOUT_BROKER {
        bail!("{package} without a broker compiles {} crates, {CRATES_WITHOUT_BROKER} are allowed", crates.len());
    }
    Ok(())
}

/// Features whose client is known here.
pub(crate) fn with_clients() -> impl Iterator<Item = &'static str> {
    CLIENTS.into_iter().map(|(feature, _)| feature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_client_and_a_missing_one_are_errors() {
        let kafka = ["mq", "mq-kafka", "rdkafka", "rdkafka-sys"];
        assert!(judge(&kafka, "mq", Some("kafka")).is_ok());
        assert!(judge(&kafka, "mq", Some("rabbit")).is_err());
        assert!(judge(&kafka, "mq", None).is_err());
        assert!(judge(&["mq", "mq-core"], "mq", None).is_ok());
        assert!(judge(&["mq", "mq-core"], "mq", Some("kafka")).is_err());
        assert!(judge(&[], "mq", None).is_err());
        let many: Vec<String> = (0..61).map(|number| format!("crate-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(judge(&many, "mq", None).is_err());
        assert!(judge(&many, "mq-cli", None).is_ok());
    }
}
