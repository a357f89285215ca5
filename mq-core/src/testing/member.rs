//! One process of a service, through all its lives.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::broker::Broker;
use crate::driver::{BrokerDriver, ConsumerSpec};
use crate::error::Result;
use crate::guard::Guard;
use crate::handler::Handler;
use crate::memory::MemoryBroker;
use crate::retry::RetryPolicy;
use crate::testing::history::{Life, Recorder, What};
use crate::testing::probe::{Guards, ProbedBroker, ProbedGuard, ProbedHandler};
use crate::testing::process::{Aftermath, Process};
use crate::testing::scenario::Wrap;
use crate::testing::weather::Weather;
use crate::worker::{AckStrategy, Service, Summary};

type Running = Pin<Box<dyn Future<Output = Result<Summary>> + Send>>;
/// Makes a service for a process; without one, to be looked at only.
pub(crate) type Make = Box<dyn Fn(&Broker, Option<(Arc<Process>, &Guards, Stop)>) -> Result<Made> + Send + Sync>;

/// What a service is like, for the judge.
#[derive(Debug, Clone)]
pub(crate) struct Traits {
    /// One handler at a time for each key.
    pub(crate) keyed: bool,
    /// Retries keep the order of their key.
    pub(crate) keeps_order: bool,
    pub(crate) own_keys: bool,
    pub(crate) guarded: bool,
    pub(crate) auto_ack: bool,
    pub(crate) crash_limit: u32,
    pub(crate) timed: bool,
    pub(crate) policy: RetryPolicy,
    pub(crate) drain: Duration,
    pub(crate) spec: ConsumerSpec,
}

/// Told to stop.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<Notify>);

pub(crate) struct Made {
    pub(crate) traits: Traits,
    pub(crate) running: Option<Running>,
}

impl Made {
    pub(crate) fn of<H: Handler>(service: Service<H>, process: Option<(Arc<Process>, &Guards, Stop)>) -> Result<Self> {
        let (broker, subscription, mut settings, handler) = service.into_parts();
        let spec = settings.spec(&broker, &subscription, handler.batch_size())?;
        let traits = Traits {
            keyed: settings.keyed(),
            keeps_order: settings.keeps_order(),
            own_keys: settings.key.is_some(),
            guarded: settings.guard.is_some(),
            auto_ack: settings.ack == AckStrategy::Auto,
            crash_limit: settings.crash_limit,
            timed: settings.timeout.is_some(),
            policy: settings.policy(),
            drain: settings.drain,
            spec,
        };
        let running = process.map(|(process, guards, Stop(stop))| {
            if let Some(guard) = settings.guard.take() {
                let number = guards.number(&guard);
                let probed = ProbedGuard { inner: guard, number, process: Arc::clone(&process) };
                settings.guard = Some(Arc::new(probed) as Arc<dyn Guard>);
            }
            let handler = ProbedHandler { inner: handler, process };
            let service = Service::new(broker, subscription, settings, handler);
            Box::pin(service.run_until(async move { stop.notified().await })) as Running
        });
        Ok(Self { traits, running })
    }
}

/// A process and what is to become of it.
pub(crate) struct Member {
    pub(crate) service: usize,
    pub(crate) member: usize,
    pub(crate) make: Make,
    pub(crate) current: Mutex<Option<(Arc<Process>, Stop)>>,
    /// After a clean stop, when to start again.
    pub(crate) rejoin: Mutex<Option<Duration>>,
    /// Wakes the supervisor while nothing runs.
    pub(crate) call: Notify,
    pub(crate) ending: std::sync::atomic::AtomicBool,
}

/// What all members share.
pub(crate) struct Site {
    pub(crate) memory: MemoryBroker,
    pub(crate) recorder: Recorder,
    pub(crate) weather: Arc<Weather>,
    pub(crate) guards: Guards,
    pub(crate) beneath: Option<Wrap>,
    pub(crate) above: Option<Wrap>,
}

impl Site {
    fn broker(&self, process: &Arc<Process>) -> Broker {
        let mut driver: Arc<dyn BrokerDriver> = Arc::new(self.memory.connection());
        if let Some(wrap) = &self.beneath {
            driver = wrap(driver);
        }
        driver = Arc::new(ProbedBroker { inner: driver, process: Arc::clone(process) });
        if let Some(wrap) = &self.above {
            driver = wrap(driver);
        }
        Broker::from_driver(driver)
    }
}

impl Member {
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        lock(&self.current).as_ref().map(|(process, _)| Arc::clone(process))
    }

    /// Tells the running life to stop.
    pub(crate) fn stop(&self) {
        if let Some((process, stop)) = &*lock(&self.current) {
            process.write(What::Stopping);
            stop.0.notify_one();
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Starts the process again and again, until the run ends.
    pub(crate) async fn supervise(self: Arc<Self>, site: Arc<Site>, late: Duration) {
        if !late.is_zero() {
            let _ = tokio::time::timeout(late, self.call.notified()).await;
        }
        for life in 1.. {
            if self.is_ending() {
                return;
            }
            let life = Life { service: self.service, member: self.member, life };
            let process = Arc::new(Process::new(life, site.recorder.clone(), Arc::clone(&site.weather)));
            let pause = self.live(&site, &process).await;
            *lock(&self.current) = None;
            process.bury();
            if self.is_ending() {
                return;
            }
            // The end of the faults calls everybody back at once.
            let _ = tokio::time::timeout(pause, self.call.notified()).await;
        }
    }

    /// One life; how long until the next.
    async fn live(&self, site: &Site, process: &Arc<Process>) -> Duration {
        let stop = Stop::default();
        *lock(&self.current) = Some((Arc::clone(process), stop.clone()));
        process.write(What::Started);
        let made = (self.make)(&site.broker(process), Some((Arc::clone(process), &site.guards, stop)));
        let running = match made.map(|made| made.running) {
            Ok(Some(running)) => running,
            Ok(None) => return Duration::ZERO,
            Err(error) => {
                process.write(What::Ended { error: Some(error.to_string()) });
                return Duration::from_secs(1);
            }
        };
        let mut running = tokio::spawn(running);
        tokio::select! {
            biased;
            () = process.died() => {
                running.abort();
                let _ = running.await;
                let Aftermath { restarted, .. } = process.aftermath();
                restarted
            }
            ended = &mut running => {
                let error = match ended {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(error) => Some(format!("the worker's task ended: {error}")),
                };
                process.write(What::Ended { error });
                lock(&self.rejoin).take().unwrap_or(Duration::from_millis(500))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// After its next clean stop it starts again this much later.
    pub(crate) fn rejoin_after(&self, pause: Duration) {
        *lock(&self.rejoin) = Some(pause);
    }
}
