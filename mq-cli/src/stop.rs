//! Ctrl-C and SIGTERM: the first asks for a drain, the second ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// The signals that end the command, counted.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// How many came, and the number of the last.
    seen: watch::Receiver<(u32, u8)>,
}

impl Stop {
    /// Listens from now on; the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| -> io::Result<Signal> { signal(kind) };
        let failed = |error| {
            let error: io::Error = error;
            mq::Error::new(mq::ErrorKind::Internal, "cannot listen for signals").with_source(error)
        };
        let mut interrupt = listen(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = listen(SignalKind::terminate()).map_err(failed)?;
        let (sender, seen) = watch::channel((0, 0));
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    Some(()) = interrupt.recv() => 2,
                    Some(()) = terminate.recv() => 15,
                    else => return,
                };
                sender.send_modify(|(count, last)| (*count, *last) = (*count + 1, number));
            }
        });
        Ok(Self { seen })
    }

    /// Waits for the first signal.
    pub(crate) async fn requested(&mut self) {
        self.at_least(1).await;
    }

    /// Waits for the second signal.
    pub(crate) async fn insisted(&mut self) {
        self.at_least(2).await;
    }

    async fn at_least(&mut self, count: u32) {
        if self.seen.wait_for(|(seen, _)| *seen >= count).await.is_err() {
            // No signal can come any more.
            std::future::pending::<()>().await;
        }
    }

    /// The last signal, if any came.
    pub(crate) fn signal(&self) -> Option<u8> {
        let (count, last) = *self.seen.borrow();
        (count > 0).then_some(last)
    }
}
