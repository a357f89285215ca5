//! Makes the planned faults happen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::testing::fault::{Fault, Planned};
use crate::testing::history::What;
use crate::testing::member::{Member, Site};
use crate::testing::process::{Aftermath, Trap};

/// The faults of a run, and whom they may hit.
pub(crate) struct Weathering {
    pub(crate) site: Arc<Site>,
    pub(crate) members: Vec<Arc<Member>>,
}

impl Weathering {
    /// Runs the whole schedule; ends when its last fault is over.
    pub(crate) async fn run(&self, planned: Vec<Planned>) {
        let mut over = Duration::ZERO;
        for Planned { at, fault } in planned {
            tokio::time::sleep(at.saturating_sub(self.site.recorder.now())).await;
            self.site.recorder.write(None, What::Fault(fault.clone()));
            if let Some(lasts) = self.apply(fault).await {
                over = over.max(self.site.recorder.now() + lasts);
            }
        }
        tokio::time::sleep(over.saturating_sub(self.site.recorder.now())).await;
    }

    /// Makes one fault happen; how long it lasts.
    async fn apply(&self, fault: Fault) -> Option<Duration> {
        let faults = self.site.memory.faults();
        let weather = &self.site.weather;
        match fault {
            Fault::FailSends(ends) => faults.fail_sends(ends),
            Fault::FailSettlements(how, ends) => faults.fail_settlements(how, ends),
            Fault::Block { lasts } => {
                faults.block(true);
                return self.mend(lasts, "the block", move |_| faults.block(false));
            }
            Fault::Stall { lasts } => {
                faults.stall(true);
                return self.mend(lasts, "the stall", move |_| faults.stall(false));
            }
            Fault::Disconnect { lasts } => {
                faults.disconnect();
                return self.mend(lasts, "the cut", move |_| faults.reconnect());
            }
            Fault::Evict => faults.crash_consumers(),
            Fault::Crash { member, noticed, restarted } => {
                if let Some(process) = self.members.get(member).and_then(|member| member.process()) {
                    process.kill(Aftermath { noticed, restarted });
                }
            }
            Fault::CrashAt { member, point, nth, noticed, restarted } => {
                if let Some(process) = self.members.get(member).and_then(|member| member.process()) {
                    process.arm(Trap { point, nth, aftermath: Aftermath { noticed, restarted } });
                }
            }
            Fault::Leave { member, restarted } => {
                if let Some(member) = self.members.get(member).filter(|member| member.process().is_some()) {
                    member.rejoin_after(restarted);
                    member.stop();
                }
            }
            Fault::Freeze { lasts } => tokio::time::advance(lasts).await,
            Fault::GuardDown { lasts } => {
                weather.guard_down(true);
                return self.mend(lasts, "the outage of the guard's store", |site| site.weather.guard_down(false));
            }
            Fault::GuardMute { lasts } => {
                weather.guard_mute(true);
                return self.mend(lasts, "the loss of the guard's answers", |site| site.weather.guard_mute(false));
            }
            Fault::Slow { lasts, by } => {
                weather.slow(by);
                return self.mend(lasts, "the slowness", |site| site.weather.slow(Duration::ZERO));
            }
        }
        None
    }

    fn mend(&self, lasts: Duration, what: &'static str, mend: impl FnOnce(&Site) + Send + 'static) -> Option<Duration> {
        let site = Arc::clone(&self.site);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            site.recorder.write(None, What::Mended(what));
            mend(&site);
        });
        Some(lasts)
    }

    /// Ends every fault, and calls every process back.
    pub(crate) fn calm(&self) {
        let faults = self.site.memory.faults();
        faults.clear();
        faults.block(false);
        faults.stall(false);
        faults.reconnect();
        self.site.weather.clear();
        for member in &self.members {
            if let Some(process) = member.process() {
                process.disarm();
            }
            member.call.notify_one();
        }
        self.site.recorder.write(None, What::Calm);
    }

    /// Stops every process for good.
    pub(crate) fn close(&self) {
        for member in &self.members {
            member.ending.store(true, Ordering::Release);
            member.stop();
            member.call.notify_one();
        }
    }
}
