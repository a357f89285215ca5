//! What a simulated process settles.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::clock::Clock;
use crate::driver::{Settle, Settled, Settlement, SettlerDriver, Token};
use crate::error::Result;
use crate::memory::SettledHow;
use crate::testing::fault::Point;
use crate::testing::history::{Intent, What};
use crate::testing::process::Process;

#[derive(Debug)]
pub(crate) struct ProbedSettler {
    pub(crate) inner: Arc<dyn SettlerDriver>,
    pub(crate) process: Arc<Process>,
    pub(crate) clock: Clock,
}

impl ProbedSettler {
    /// A time of day, counted from the beginning of the run.
    fn since_start(&self, at: SystemTime) -> Duration {
        self.process.recorder.now() + self.clock.until(at)
    }

    fn intent(&self, action: &Settle) -> Intent {
        match action {
            Settle::Retry(retry) => {
                Intent { attempt: Some(retry.attempt), due: Some(self.since_start(retry.due)), reason: None }
            }
            Settle::Hold(hold) => {
                Intent { attempt: Some(hold.attempt), due: Some(self.since_start(hold.due)), reason: None }
            }
            Settle::DeadLetter(dead) => {
                Intent { attempt: Some(dead.record.attempts), due: None, reason: Some(dead.record.reason) }
            }
            _ => Intent::default(),
        }
    }

    async fn pass_on(
        &self,
        batch: &mut Vec<Settlement>,
        asked: &[(Token, SettledHow)],
        results: &mut Vec<Result<Settled>>,
    ) {
        let answers = self.inner.settle(batch).await;
        for ((token, how), answer) in asked.iter().zip(&answers) {
            let id = self.process.name_of(*token);
            let result = answer.as_ref().map_err(|error| format!("{:?}", error.kind())).copied();
            self.process.write_fact(What::Settled { token: *token, id, how: *how, result });
        }
        results.extend(answers);
    }
}

#[async_trait]
impl SettlerDriver for ProbedSettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        self.process.alive().await;
        let asked: Vec<_> =
            batch.iter().map(|settlement| (settlement.token, SettledHow::of(&settlement.action))).collect();
        let mut fatal = None;
        for (index, settlement) in batch.iter().enumerate() {
            let (token, how) = (settlement.token, SettledHow::of(&settlement.action));
            let id = self.process.name_of(token);
            self.process.write(What::Settling { token, id, how, intent: self.intent(&settlement.action) });
            if fatal.is_none() && self.process.would_die_at(Point::BeforeSettling(how)) {
                fatal = Some((index, how));
            }
        }
        let mut results = Vec::with_capacity(asked.len());
        if let Some((index, how)) = fatal {
            // In the middle of a batch: what stands before was done.
            batch.truncate(index);
            self.pass_on(batch, &asked, &mut results).await;
            self.process.die(Some(Point::BeforeSettling(how)));
            self.process.alive().await;
        }
        self.pass_on(batch, &asked, &mut results).await;
        for (_, how) in asked {
            self.process.reach(Point::AfterSettling(how)).await;
        }
        results
    }

    fn lease(&self) -> Option<Duration> {
        self.inner.lease()
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.process.alive().await;
        self.inner.flush(deadline).await
    }
}
