//! The worker's own task: receives, hands out, and minds what happens on the subscription.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::driver::{ConsumerDriver, Event as Arrival};
use crate::error::Result;
use crate::event::WorkerEvent;
use crate::handler::Handler;
use crate::worker::context::{Cancel, Context};
use crate::worker::intake::Intake;
use crate::worker::outbox::Outbox;
use crate::worker::pipeline::Pipeline;
use crate::worker::shared::Shared;
use crate::worker::summary::Ended;

/// How long one poll of the driver may wait.
const POLL: Duration = Duration::from_secs(5);

/// One step of the worker at a time; everything slow happens elsewhere.
pub(crate) struct Coordinator<H> {
    pub(crate) pipeline: Arc<Pipeline<H>>,
    pub(crate) consumer: Box<dyn ConsumerDriver>,
    pub(crate) intake: Intake,
    pub(crate) shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(crate) timer: Pin<Box<Sleep>>,
    pub(crate) drain: Duration,
    pub(crate) idle: Option<Duration>,
    pub(crate) last_message: Instant,
    pub(crate) events: Vec<Arrival>,
    pub(crate) revoking: Vec<(u64, Vec<u32>)>,
    /// The driver was told to pause.
    pub(crate) paused: bool,
    pub(crate) can_pause: bool,
    /// Stopping, and by when handlers must have finished.
    pub(crate) stopping: Option<(Ended, Instant)>,
    pub(crate) overdue: bool,
    /// The subscription cannot go on: the driver is not asked again.
    pub(crate) broken: bool,
}

impl<H: Handler> Coordinator<H> {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.pipeline.shared
    }

    /// Waits for whatever comes first, and does what follows. With `receive`, messages are taken in as far as the
    /// window allows; without, only what happens on the subscription. Cancel safe.
    pub(crate) async fn step(&mut self, receive: bool) -> Result<()> {
        let shared = Arc::clone(self.shared());
        // First attentive, then the looks: what ends in between leaves a permit to wake by.
        shared.attentive.store(true, Ordering::Release);
        if self.look_for_the_end() {
            return Ok(());
        }
        let driven = self.drive(&shared, receive).await;
        self.sort(&shared);
        if driven.is_err() {
            self.broken = true;
            self.stop(Ended::Shutdown);
        }
        driven
    }

    async fn drive(&mut self, shared: &Arc<Shared>, receive: bool) -> Result<()> {
        if !self.broken {
            self.end_revocations().await?;
            self.follow_pause().await?;
        }
        let receive = receive && self.stopping.is_none() && !shared.gate().is_paused();
        let room = if receive { self.intake.room(shared) } else { 0 };
        if room > 0 && self.revoking.is_empty() && self.idle.is_none() && !self.intake.is_limited() {
            shared.attentive.store(false, Ordering::Release);
        }
        let wake_at = self.wake_at(shared);
        if let Some(at) = wake_at {
            self.timer.as_mut().reset(at);
        }
        tokio::select! {
            biased;
            () = &mut self.shutdown, if self.stopping.is_none() => self.stop(Ended::Shutdown),
            () = shared.control.changed.notified() => {}
            result = self.consumer.poll(&mut self.events, room, POLL), if !self.broken => return result,
            () = self.timer.as_mut(), if wake_at.is_some() => self.on_time(shared),
        }
        Ok(())
    }

    /// The first time something is to be done without an event.
    fn wake_at(&self, shared: &Shared) -> Option<Instant> {
        let due = shared.lanes().next_due();
        let deadline = self.stopping.filter(|_| !self.overdue).map(|(_, deadline)| deadline);
        let idle = self.idle.filter(|_| self.stopping.is_none()).map(|idle| self.last_message + idle);
        [due, deadline, idle].into_iter().flatten().min()
    }

    fn on_time(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        for _ in 0..shared.lanes().wake_due(now) {
            shared.work.notify_one();
        }
        if let Some((_, deadline)) = self.stopping
            && deadline <= now
            && !self.overdue
        {
            self.overdue = true;
            self.end(shared, Cancel::Overdue);
        }
    }

    /// Does what the events ask for; messages go to their lanes.
    fn sort(&mut self, shared: &Arc<Shared>) {
        if self.events.is_empty() {
            return;
        }
        let mut outbox = Outbox::default();
        let mut events = std::mem::take(&mut self.events);
        let messages = events.iter().filter(|event| matches!(event, Arrival::Message(_))).count();
        self.intake.count(shared, messages);
        for event in &mut events {
            match event {
                Arrival::Message(incoming) => {
                    self.intake.take_in(shared, incoming, &mut outbox);
                }
                Arrival::Assigned(partitions) => shared.event(&WorkerEvent::Assigned(partitions)),
                Arrival::Revoking(revocation, partitions) => {
                    self.intake.hand_out(shared);
                    shared.event(&WorkerEvent::Revoking(partitions));
                    self.release(shared, &mut outbox, |context| partitions.contains(&context.token().lane));
                    shared.cancel(Cancel::Stop, |context| partitions.contains(&context.token().lane));
                    shared.outgoing.hurry(true);
                    self.revoking.push((*revocation, std::mem::take(partitions)));
                }
                Arrival::Lost(partitions) => {
                    self.intake.hand_out(shared);
                    shared.event(&WorkerEvent::Lost(partitions));
                    lose(shared, |context| partitions.contains(&context.token().lane));
                }
                Arrival::Disconnected(reason) => {
                    self.intake.hand_out(shared);
                    tracing::warn!(%reason, "the connection to the broker is lost; running handlers are cancelled");
                    shared.event(&WorkerEvent::Disconnected(reason));
                    lose(shared, |_| true);
                }
                Arrival::Reconnected => shared.event(&WorkerEvent::Reconnected),
            }
        }
        events.clear();
        self.events = events;
        self.intake.hand_out(shared);
        if messages > 0 && self.idle.is_some() {
            self.last_message = Instant::now();
        }
        if self.stopping.is_some() && !shared.auto_ack {
            // It came while stopping.
            self.release(shared, &mut outbox, |_| true);
        }
        shared.outgoing.push(&mut outbox);
    }

    /// Gives back what has not been started.
    fn release(&self, shared: &Arc<Shared>, outbox: &mut Outbox, pred: impl Fn(&Context) -> bool) {
        for context in remove(shared, pred) {
            super::conclude::give_back(shared, context, outbox);
        }
    }

    /// Gives back what waits, and cancels what runs as far as `how` says.
    fn end(&self, shared: &Arc<Shared>, how: Cancel) {
        let mut outbox = Outbox::default();
        self.release(shared, &mut outbox, |_| true);
        shared.outgoing.push(&mut outbox);
        shared.cancel(how, |_| true);
    }

    /// Answers revocations whose partitions are drained.
    async fn end_revocations(&mut self) -> Result<()> {
        let mut index = 0;
        while let Some((revocation, partitions)) = self.revoking.get(index) {
            let shared = self.shared();
            let ours = |lane: u32| partitions.contains(&lane);
            let running = shared.lanes().running().any(|(_, context)| ours(context.token().lane));
            if running || !shared.outgoing.idle() || !shared.side.idle(ours) {
                index += 1;
                continue;
            }
            let revocation = *revocation;
            self.revoking.remove(index);
            if self.revoking.is_empty() && self.stopping.is_none() {
                self.shared().outgoing.hurry(false);
            }
            self.consumer.revoked(revocation).await?;
        }
        Ok(())
    }

    async fn follow_pause(&mut self) -> Result<()> {
        // What stops takes nothing more, and what it gives back must not come to itself again.
        let paused = self.stopping.is_some() || self.shared().gate().is_paused();
        if paused != self.paused {
            self.paused = paused;
            if self.can_pause {
                self.consumer.pause(paused).await?;
            }
        }
        Ok(())
    }

    /// Stops when a handle asks for it, when enough was taken in, or when nothing comes any more; true when it just did.
    fn look_for_the_end(&mut self) -> bool {
        if self.stopping.is_some() {
            return false;
        }
        let shared = self.shared();
        let outstanding = shared.outstanding.load(Ordering::Acquire);
        let quiet = self.idle.is_some_and(|idle| self.last_message.elapsed() >= idle);
        let ended = if shared.control.stop.load(Ordering::Acquire) {
            Ended::Shutdown
        } else if self.intake.is_exhausted() && outstanding == 0 {
            Ended::Max
        } else if quiet && outstanding == 0 {
            Ended::Idle
        } else {
            if quiet {
                // Idle counts from the end of the last message.
                self.last_message = Instant::now();
            }
            return false;
        };
        self.stop(ended);
        true
    }

    /// Begins to stop: nothing more is started, what waits goes back, what runs may finish.
    pub(crate) fn stop(&mut self, ended: Ended) {
        if self.stopping.is_some() {
            return;
        }
        let shared = Arc::clone(self.shared());
        tracing::debug!(?ended, "the worker is stopping");
        self.stopping = Some((ended, Instant::now() + self.drain));
        shared.stopping.store(true, Ordering::Release);
        shared.event(&WorkerEvent::Draining);
        shared.outgoing.hurry(true);
        // Acknowledged at receipt, it would be lost if it went back: it is handled as far as the limit allows.
        if !shared.auto_ack || !shared.gate().is_open() {
            self.end(&shared, Cancel::Stop);
        }
        shared.work.notify_waiters();
    }
}

/// Forgets what waits and cancels what runs: it is no longer ours.
fn lose(shared: &Shared, pred: impl Fn(&Context) -> bool) {
    for context in remove(shared, &pred) {
        shared.forget(context);
    }
    shared.cancel(Cancel::Lost, pred);
}

/// Takes what waits off its lanes. What waited behind it may run now.
fn remove(shared: &Shared, pred: impl Fn(&Context) -> bool) -> Vec<Context> {
    let mut lanes = shared.lanes();
    let removed = lanes.remove(pred);
    if lanes.has_ready() {
        shared.work.notify_one();
    }
    removed
}
