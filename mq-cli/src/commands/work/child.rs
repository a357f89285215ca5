//! One run of the user's command for one message, in a process group of its own.

use std::ffi::OsString;
use std::io::{self, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use mq::{HandlerError, Message, MessageId};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::environment::{Environment, is_own};

/// What the exit codes of a command mean; those of sysexits.h where there is one.
const RETRY: i32 = 75;
const DEAD_LETTER: i32 = 65;
const DISCARD: i32 = 77;

/// What fits into every pipe before anybody reads (PIPE_BUF of Linux).
const PIPE_ROOM: usize = 4096;

/// The user's command.
#[derive(Debug)]
pub(super) struct Program {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// From the words behind `--`.
    pub(super) fn new(words: Vec<OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        Some(Self { program: words.next()?, arguments: words.collect() })
    }

    /// Runs it for one message. Dropping the future kills the whole process group.
    pub(super) async fn run(
        &self,
        message: &Message,
        id: Option<&MessageId>,
        attempt: u32,
    ) -> Result<(), HandlerError> {
        // Held until the end: it owns the files of long headers.
        let environment = Environment::new(message, id, attempt)
            .map_err(|error| HandlerError::retry(format!("cannot write the headers to a file: {error}")))?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_own)) {
            command.env_remove(name);
        }
        command.envs(environment.variables.iter().map(|(name, value)| (name, value)));
        let input = input(message.body_bytes().map_or(&[], |body| &body[..]))
            .map_err(|error| HandlerError::retry(format!("cannot hand the body over: {error}")))?;
        // A group of its own: Ctrl-C is for us, and what it starts can be ended with it.
        command.args(&self.arguments).stdin(input).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            HandlerError::dead_letter(format!("{} cannot be started: {error}", self.program.to_string_lossy()))
        })?;
        let mut group = Group::of(child.id());
        let status = child.wait().await;
        group.ended();
        self.judge(status)
    }

    fn judge(&self, status: io::Result<ExitStatus>) -> Result<(), HandlerError> {
        let program = self.program.to_string_lossy();
        let status = status.map_err(|error| HandlerError::retry(format!("{program} was lost: {error}")))?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(RETRY), _) => Err(HandlerError::retry(format!("{program} asked for a retry (exit code 75)"))),
            (Some(DEAD_LETTER), _) => Err(HandlerError::dead_letter(format!("{program} gave up (exit code 65)"))),
            (Some(DISCARD), _) => Err(HandlerError::discard(format!("{program} refused it (exit code 77)"))),
            (Some(code), _) => Err(HandlerError::unknown(format!("{program} failed (exit code {code})"))),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                Err(HandlerError::retry(format!("{program} was killed (signal {signal})")))
            }
        }
    }
}

/// The body as a standard input that is complete before the command starts: were it written while the command runs, the
/// death of this process would leave a command that takes half a body for the whole.
fn input(body: &[u8]) -> io::Result<Stdio> {
    if body.len() <= PIPE_ROOM {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(body)?;
        return Ok(reader.into());
    }
    let mut file = tempfile::tempfile()?;
    file.write_all(body)?;
    file.rewind()?;
    Ok(file.into())
}

/// Kills a process group when dropped, unless its first process has ended by itself.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(id: Option<u32>) -> Self {
        Self(id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Before the child is reaped: its number is not yet anybody else's.
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn shell(script: &str, message: &Message) -> Result<(), HandlerError> {
        let words = ["sh", "-c", script].map(OsString::from).to_vec();
        Program::new(words).unwrap().run(message, message.message_id(), 1).await
    }

    fn message() -> Message {
        Message::new("t").unwrap().body("body")
    }

    #[tokio::test]
    async fn exit_codes_are_outcomes() {
        assert!(shell("exit 0", &message()).await.is_ok());
        assert!(matches!(shell("exit 75", &message()).await, Err(HandlerError::Retry(_))));
        assert!(matches!(shell("exit 65", &message()).await, Err(HandlerError::DeadLetter(_))));
        assert!(matches!(shell("exit 77", &message()).await, Err(HandlerError::Discard(_))));
        assert!(matches!(shell("exit 1", &message()).await, Err(HandlerError::Unknown(_))));
        assert!(matches!(shell("kill -9 $$", &message()).await, Err(HandlerError::Retry(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_a_dead_letter() {
        let program = Program::new(vec!["/no/such/command".into()]).unwrap();
        let error = program.run(&message(), None, 1).await.unwrap_err();
        assert!(matches!(error, HandlerError::DeadLetter(_)), "{error:?}");
    }

    #[tokio::test]
    async fn the_body_is_its_input_and_may_be_left_unread() {
        assert!(shell(r#"[ "$(cat)" = body ]"#, &message()).await.is_ok());
        assert!(shell("exit 0", &message().body(vec![b'x'; 4 << 20])).await.is_ok());
        for length in [0, 1, PIPE_ROOM, PIPE_ROOM + 1, 4 << 20] {
            let count = format!(r#"[ "$(wc -c)" = {length} ]"#);
            assert!(shell(&count, &message().body(vec![b'x'; length])).await.is_ok(), "{length}");
        }
    }

    #[tokio::test]
    async fn a_header_cannot_reach_into_the_command() {
        let hostile = message().header("LD_PRELOAD", "/x.so").header("BASH_ENV", "/x").header("IFS", "o");
        assert!(
            shell(r#"[ -z "$LD_PRELOAD$BASH_ENV" ] && [ "$MQ_HEADER_LD_PRELOAD" = /x.so ]"#, &hostile).await.is_ok()
        );
    }

    #[tokio::test]
    async fn dropping_kills_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        // The grandchild inherits nothing we wait for; its death is seen by its pid.
        let script = format!("sleep 600 & echo $! > {}; wait", path.display());
        let message = message();
        let run = shell(&script, &message);
        let grandchild = async {
            loop {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                if let (true, Ok(pid)) = (pid.ends_with('\n'), pid.trim().parse::<u32>()) {
                    return pid;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let pid = tokio::select! { _ = run => panic!("ended by itself"), pid = grandchild => pid };
        let gone = async {
            // Gone, or a zombie that its new parent has not reaped yet.
            while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the grandchild lives on");
    }
}
