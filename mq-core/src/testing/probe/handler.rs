//! The handler in a simulated process.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use bytestring::ByteString;
use futures_util::FutureExt;

use crate::handler::{Handler, HandlerError, Outcome};
use crate::testing::fault::Point;
use crate::testing::history::{RunEnd, What};
use crate::testing::probe::consumer::name;
use crate::testing::process::Process;
use crate::worker::Context;

pub(crate) struct ProbedHandler<H> {
    pub(crate) inner: H,
    pub(crate) process: Arc<Process>,
}

impl<H: Handler> Handler for ProbedHandler<H> {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        self.process.reach(Point::HandlerBegins).await;
        let mut runs = Runs::begin(&self.process, batch);
        let slowness = self.process.weather.slowness();
        if !slowness.is_zero() {
            tokio::time::sleep(slowness).await;
        }
        let before = outcomes.len();
        let panicked = AssertUnwindSafe(self.inner.handle(batch, outcomes)).catch_unwind().await.err();
        let answers = outcomes.get(before..).unwrap_or_default();
        runs.end(|index| match answers.get(index) {
            Some(outcome) => end_of(outcome),
            None if panicked.is_some() => RunEnd::Panic,
            None => RunEnd::Unknown,
        });
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        self.process.reach(Point::HandlerEnded).await;
    }

    fn batch_size(&self) -> usize {
        self.inner.batch_size()
    }
}

fn end_of(outcome: &Outcome) -> RunEnd {
    match outcome {
        Ok(()) => RunEnd::Ok,
        Err(HandlerError::Retry(_) | HandlerError::RetryAfter(..)) => RunEnd::Retry,
        Err(HandlerError::DeadLetter(_)) => RunEnd::DeadLetter,
        Err(HandlerError::Discard(_)) => RunEnd::Discard,
        Err(HandlerError::Decode(_)) => RunEnd::Decode,
        Err(HandlerError::Unknown(_)) => RunEnd::Unknown,
    }
}

/// The runs of one batch; those that are dropped have not ended.
struct Runs<'a> {
    process: &'a Process,
    open: Vec<(u64, ByteString)>,
}

impl<'a> Runs<'a> {
    fn begin(process: &'a Process, batch: &[Context]) -> Self {
        let mut open = Vec::with_capacity(batch.len());
        for context in batch {
            let (run, id) = (process.recorder.new_run(), name(context.message()));
            let (token, attempt) = (context.token(), context.attempt());
            process.write(What::Running { run, token, id: id.clone(), attempt });
            open.push((run, id));
        }
        Self { process, open }
    }

    fn end(&mut self, how: impl Fn(usize) -> RunEnd) {
        for (index, (run, id)) in self.open.drain(..).enumerate() {
            self.process.write(What::RanTo { run, id, end: how(index) });
        }
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.end(|_| RunEnd::Dropped);
    }
}
