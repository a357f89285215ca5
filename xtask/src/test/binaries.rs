//! Builds all tests and examples once and finds their binaries, so that several can run at the same time without
//! asking cargo, which would wait for its own lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command;

/// A bare machine compiles every dependency, a C library among them.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

#[derive(Debug, Clone)]
pub(crate) struct Binary {
    /// Folder of its package: a test expects to run there.
    pub(crate) package: PathBuf,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) is_test: bool,
    /// A file under `tests/`, not the unit tests of a library or a program.
    pub(crate) is_integration: bool,
}

impl Binary {
    /// The name of the package's folder.
    pub(crate) fn crate_name(&self) -> String {
        self.package.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

/// What could be built, and whether that is all of it: one package that does not compile hides no other's failures.
pub(crate) fn build(root: &Path, logs: &Path) -> (Vec<Binary>, Result<()>) {
    build_only(root, logs, &["--workspace"])
}

/// As [`build`], of the packages and targets that cargo is told.
pub(crate) fn build_only(root: &Path, logs: &Path, which: &[&str]) -> (Vec<Binary>, Result<()>) {
    let messages = logs.join("build.json");
    let built = compile(root, &messages, which);
    (parse(&fs::read_to_string(&messages).unwrap_or_default()), built)
}

fn compile(root: &Path, messages: &Path, which: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.arg("test").args(which).args(["--no-run", "--no-fail-fast", "--message-format=json-render-diagnostics"]);
    let file = File::create(messages).with_context(|| format!("{} cannot be written", messages.display()))?;
    cargo.current_dir(root).stdin(Stdio::null()).stdout(file);
    let status = command::wait(command::spawn(&mut cargo)?, &command::describe(&cargo), PATIENCE)?;
    if !status.success() {
        bail!("not every test compiles ({status})");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn parse(messages: &str) -> Vec<Binary> {
    let mut binaries = Vec::new();
    for message in messages.lines().filter(|line| line.contains("\"compiler-artifact\"")) {
        let Ok(artifact) = serde_json::from_str::<Artifact>(message) else { continue };
        let example = artifact.target.kind.iter().any(|kind| kind == "example");
        let (Some(path), true) = (artifact.executable, artifact.profile.test || example) else { continue };
        let package = artifact.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default();
        let is_integration = artifact.target.kind.iter().any(|kind| kind == "test");
        let (name, is_test) = (artifact.target.name, artifact.profile.test);
        binaries.push(Binary { package, name, path, is_test, is_integration });
    }
    binaries.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    binaries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_examples_are_found_and_nothing_else() {
        let line = |kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/r/mq-x/Cargo.toml","target":{{"kind":["{kind}"],"name":"n"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let messages = [
            line("lib", true, "\"/t/lib\""),
            line("lib", false, "null"),
            line("bin", false, "\"/t/bin\""),
            line("example", false, "\"/t/example\""),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let binaries = parse(&messages.join("\n"));
        let found: Vec<_> = binaries.iter().map(|binary| (binary.path.to_str().unwrap(), binary.is_test)).collect();
        assert_eq!(found, [("/t/lib", true), ("/t/example", false)]);
        assert_eq!(binaries.first().unwrap().crate_name(), "mq-x");
    }
}
