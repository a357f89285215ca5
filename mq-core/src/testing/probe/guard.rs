//! The guard of a simulated process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Claim, Claimed, Guard, Scope};
use crate::testing::fault::Point;
use crate::testing::history::What;
use crate::testing::process::Process;

/// Every guard there was in a run: two processes may share one.
#[derive(Debug, Default)]
pub(crate) struct Guards(Mutex<Vec<Arc<dyn Guard>>>);

impl Guards {
    /// The number of a guard; the same for the same one.
    pub(crate) fn number(&self, guard: &Arc<dyn Guard>) -> usize {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = known.iter().position(|known| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(guard))) {
            return index;
        }
        known.push(Arc::clone(guard));
        known.len() - 1
    }
}

#[derive(Debug)]
pub(crate) struct ProbedGuard {
    pub(crate) inner: Arc<dyn Guard>,
    pub(crate) number: usize,
    pub(crate) process: Arc<Process>,
}

impl ProbedGuard {
    async fn ask(&self) -> Result<()> {
        self.process.alive().await;
        if self.process.weather.is_guard_down() {
            return Err(Error::new(ErrorKind::Unavailable, "the guard's store is down on purpose"));
        }
        Ok(())
    }

    fn answer<T>(&self, answer: Result<T>) -> Result<T> {
        if self.process.weather.is_guard_mute() {
            return Err(Error::new(ErrorKind::Timeout, "the answer of the guard's store was made to get lost"));
        }
        answer
    }
}

#[async_trait]
impl Guard for ProbedGuard {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        self.ask().await?;
        let answer = self.inner.claim(scope, lease).await;
        let word = match &answer {
            Ok(Claimed::Fresh(_)) => "fresh",
            Ok(Claimed::InProgress { .. }) => "in progress elsewhere",
            Ok(Claimed::Done) => "done",
            Err(_) => "no answer",
        };
        let (id, redrives) = (scope.id.text().clone(), scope.redrives);
        self.process.write(What::Claimed { guard: self.number, id, redrives, answer: word });
        if matches!(answer, Ok(Claimed::Fresh(_))) {
            self.process.reach(Point::Claimed).await;
        }
        self.answer(answer)
    }

    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.ask().await?;
        let answer = self.inner.extend(claim, lease).await;
        self.answer(answer)
    }

    async fn complete(&self, claim: &Claim) -> Result<()> {
        let (guard, id, redrives) = (self.number, claim.scope.id.text().clone(), claim.scope.redrives);
        self.process.reach(Point::BeforeComplete).await;
        self.process.write(What::Completing { guard, id: id.clone(), redrives });
        self.ask().await?;
        let answer = self.inner.complete(claim).await;
        self.process.write(What::Completed { guard, id, redrives, ok: answer.is_ok() });
        self.process.reach(Point::AfterComplete).await;
        self.answer(answer)
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        self.ask().await?;
        let answer = self.inner.release(claim).await;
        self.answer(answer)
    }

    async fn dead_lettered(&self, claim: &Claim) -> Result<()> {
        self.ask().await?;
        let answer = self.inner.dead_lettered(claim).await;
        self.answer(answer)
    }
}
