//! Random schedules of faults: the same seed gives the same schedule.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::judge::Seen;
use super::load::Load;
use super::plan::Plan;
use super::way::Breakage;
use crate::failure::Verdict;
use crate::lab::Lab;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Every connection is cut.
    Cut,
    /// New connections are refused for so long, and the standing ones cut.
    Refuse(Duration),
    /// No byte passes for so long.
    Stall(Duration),
    /// So many bytes a second pass, for so long.
    Slow(u32, Duration),
    /// The broker's side of every connection is closed, and the client's left as it is.
    HalfOpen,
    /// A member is killed, and another one joins.
    Kill(usize),
    /// A member is stopped for so long.
    Freeze(usize, Duration),
    /// A member more.
    Join,
    /// A member leaves, unless it is the last.
    Leave(usize),
    /// The broker is killed, and started after so long.
    Broker(Duration),
}

impl Strike {
    /// Its kind, for counting.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Refuse(_) => "refuse",
            Self::Stall(_) => "stall",
            Self::Slow(..) => "slow",
            Self::HalfOpen => "half-open",
            Self::Kill(_) => "member killed",
            Self::Freeze(..) => "member stopped",
            Self::Join => "join",
            Self::Leave(_) => "leave",
            Self::Broker(_) => "broker killed",
        }
    }
}

/// When what happens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) messages: usize,
    pub(crate) keys: usize,
    pub(crate) rate: u32,
    pub(crate) members: usize,
    pub(crate) plan: Plan,
    /// After so many messages were handled.
    pub(crate) steps: Vec<(usize, Strike)>,
}

impl Schedule {
    /// The schedule of a seed, of faults that exist there; with or without the broker's death.
    pub(crate) fn new(seed: u64, lacks: &[Breakage], broker: bool) -> Self {
        let mut dice = Rng::with_seed(seed);
        let messages = dice.usize(150..400);
        let rate = dice.u32(150..400);
        let mut plan = Plan::rough(seed, dice.bool());
        plan.slow_ones = dice.u32(0..8);
        plan.slow = Duration::from_millis(dice.u64(200..900));
        let count = if broker { dice.usize(1..3) } else { dice.usize(1..5) };
        let mut steps: Vec<(usize, Strike)> =
            (0..count).map(|_| (dice.usize(5..messages * 4 / 5), strike(&mut dice, lacks))).collect();
        if broker {
            for _ in 0..dice.usize(1..3) {
                let down = Duration::from_millis(dice.u64(0..1500));
                steps.push((dice.usize(5..messages * 4 / 5), Strike::Broker(down)));
            }
        }
        steps.sort_by_key(|(after, _)| *after);
        Self { seed, messages, keys: dice.usize(2..40), rate, members: dice.usize(1..4), plan, steps }
    }

    /// Lives through it.
    pub(crate) async fn run(&self, lab: &Lab) -> Verdict<Seen> {
        self.live(lab).await.map_err(|failure| failure.at(self))
    }

    async fn live(&self, lab: &Lab) -> Verdict<Seen> {
        let mut load = Load::new(lab, self.plan.clone()).await?;
        for member in 0..self.members {
            // One of them here, so that both kinds live through everything.
            if member == 0 { load.join_task().await? } else { load.join().await? }
        }
        load.send(self.messages, self.keys, self.rate);
        for (after, strike) in &self.steps {
            load.handled(*after).await?;
            apply(&mut load, *strike).await?;
        }
        load.finish().await
    }

    /// How often each kind occurs.
    pub(crate) fn count(&self, kinds: &mut BTreeMap<&'static str, usize>) {
        for (_, strike) in &self.steps {
            *kinds.entry(strike.kind()).or_default() += 1;
        }
    }
}

fn strike(dice: &mut Rng, lacks: &[Breakage]) -> Strike {
    let millis = |dice: &mut Rng, range: std::ops::Range<u64>| Duration::from_millis(dice.u64(range));
    let strike = match dice.u32(..20) {
        0..4 => Strike::Cut,
        4..6 => Strike::Refuse(millis(dice, 50..800)),
        6..9 => Strike::Stall(millis(dice, 200..2000)),
        9 if dice.u32(..8) == 0 => Strike::HalfOpen,
        9 => Strike::Slow(dice.u32(10_000..60_000), millis(dice, 300..1500)),
        10..14 => Strike::Kill(dice.usize(..8)),
        14..16 => Strike::Freeze(dice.usize(..8), millis(dice, 200..2500)),
        16..18 => Strike::Join,
        _ => Strike::Leave(dice.usize(..8)),
    };
    let lacking = match strike {
        Strike::Slow(..) => Breakage::Slow,
        Strike::HalfOpen => Breakage::HalfOpen,
        Strike::Freeze(..) => Breakage::Process,
        _ => return strike,
    };
    if lacks.contains(&lacking) { Strike::Cut } else { strike }
}

async fn apply(load: &mut Load<'_>, strike: Strike) -> Verdict {
    let since = load.record.history.now();
    match strike {
        Strike::Cut => {
            load.record.fault("every connection is cut");
            load.strike(load.members());
            load.way.cut();
        }
        Strike::Refuse(long) => {
            load.record.fault(format!("every connection is cut, and new ones are refused for {long:?}"));
            load.strike(load.members());
            load.way.refuse(true);
            load.way.cut();
            tokio::time::sleep(long).await;
            load.way.refuse(false);
        }
        Strike::Stall(long) => {
            load.record.fault(format!("no byte passes for {long:?}"));
            load.strike(load.members());
            load.way.stall(true);
            tokio::time::sleep(long).await;
            load.way.stall(false);
            load.blind_since(since);
        }
        Strike::Slow(rate, long) => {
            load.record.fault(format!("{rate} bytes a second pass for {long:?}"));
            // A heartbeat behind many messages may come too late.
            load.strike(load.members());
            load.way.slow(Some(rate));
            tokio::time::sleep(long).await;
            load.way.slow(None);
            load.blind_since(since);
        }
        Strike::HalfOpen => {
            load.record.fault("every connection has lost its broker, and nobody was told");
            load.strike(load.members());
            load.way.half_open();
            load.blind_since(since);
        }
        Strike::Kill(index) => {
            load.kill_member(index).await;
            load.join().await?;
        }
        Strike::Freeze(index, long) => {
            if load.freeze(index, true) {
                load.strike(load.members());
                tokio::time::sleep(long).await;
                load.freeze(index, false);
                load.blind_since(since);
            }
        }
        Strike::Join => load.join().await?,
        Strike::Leave(index) => {
            if load.members() > 1 {
                load.leave(index).await?;
            }
        }
        Strike::Broker(down) => {
            load.kill_broker().await?;
            tokio::time::sleep(down).await;
            load.start_broker().await?;
        }
    }
    Ok(())
}

/// As a person reads it, with how to live through it again.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} messages of {} keys at {}/s, {} member(s), {}",
            self.seed,
            self.messages,
            self.keys,
            self.rate,
            self.members,
            if self.plan.keep_order { "retries in key order" } else { "retries out of order" }
        )?;
        for (after, strike) in &self.steps {
            write!(f, "; after {after}: {strike:?}")?;
        }
        write!(f, "; MQ_FAULT_SEED={} replays it", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        for seed in 0..200 {
            let schedule = Schedule::new(seed, &[], seed % 5 == 0);
            assert_eq!(schedule, Schedule::new(seed, &[], seed % 5 == 0));
            assert!(!schedule.steps.is_empty() && schedule.steps.iter().all(|(after, _)| *after < schedule.messages));
            assert!(schedule.steps.is_sorted_by_key(|(after, _)| *after));
        }
        assert_ne!(Schedule::new(1, &[], false).steps, Schedule::new(2, &[], false).steps);
    }

    #[test]
    fn what_does_not_exist_is_not_scheduled() {
        let lacks = [Breakage::Slow, Breakage::HalfOpen, Breakage::Process];
        for seed in 0..200 {
            let schedule = Schedule::new(seed, &lacks, false);
            let absent = |strike: &Strike| {
                matches!(strike, Strike::Slow(..) | Strike::HalfOpen | Strike::Freeze(..) | Strike::Broker(_))
            };
            assert!(!schedule.steps.iter().any(|(_, strike)| absent(strike)), "{schedule}");
        }
    }
}
