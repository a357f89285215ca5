//! Runs the user's check within bounds.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::Semaphore;

use crate::driver::{CheckBack, Verdict};
use crate::message::Message;

/// Checks at once: each may hold a connection to a database.
const AT_ONCE: usize = 16;
/// How long one may take, waiting for its turn included.
const LIMIT: Duration = Duration::from_secs(10);

/// A check that ends in time, whatever the user's does. What it cannot tell is asked again.
pub(crate) struct Check<F> {
    check: F,
    turns: Semaphore,
}

impl<F> Check<F> {
    pub(crate) fn new(check: F) -> Self {
        Self { check, turns: Semaphore::new(AT_ONCE) }
    }
}

#[async_trait]
impl<F, V> CheckBack for Check<F>
where
    F: Fn(Message) -> V + Send + Sync,
    V: Future<Output = Verdict> + Send,
{
    async fn check(&self, message: &Message) -> Verdict {
        let asked = async {
            let _turn = self.turns.acquire().await;
            // The call itself may panic as well as what it returns.
            AssertUnwindSafe(async { (self.check)(message.clone()).await }).catch_unwind().await
        };
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => {
                tracing::error!(?message, "the check of a half message panicked: the broker will ask again");
                Verdict::Unknown
            }
            Err(_) => {
                tracing::warn!(?message, limit = ?LIMIT, "the check of a half message took too long: the broker will ask again");
                Verdict::Unknown
            }
        }
    }
}

impl<F> fmt::Debug for Check<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn message() -> Message {
        Message::new("t").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_panics_or_hangs_knows_nothing() {
        let panics = Check::new(|_: Message| async { panic!("on purpose") });
        assert_eq!(panics.check(&message()).await, Verdict::Unknown);
        let hangs = Check::new(|_: Message| std::future::pending::<Verdict>());
        assert_eq!(hangs.check(&message()).await, Verdict::Unknown);
        let knows = Check::new(|_: Message| async { Verdict::Rollback });
        assert_eq!(knows.check(&message()).await, Verdict::Rollback);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_run_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let check = Check::new(|_: Message| async {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Verdict::Commit
        });
        let message = message();
        let verdicts = futures_util::future::join_all((0..50).map(|_| check.check(&message))).await;
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Commit));
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
    }
}
