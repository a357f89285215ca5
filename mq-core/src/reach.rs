//! Waiting for a broker that is not there yet.

use std::time::Duration;

use crate::error::{ErrorKind, Result};

/// Waits between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Tries `connect` until it succeeds or fails for a reason that waiting does not mend: a service may start before its
/// broker. A broker that is [not there](ErrorKind::Unavailable), or [silent](ErrorKind::Timeout), is tried again after
/// 0.2 s, then after twice as long each time, at most 5 s; each failed try is a warning in the log.
///
/// ```
/// # use mq_core::{Result, memory::MemoryBroker};
/// # async fn run() -> Result<()> {
/// let memory = MemoryBroker::new();
/// let broker = mq_core::when_ready(async || Ok(memory.broker())).await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run()).unwrap();
/// ```
///
/// # Errors
/// What `connect` fails with and no waiting mends, such as a refused password.
///
/// # Cancel safety
/// Dropping the future drops the try under way, and nothing else. It has no deadline of its own: put
/// `tokio::time::timeout` or `select!` around it.
pub async fn when_ready<T>(mut connect: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut wait = FIRST_WAIT;
    loop {
        match connect().await {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                tracing::warn!(%error, again_in = ?wait, "the broker cannot be reached yet");
            }
            result => return result,
        }
        tokio::time::sleep(wait).await;
        wait = next(wait);
    }
}

/// First and following waits, for whoever has more to do between two tries.
pub(crate) fn first() -> Duration {
    FIRST_WAIT
}

pub(crate) fn next(wait: Duration) -> Duration {
    (wait * 2).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[tokio::test(start_paused = true)]
    async fn what_waiting_mends_is_waited_for() {
        let began = tokio::time::Instant::now();
        let mut tries = 0;
        let reached = when_ready(async || {
            tries += 1;
            match tries {
                1..=8 => Err(Error::new(ErrorKind::Unavailable, "refused")),
                9 => Err(Error::timeout(FIRST_WAIT)),
                _ => Ok(tries),
            }
        });
        assert_eq!(reached.await.unwrap(), 10);
        // 0.2, 0.4, 0.8, 1.6, 3.2, then 5 each.
        assert_eq!(began.elapsed(), Duration::from_millis(6200 + 4 * 5000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_does_not_mend_is_an_error_at_once() {
        let mut tries = 0;
        let refused: Result<()> = when_ready(async || {
            tries += 1;
            Err(Error::new(ErrorKind::Auth, "no"))
        })
        .await;
        assert_eq!((refused.unwrap_err().kind(), tries), (ErrorKind::Auth, 1));
    }
}
