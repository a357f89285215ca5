//! Ends a member at a chosen step of settling, which no signal from outside could hit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{ConsumerDriver, Settle, Settled, Settlement, SettlerDriver};
use mq_core::error::Result;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::spoil::Mischief;

/// Where a member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Handled, and no ack has left the process.
    BeforeAck,
    /// Half of a batch of acks was handed to the client.
    MidBatch,
    /// Failed, and neither retry nor dead letter was written.
    BeforeRepublish,
    /// So long after a retry or dead letter began to be written: before, between or after the two steps.
    DuringRepublish { micros: u64 },
    /// The retry or dead letter was written, and the ack of the original handed to the client.
    AfterRepublish,
    /// It was asked to stop, everything is settled, and nothing was flushed.
    DuringDrain,
}

/// A member that ends at `step`, after it has been there `passes` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Crash {
    pub(crate) step: Step,
    pub(crate) passes: usize,
}

/// How a member ends.
#[derive(Clone)]
pub(crate) enum End {
    /// SIGKILL, by itself.
    Process,
    /// Whoever holds its task is asked to drop it.
    Task(Arc<Notify>),
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Process) { "Process" } else { "Task" })
    }
}

impl End {
    /// Does not return.
    async fn now(&self) {
        match self {
            Self::Process => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            Self::Task(told) => told.notify_one(),
        }
        std::future::pending::<()>().await;
    }
}

/// A driver that ends its process.
#[derive(Debug)]
pub(crate) struct Crashing {
    crash: Crash,
    end: End,
    passed: AtomicUsize,
    over: AtomicBool,
}

impl Crashing {
    pub(crate) fn new(crash: Crash, end: End) -> Self {
        Self { crash, end, passed: AtomicUsize::new(0), over: AtomicBool::new(false) }
    }

    /// True at the pass meant; nothing gets through afterwards.
    fn is_now(&self) -> bool {
        let now = self.passed.fetch_add(1, Ordering::SeqCst) >= self.crash.passes;
        if now {
            self.over.store(true, Ordering::SeqCst);
        }
        now
    }
}

#[async_trait]
impl Mischief for Crashing {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        if self.over.load(Ordering::SeqCst) {
            // A task has more than one thread of life: all of them end.
            std::future::pending::<()>().await;
        }
        let acks = batch.iter().filter(|settlement| matches!(settlement.action, Settle::Ack)).count();
        let stores = |settlement: &Settlement| matches!(settlement.action, Settle::Retry(_) | Settle::DeadLetter(_));
        let republishes = batch.iter().any(stores);
        match self.crash.step {
            Step::BeforeAck if acks > 0 && self.is_now() => self.end.now().await,
            Step::BeforeRepublish if republishes && self.is_now() => self.end.now().await,
            Step::MidBatch if acks > 1 && self.is_now() => {
                let mut half: Vec<Settlement> = batch.drain(..batch.len() / 2).collect();
                to.settle(&mut half).await;
                self.end.now().await;
            }
            Step::DuringRepublish { micros } if republishes && self.is_now() => {
                let late = tokio::time::sleep(Duration::from_micros(micros));
                tokio::select! {
                    () = late => self.end.now().await,
                    _ = to.settle(batch) => self.end.now().await,
                }
            }
            Step::AfterRepublish if republishes && self.is_now() => {
                to.settle(batch).await;
                self.end.now().await;
            }
            _ => {}
        }
        to.settle(batch).await
    }

    async fn close(&self, consumer: Box<dyn ConsumerDriver>, deadline: Duration) -> Result<()> {
        if self.crash.step == Step::DuringDrain {
            self.end.now().await;
        }
        consumer.close(deadline).await
    }
}
