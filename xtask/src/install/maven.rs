//! Kafka and RocketMQ from Maven Central, by Maven itself: the machine's own Maven settings (mirrors, proxies) hold.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{apt, lock::Lock};
use crate::{command, paths};

const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Makes sure that a Kafka release and a Java runtime are there; answers the folder of its jars.
pub(crate) fn kafka(version: &str) -> Result<PathBuf> {
    let broker = format!("org.apache.kafka:kafka_2.13:{version}");
    jars("kafka", version, &[&broker, "org.slf4j:slf4j-simple:1.7.36"])
}

/// Makes sure that a RocketMQ release and a Java runtime are there; answers the folder of its jars.
pub(crate) fn rocket(version: &str) -> Result<PathBuf> {
    // The tests compile a program against the client among its libraries.
    if command::output(Command::new("javac").arg("--version")).is_none() {
        apt::ensure(&["default-jdk-headless"])?;
    }
    let part = |name: &str| format!("org.apache.rocketmq:rocketmq-{name}:{version}");
    jars("rocketmq", version, &[&part("namesrv"), &part("broker"), &part("tools")])
}

fn jars(name: &str, version: &str, artifacts: &[&str]) -> Result<PathBuf> {
    if command::output(Command::new("java").arg("-version")).is_none() {
        apt::ensure(&["default-jre-headless"])?;
    }
    let home = paths::software()?;
    let folder = home.join(format!("{name}-{version}"));
    let jars = folder.join("lib");
    if jars.is_dir() {
        return Ok(jars);
    }
    let _lock = Lock::acquire(&home.join(format!("{name}.lock")), PATIENCE)?;
    if jars.is_dir() {
        return Ok(jars);
    }
    if command::output(Command::new("mvn").arg("--version")).is_none() {
        apt::ensure(&["maven"])?;
    }
    eprintln!("downloading {name} {version} into {}", folder.display());
    let partial = home.join(format!("{name}-{version}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("{} cannot be removed", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("{} cannot be created", partial.display()))?;
    fs::write(partial.join("pom.xml"), pom(name, artifacts)?)?;
    let mut maven = Command::new("mvn");
    maven.current_dir(&partial).args(["-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=lib"]);
    command::run(&mut maven, &home.join("log/maven.log"), PATIENCE)?;
    // Renamed in one step: a folder of the final name is always whole.
    fs::rename(&partial, &folder).with_context(|| format!("{} cannot be put in place", folder.display()))?;
    Ok(jars)
}

fn pom(name: &str, artifacts: &[&str]) -> Result<String> {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let mut parts = artifact.split(':');
        let mut part = || parts.next().context("an artifact is GROUP:NAME:VERSION");
        let (group, artifact, version) = (part()?, part()?, part()?);
        dependencies.push_str(&format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n"
        ));
    }
    Ok(POM.replace("@NAME@", name).replace("@DEPENDENCIES@", dependencies.trim_end()))
}

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId>
  <artifactId>@NAME@-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
@DEPENDENCIES@
  </dependencies>
</project>
"#;
