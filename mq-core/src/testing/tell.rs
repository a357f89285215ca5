//! Events in words.

use std::fmt;

use crate::driver::{Settled, Token};
use crate::testing::history::{Delivered, Intent, What};

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sending { id, key, delayed, again } => {
                let (again, later) = (if *again { " again" } else { "" }, if *delayed { " for later" } else { "" });
                write!(f, "{id} is sent{again}{later}")?;
                key.as_ref().map_or(Ok(()), |key| write!(f, ", key {key}"))
            }
            Self::Confirmed { id, due: None } => write!(f, "{id} is confirmed"),
            Self::Confirmed { id, due: Some(due) } => {
                write!(f, "{id} is confirmed, due at {:.3} s", due.as_secs_f64())
            }
            Self::SendFailed { id, ambiguous, error } => {
                write!(f, "{id}: the send {} ({error})", if *ambiguous { "ended ambiguous" } else { "failed" })
            }
            Self::GivenUp { id } => write!(f, "{id} is sent no more"),
            Self::Started => f.write_str("starts"),
            Self::Joined => f.write_str("has joined the group"),
            Self::Ended { error: None } => f.write_str("has stopped cleanly"),
            Self::Ended { error: Some(error) } => write!(f, "ended with an error: {error}"),
            Self::Stopping => f.write_str("is told to stop"),
            Self::Crashed { at: None } => f.write_str("CRASHES"),
            Self::Crashed { at: Some(point) } => write!(f, "CRASHES {point}"),
            Self::CrashNoticed => f.write_str("the broker notices the crash"),
            Self::Assigned(lanes) => write!(f, "reads partitions {lanes:?}"),
            Self::Revoking(number, lanes) => write!(f, "is to give up partitions {lanes:?} (revocation {number})"),
            Self::Revoked(number) => write!(f, "has given up its partitions (revocation {number})"),
            Self::Lost(lanes) => write!(f, "has lost partitions {lanes:?}"),
            Self::Disconnected => f.write_str("learns that its connection is lost"),
            Self::Reconnected => f.write_str("is connected again"),
            Self::Delivered(delivered) => delivery(f, delivered),
            Self::Running { run, token, id, attempt } => {
                write!(f, "the handler begins {id} (run {run}, attempt {attempt}, delivery {})", place(*token))
            }
            Self::FollowUp { id, error: None } => write!(f, "the follow-up {id} is confirmed"),
            Self::FollowUp { id, error: Some(error) } => write!(f, "the follow-up {id} failed ({error})"),
            Self::RanTo { run, id, end } => write!(f, "the handler of {id} ends: {end:?} (run {run})"),
            Self::Settling { token, id, how, intent } => {
                write!(f, "{id} is to be settled: {how:?}{} (delivery {})", Asked(*intent), place(*token))
            }
            Self::Settled { token, id, how, result } => {
                let place = place(*token);
                match result {
                    Ok(Settled::Durable) => write!(f, "{id} is settled: {how:?} (delivery {place})"),
                    Ok(settled) => write!(f, "{id} is not settled ({how:?}): {settled:?} (delivery {place})"),
                    Err(error) => write!(f, "{id}: {how:?} failed: {error} (delivery {place})"),
                }
            }
            Self::Claimed { id, answer, .. } => write!(f, "{id} is claimed at the guard: {answer}"),
            Self::Completing { id, .. } => write!(f, "the guard is told that {id} was handled"),
            Self::Completed { id, ok: true, .. } => write!(f, "the guard knows that {id} was handled"),
            Self::Completed { id, ok: false, .. } => write!(f, "the guard does not confirm that {id} was handled"),
            Self::Fault(fault) => write!(f, "FAULT: {fault}"),
            Self::Mended(what) => write!(f, "{what} is over"),
            Self::Calm => f.write_str("no more faults from here on"),
            Self::Redriven { id, .. } => write!(f, "the dead letter {id} is brought back"),
            Self::Idle => f.write_str("the broker has nothing left to deliver"),
        }
    }
}

fn delivery(f: &mut fmt::Formatter<'_>, delivered: &Delivered) -> fmt::Result {
    let Delivered { token, id, attempt, redeliveries, redelivered, redrives, origin, .. } = delivered;
    write!(f, "{id} is delivered ({origin:?}, attempt {attempt}, delivery {}", place(*token))?;
    if *redelivered {
        write!(f, ", redelivered, {redeliveries} times blamed")?;
    }
    if *redrives > 0 {
        write!(f, ", redriven {redrives} times")?;
    }
    f.write_str(")")
}

/// Partition, place, and which delivery of it.
fn place(token: Token) -> String {
    const OWN: u64 = 1 << 63;
    let copy = if token.major & OWN == 0 { String::new() } else { "copy ".to_owned() };
    format!("{copy}{}:{}#{}", token.lane, token.major & !OWN, token.minor)
}

struct Asked(Intent);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Intent { attempt, due, reason } = self.0;
        attempt.map_or(Ok(()), |attempt| write!(f, ", attempt {attempt}"))?;
        due.map_or(Ok(()), |due| write!(f, " due at {:.3} s", due.as_secs_f64()))?;
        reason.map_or(Ok(()), |reason| write!(f, ", {reason}"))
    }
}
