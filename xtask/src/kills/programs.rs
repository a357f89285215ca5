//! The command at work: one process that sends, one that handles.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::note;
use crate::{command, interrupt, process};

/// How far sending may be ahead of handling: so that there is something to send whenever the broker dies.
const AHEAD: u64 = 2000;
const PAUSE: Duration = Duration::from_millis(10);

/// Where a run takes place.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) mq: PathBuf,
    pub(crate) url: String,
    pub(crate) topic: String,
    pub(crate) messages: u64,
    pub(crate) keys: u32,
    /// Messages a second.
    pub(crate) rate: Option<u32>,
    pub(crate) folder: PathBuf,
}

impl Scene {
    pub(crate) fn notes(&self) -> PathBuf {
        self.folder.join("notes")
    }

    fn log(&self, name: &str) -> Result<File> {
        command::append(&self.folder.join(name))
    }

    /// A copy of this program: one that is built anew while it runs is no longer where it was.
    fn noter(&self) -> Result<PathBuf> {
        let copy = self.folder.join("noter");
        if !copy.exists() {
            std::fs::copy("/proc/self/exe", &copy).context("this program cannot be copied")?;
        }
        Ok(copy)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.mq);
        command.env("MQ_URL", &self.url);
        command
    }

    /// Runs the command to its end; what it printed.
    pub(crate) fn mq(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command().args(arguments).stdin(Stdio::null()).stderr(self.log("mq.log")?).output();
        let output = output.with_context(|| format!("{} cannot be started", self.mq.display()))?;
        ensure!(output.status.success(), "`mq {}` failed ({})", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How many messages may come again after one kill, as the adapter declares it.
    pub(crate) fn duplicate_window(&self) -> Result<u64> {
        let told = self.mq(&["--json", "doctor"])?;
        let windows = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let window = windows.filter_map(|value| value.get("duplicate_window")?.as_u64()).max();
        window.context("the command tells no window of duplicates")
    }

    pub(crate) fn worker(&self, concurrency: u32) -> Result<Worker> {
        let noter = self.noter()?;
        let mut command = self.command();
        command
            .args(["work", &self.topic, "--group", "g", "--by-key", "--concurrency", &concurrency.to_string()])
            .arg("--")
            .arg(noter)
            .arg("note")
            .arg(self.notes())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log("work.log")?);
        Ok(Worker(Some(command.spawn().context("`mq work` cannot be started")?)))
    }

    /// Sends everything, at most [`AHEAD`] beyond what `handled` counts.
    pub(crate) fn sender(&self, handled: Arc<AtomicU64>) -> Result<Sender> {
        let mut command = self.command();
        command.args(["send", &self.topic, "--ndjson"]);
        command.stdin(Stdio::piped()).stdout(self.log("receipts")?).stderr(self.log("send.log")?);
        let mut child = command.spawn().context("`mq send` cannot be started")?;
        let mut input = child.stdin.take().context("no pipe to `mq send`")?;
        let (messages, keys, rate) = (self.messages, u64::from(self.keys), self.rate);
        let feeder = thread::spawn(move || {
            let begin = Instant::now();
            for number in 0..messages {
                if let Some(rate) = rate {
                    let due = begin + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate));
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                while number >= handled.load(Ordering::Relaxed) + AHEAD {
                    if interrupt::is_set() {
                        return;
                    }
                    thread::sleep(PAUSE);
                }
                let key = u32::try_from(number % keys).unwrap_or_default();
                let line = serde_json::json!({ "key": format!("k{key}"), "body": note::body(key, number) });
                // It has ended: its exit code says why.
                if writeln!(input, "{line}").is_err() {
                    return;
                }
            }
        });
        Ok(Sender { child, feeder: Some(feeder) })
    }
}

/// `mq work`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Worker(Option<Child>);

impl Worker {
    /// SIGKILL, as by the kernel when memory is short.
    pub(crate) fn kill(mut self) -> Result<()> {
        let mut child = self.0.take().context("a worker is killed once")?;
        child.kill().context("the worker cannot be killed")?;
        child.wait().map(drop).context("the worker cannot be waited for")
    }

    /// SIGTERM, as by a deployment: drains.
    pub(crate) fn stop(mut self, patience: Duration) -> Result<()> {
        let mut child = self.0.take().context("a worker is stopped once")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).context("the worker cannot be waited for")?;
        kill_process(pid, Signal::TERM).context("the worker cannot be signalled")?;
        if !process::wait_end(&handle, patience)? {
            child.kill()?;
            child.wait()?;
            bail!("the worker did not drain within {patience:?}");
        }
        let status = child.wait()?;
        ensure!(status.success(), "the worker drained badly ({status})");
        Ok(())
    }

    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.as_mut().map_or(Ok(None), |child| child.try_wait().context("the worker cannot be waited for"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `mq send`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Sender {
    child: Child,
    feeder: Option<JoinHandle<()>>,
}

impl Sender {
    /// All was sent and confirmed.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "`mq send` failed ({status})");
                break;
            }
            ensure!(Instant::now() < deadline, "`mq send` still runs {patience:?} after all was handled");
            thread::sleep(PAUSE);
        }
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of the run, removed when all was well.
pub(crate) fn folder(base: &Path, name: &str) -> Result<PathBuf> {
    let folder = base.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    Ok(folder)
}
