//! What can go wrong, and when it does.

use std::fmt;
use std::time::Duration;

use crate::memory::{SendFault, SettleFault, SettledHow};
use crate::testing::random::Random;

/// A step of a process at which it can crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// Messages were received, nothing was done with them.
    Received,
    /// The handler is about to begin.
    HandlerBegins,
    /// The handler has ended, nothing was settled.
    HandlerEnded,
    /// A claim was granted by the guard.
    Claimed,
    /// The guard is about to be told that the message was handled.
    BeforeComplete,
    /// The guard knows that the message was handled, the broker does not.
    AfterComplete,
    /// Follow-ups are stored.
    Published,
    /// A settlement is about to be handed to the broker.
    BeforeSettling(SettledHow),
    /// The broker has done it, the answer is not known yet.
    AfterSettling(SettledHow),
    /// Partitions are to be given up.
    Revoking,
    /// The subscription is about to be closed.
    Closing,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received => f.write_str("after receiving"),
            Self::HandlerBegins => f.write_str("before a handler begins"),
            Self::HandlerEnded => f.write_str("after a handler ended"),
            Self::Claimed => f.write_str("after a claim"),
            Self::BeforeComplete => f.write_str("before the guard is told"),
            Self::AfterComplete => f.write_str("after the guard was told"),
            Self::Published => f.write_str("after follow-ups were stored"),
            Self::BeforeSettling(how) => write!(f, "before {how:?}"),
            Self::AfterSettling(how) => write!(f, "after {how:?}"),
            Self::Revoking => f.write_str("while giving up partitions"),
            Self::Closing => f.write_str("before closing"),
        }
    }
}

/// Something that goes wrong. Members are numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants say what the fields are")]
pub enum Fault {
    /// The next sends end like these.
    FailSends(Vec<SendFault>),
    /// The next settlements of a kind end like these.
    FailSettlements(SettledHow, Vec<SettleFault>),
    /// Sends wait, as if the broker were out of disk.
    Block { lasts: Duration },
    /// Nothing gets an answer, sessions stand.
    Stall { lasts: Duration },
    /// Every connection is cut.
    Disconnect { lasts: Duration },
    /// The broker ends every consumer's session.
    Evict,
    /// A process crashes at once; the broker notices and the process is started again after a while.
    Crash { member: usize, noticed: Duration, restarted: Duration },
    /// A process crashes the `nth` time it comes to a point.
    CrashAt { member: usize, point: Point, nth: u32, noticed: Duration, restarted: Duration },
    /// A process stops cleanly and is started again.
    Leave { member: usize, restarted: Duration },
    /// The whole machine stands still.
    Freeze { lasts: Duration },
    /// The guard's store cannot be asked.
    GuardDown { lasts: Duration },
    /// The guard's store does what it is asked, but its answers get lost.
    GuardMute { lasts: Duration },
    /// Every handler takes this much longer.
    Slow { lasts: Duration, by: Duration },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |time: &Duration| humantime::format_duration(*time).to_string();
        match self {
            Self::FailSends(faults) => write!(f, "the next sends end {faults:?}"),
            Self::FailSettlements(how, faults) => write!(f, "the next {how:?} end {faults:?}"),
            Self::Block { lasts } => write!(f, "the broker takes no messages for {}", text(lasts)),
            Self::Stall { lasts } => write!(f, "the broker does not answer for {}", text(lasts)),
            Self::Disconnect { lasts } => write!(f, "connections are cut for {}", text(lasts)),
            Self::Evict => f.write_str("the broker ends every session"),
            Self::Crash { member, noticed, restarted } => write!(
                f,
                "process {} is killed; noticed after {}, restarted after {}",
                member + 1,
                text(noticed),
                text(restarted)
            ),
            Self::CrashAt { member, point, nth, noticed, restarted } => write!(
                f,
                "process {} will crash {point}, the {nth}. time; noticed after {}, restarted after {}",
                member + 1,
                text(noticed),
                text(restarted)
            ),
            Self::Leave { member, restarted } => {
                write!(f, "process {} is stopped, and restarted after {}", member + 1, text(restarted))
            }
            Self::Freeze { lasts } => write!(f, "the machine stands still for {}", text(lasts)),
            Self::GuardDown { lasts } => write!(f, "the guard's store is down for {}", text(lasts)),
            Self::GuardMute { lasts } => write!(f, "the guard's answers get lost for {}", text(lasts)),
            Self::Slow { lasts, by } => write!(f, "handlers take {} longer for {}", text(by), text(lasts)),
        }
    }
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// When, since the run began.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  {}", self.at.as_secs_f64(), self.fault)
    }
}

/// What the random schedule is drawn for.
pub(crate) struct Bounds {
    pub(crate) most: usize,
    pub(crate) within: Duration,
    pub(crate) members: usize,
    pub(crate) guarded: bool,
}

/// A random schedule, in order of time.
pub(crate) fn schedule(random: &mut Random, bounds: &Bounds) -> Vec<Planned> {
    let count = random.below(bounds.most + 1);
    let mut planned: Vec<_> = (0..count)
        .map(|_| Planned { at: random.between(Duration::ZERO, bounds.within), fault: draw(random, bounds) })
        .collect();
    planned.sort_by_key(|planned| planned.at);
    planned
}

const MS: fn(u64) -> Duration = Duration::from_millis;

fn draw(random: &mut Random, bounds: &Bounds) -> Fault {
    let member = random.below(bounds.members);
    let noticed = if random.chance(50) { Duration::ZERO } else { random.between(MS(100), MS(10_000)) };
    let restarted = random.between(MS(1), MS(5_000));
    let lasts = random.between(MS(1), MS(12_000));
    let point = point(random, bounds.guarded);
    match random.below(if bounds.guarded { 20 } else { 18 }) {
        0 | 1 => {
            let all = [
                SendFault::Refused,
                SendFault::Unavailable,
                SendFault::StoredUnconfirmed,
                SendFault::StoredUnconfirmed,
                SendFault::LostUnconfirmed,
            ];
            Fault::FailSends((0..=random.below(3)).map(|_| random.pick(&all)).collect())
        }
        2..5 => {
            let all = [SettleFault::Unavailable, SettleFault::Halfway, SettleFault::Unanswered];
            let faults = (0..=random.below(3)).map(|_| random.pick(&all)).collect();
            Fault::FailSettlements(settlement(random), faults)
        }
        5 => Fault::Block { lasts },
        6 => Fault::Stall { lasts: if random.chance(20) { lasts * 4 } else { lasts } },
        7 | 8 => Fault::Disconnect { lasts },
        9 => Fault::Evict,
        10 => Fault::Crash { member, noticed, restarted },
        11..15 => {
            let nth = 1 + random.below(4) as u32;
            Fault::CrashAt { member, point, nth, noticed, restarted }
        }
        15 | 16 => Fault::Leave { member, restarted },
        17 if random.chance(50) => Fault::Freeze { lasts },
        17 => Fault::Slow { lasts, by: random.between(MS(100), MS(8_000)) },
        18 => Fault::GuardDown { lasts },
        _ => Fault::GuardMute { lasts },
    }
}

fn settlement(random: &mut Random) -> SettledHow {
    use SettledHow::{Ack, DeadLetter, Hold, Release, Requeue, Retry};
    random.pick(&[Ack, Ack, Ack, Retry, Retry, Hold, DeadLetter, Release, Requeue])
}

fn point(random: &mut Random, guarded: bool) -> Point {
    let how = settlement(random);
    let mut points = vec![
        Point::Received,
        Point::HandlerBegins,
        Point::HandlerEnded,
        Point::Published,
        Point::BeforeSettling(how),
        Point::BeforeSettling(how),
        Point::AfterSettling(how),
        Point::AfterSettling(how),
        Point::Revoking,
        Point::Closing,
    ];
    if guarded {
        points.extend([Point::Claimed, Point::BeforeComplete, Point::AfterComplete]);
    }
    random.pick(&points)
}
