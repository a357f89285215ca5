//! Servers which outlive the command that starts them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::command;
use crate::process::Process;

/// A command in a session of its own: the end of this process, or of its terminal, does not reach it. `setsid`
/// becomes the program, so the process id is the program's.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// What every Java server here is started with.
pub(crate) fn jvm<'a>(java: &'a mut Command, folder: &Path, least: &str, most: &str) -> Result<&'a mut Command> {
    // Java's own libraries unpack native code there and delete it at their end, which SIGKILL spares them: `down`
    // deletes it.
    let unpacked = folder.join("tmp");
    fs::create_dir_all(&unpacked).with_context(|| format!("{} cannot be created", unpacked.display()))?;
    Ok(java
        .args([least, most, "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:-UsePerfData", "-Djava.awt.headless=true"])
        .arg(format!("-Djava.io.tmpdir={}", unpacked.display())))
}

pub(crate) fn launch(server: &mut Command, log: &Path) -> Result<Process> {
    raise_open_files();
    let output = command::append(log)?;
    server.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = server.spawn().with_context(|| format!("`{}` cannot be started", command::describe(server)))?;
    Process::identify(child.id())
}

/// A log keeps several files open for each partition; the usual soft limit of 1024 is soon used up.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(65_536, |maximum| maximum.min(65_536));
    if limit.current.is_some_and(|current| current < wanted) {
        // Not being allowed to leaves the limit as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}
