//! What runs beside a worker: the scheduler that makes delayed messages due, where the broker needs one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::event::{Observer, WorkerEvent};

/// How long the scheduler runs before it is asked again.
const SLICE: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long it may take to leave.
const CLOSE: Duration = Duration::from_secs(5);

/// The scheduler's task; ends when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    tasks: JoinSet<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Background {
    /// Starts the scheduler, if the broker has one.
    pub(crate) fn start(broker: Broker, observer: Option<Arc<dyn Observer>>) -> Self {
        let mut tasks = JoinSet::new();
        let mut stop = None;
        if let Some(scheduler) = broker.scheduler() {
            let (sender, stopped) = oneshot::channel();
            stop = Some(sender);
            tasks.spawn(run(broker, scheduler, stopped, observer));
        }
        Self { tasks, stop }
    }

    /// Stops it, within `limit` and a few seconds at most.
    pub(crate) async fn stop(mut self, limit: Duration) {
        drop(self.stop.take());
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit.min(CLOSE) + Duration::from_secs(1), ended).await.is_err() {
            tracing::warn!("the scheduler did not stop in time; it is dropped, nothing is lost");
        }
    }
}

async fn run(
    broker: Broker,
    mut scheduler: Box<dyn crate::driver::SchedulerDriver>,
    mut stopped: oneshot::Receiver<()>,
    observer: Option<Arc<dyn Observer>>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let result = tokio::select! {
            biased;
            _ = &mut stopped => break,
            result = scheduler.run(SLICE) => result,
        };
        let Err(error) = result else {
            wait = FIRST_WAIT;
            continue;
        };
        tracing::warn!(%error, again_in = ?wait, "the scheduler failed; delayed messages wait");
        if let Some(observer) = &observer {
            observer.event(&WorkerEvent::SchedulerFailed(&error));
        }
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
        if let Some(fresh) = broker.scheduler() {
            scheduler = fresh;
        }
    }
    if let Err(error) = scheduler.close(CLOSE).await {
        tracing::warn!(%error, "the scheduler could not leave cleanly; nothing is lost");
    }
}
