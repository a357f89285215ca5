//! A member that is a process of its own: the test binary, started once more.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mq_core::error::{Error, ErrorKind, Result};
use mq_core::when_ready;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::crash::End;
use super::log::{Deed, Ear, Told};
use super::member::{MemberSpec, Witness, connection, service};
use crate::harness::Harness;

/// Set for a process that is a member.
const MEMBER: &str = "MQ_CONFORMANCE_MEMBER";

#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    address: Option<SocketAddr>,
    spec: MemberSpec,
}

/// A member in a process of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    witness: Arc<Witness>,
    reading: JoinHandle<()>,
}

impl Process {
    pub(crate) fn start(spec: MemberSpec, address: Option<SocketAddr>, witness: Arc<Witness>) -> Result<Self> {
        let failed =
            |error: std::io::Error| Error::new(ErrorKind::Internal, "no member can be started").with_source(error);
        let orders = serde_json::to_string(&Orders { address, spec });
        let orders = orders.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        // Its errors go where ours go.
        command.env(MEMBER, orders).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let gone = || Error::new(ErrorKind::Internal, "a member ended at once");
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).ok_or_else(gone)?;
        let output = child.stdout.take().ok_or_else(gone)?;
        let heard = Arc::clone(&witness);
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str::<Told>(&line) {
                    Ok(told) => heard.hear(told),
                    Err(_) => heard.hear(Told::now(Deed::Said(format!("says: {line}")))),
                }
            }
        });
        Ok(Self { child, pid, witness, reading })
    }

    /// SIGKILL; returns when it is gone and everything it said is written down.
    pub(crate) async fn kill(mut self) {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        let at = SystemTime::now();
        // It said no more than what is in the pipe, and that ends with it.
        let _ = self.reading.await;
        self.witness.died(at);
    }

    /// Waits until it ends by itself, and writes down that it has.
    pub(crate) async fn ended(mut self, limit: Duration) -> Result<()> {
        let ended = tokio::time::timeout(limit, self.child.wait()).await.is_ok();
        self.kill().await;
        if ended { Ok(()) } else { Err(Error::timeout(limit).with_operation("wait for the end of a member")) }
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn freeze(&self, frozen: bool) {
        let _ = kill_process(self.pid, if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// The end of its input is the order to stop.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Asks it to drain, and waits for its end.
    pub(crate) async fn stop(mut self, limit: Duration) -> Result<()> {
        self.close_input();
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        let status = match ended {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(Error::new(ErrorKind::Internal, "a member is lost").with_source(error)),
            Err(_) => {
                self.kill().await;
                return Err(Error::timeout(limit).with_operation("stop member"));
            }
        };
        let at = SystemTime::now();
        let _ = self.reading.await;
        self.witness.died(at);
        if status.success() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, format!("a member ended with {status}")))
    }
}

/// Tells by lines on standard output.
#[derive(Debug)]
struct Voice(Mutex<std::io::Stdout>);

impl Ear for Voice {
    fn hear(&self, told: Told) {
        let Ok(mut line) = serde_json::to_vec(&told) else { return };
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever listened is gone: so is this process, soon.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// In a process that is a member: does what it was started for, and says how it ended. `None` in any other.
pub(crate) fn serve(harness: &Arc<dyn Harness>) -> Option<ExitCode> {
    let orders = std::env::var(MEMBER).ok()?;
    let voice: Arc<dyn Ear> = Arc::new(Voice(Mutex::new(std::io::stdout())));
    let ended = serve_orders(harness, &orders, &voice);
    voice.hear(Told::now(match &ended {
        Ok(()) => Deed::Stopped,
        Err(error) => Deed::Said(format!("failed: {error}")),
    }));
    Some(if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve_orders(harness: &Arc<dyn Harness>, orders: &str, voice: &Arc<dyn Ear>) -> Result<()> {
    let orders: Orders = serde_json::from_str(orders).map_err(|error| Error::config(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    let ended = runtime.block_on(async {
        let connect = async || match orders.address {
            Some(address) => harness.connect_at(address).await,
            None => harness.connect().await,
        };
        let driver = when_ready(connect).await?;
        let broker = connection(driver, orders.spec.crash, End::Process);
        let end_of_input = async {
            let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
        };
        service(&broker, orders.spec, Arc::clone(voice))?.run_until(end_of_input).await?;
        broker.close().await
    });
    // A thread still reads the standard input.
    runtime.shutdown_background();
    ended
}
