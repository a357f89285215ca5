//! Commands with a deadline, their output in a log file, the end of that log in the error.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::interrupt::{self, Guard};
use crate::process;

/// Runs a command to its end, output appended to `log`.
pub(crate) fn run(command: &mut Command, log: &Path, patience: Duration) -> Result<()> {
    let name = describe(command);
    let output = append(log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = wait(spawn(command)?, &name, patience)
        .with_context(|| format!("last lines of {}:\n{}", log.display(), tail(log, 20)))?;
    if !status.success() {
        bail!("`{name}` failed ({status}); last lines of {}:\n{}", log.display(), tail(log, 20));
    }
    Ok(())
}

/// What a short command prints; `None` when it is not there or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a command in a process group of its own, so that a deadline or an interrupt ends all of it.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    interrupt::check()?;
    let name = describe(command);
    command.process_group(0).spawn().with_context(|| format!("`{name}` cannot be started: is it installed?"))
}

/// Waits for a child of [`spawn`]; after `patience` its whole group is killed.
pub(crate) fn wait(mut child: Child, name: &str, patience: Duration) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    let guard = Guard::new(pid);
    let handle = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("`{name}` cannot be waited for"))?;
    let ended = process::wait_end(&handle, patience);
    if !matches!(ended, Ok(true)) {
        guard.kill();
    }
    drop(guard);
    let status = child.wait().with_context(|| format!("`{name}` cannot be waited for"))?;
    interrupt::check()?;
    if ended? { Ok(status) } else { Err(anyhow!("`{name}` was ended after its deadline of {patience:?}")) }
}

/// The command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

pub(crate) fn append(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("{} cannot be written", log.display()))
}

/// The last lines of a file, read from its last 64 KiB.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(64 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            let kept = all.iter().skip(all.len().saturating_sub(lines));
            kept.map(|line| format!("  | {line}\n")).collect()
        }
        Err(error) => format!("  (no log: {error})\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let folder = std::env::temp_dir().join(format!("xtask-command-{}", std::process::id()));
        let log = folder.join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 60 & sleep 60"]);
        let error = run(&mut command, &log, Duration::from_millis(300)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("deadline") && text.contains("begun"), "{text}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn tail_of_nothing_says_so() {
        assert!(tail(Path::new("/nonexistent/log"), 3).contains("no log"));
    }
}
