//! Processes with a deadline: nothing a test starts outlives it.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command of these tests takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a process ended.
pub(crate) struct Done {
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Not more than a person wants to read.
impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| text.chars().take(2000).collect::<String>();
        f.debug_struct("Done")
            .field("code", &self.code)
            .field("stdout", &cut(&self.stdout))
            .field("stderr", &cut(&self.stderr))
            .field("took", &self.took)
            .finish()
    }
}

impl Done {
    /// Fails the test unless everything asked was done.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The JSON objects on standard output, one a line.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Fails the test unless it failed with exactly this code and one line that has all of `texts`.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let told = |line: &str| texts.iter().all(|text| line.contains(text));
        assert!(self.stderr.lines().any(told), "no line has {texts:?}: {self:#?}");
    }
}

/// Runs a process to its end, without input.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Done {
    run_with(command, b"")
}

/// Runs a process to its end, with `input` on its standard input.
#[track_caller]
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> Done {
    let mut running = Running::start_with(command, input);
    running.wait(DEADLINE)
}

/// A process under way; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    began: Instant,
    stdout: Option<thread::JoinHandle<String>>,
    lines: Receiver<String>,
    seen: Vec<String>,
    said: String,
}

impl Running {
    /// Starts a process without input.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command, b"")
    }

    #[track_caller]
    fn start_with(command: &mut Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{said}: {error}"));
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        // A process that ends early leaves the pipe: that is its right.
        thread::spawn(move || stdin.write_all(&input));
        let mut stdout = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, began: Instant::now(), stdout: Some(stdout), lines, seen: Vec::new(), said }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard error that contains `text`.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(_) => panic!("{} never said `{text}`: {:#?}", self.said, self.seen),
            }
        }
    }

    /// Waits until the process handles SIGTERM itself.
    pub(crate) fn until_listening(&self) {
        let deadline = Instant::now() + DEADLINE;
        let listens = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
        };
        while !listens() {
            assert!(Instant::now() < deadline, "{} does not listen for signals", self.said);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(&mut self, deadline: Duration) -> Done {
        let end = Instant::now() + deadline;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() >= end => {
                    let _ = self.child.kill();
                    panic!("{} did not end within {deadline:?}: {:#?}", self.said, self.seen);
                }
                // There is no event to wait for with a deadline in the standard library.
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let took = self.began.elapsed();
        // Grandchildren may hold the pipe open: lines end when the process has, at the latest a moment later.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.seen.push(line);
        }
        let stdout = self.stdout.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
        Done { code: status.code(), stdout, stderr: self.seen.join("\n"), took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
