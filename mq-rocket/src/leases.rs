//! Changes leases: renews them while the consumer lives, ends them when a delivery is given back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mq_core::error::Result;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::answer;
use crate::remoting::Command;
use crate::session::{Held, Lease, Session};

/// Renewals under way at once.
const AT_ONCE: usize = 64;
/// What a delivery given back still rests: the broker loses track of one that is changed twice within a millisecond, so
/// they are spread.
const GIVEN_BACK: std::ops::Range<u64> = 1..98;

/// Renews every lease of the session in time, until it closes.
pub(crate) async fn keep(core: Arc<Core>, session: Arc<Session>) {
    let tick = core.config.lease / 6;
    loop {
        tokio::time::sleep(tick).await;
        let held = session.all();
        for some in held.chunks(AT_ONCE) {
            join_all(some.iter().map(|(number, held)| renew(&core, &session, *number, held))).await;
        }
        if session.is_closing() && session.all().is_empty() {
            return;
        }
    }
}

async fn renew(core: &Core, session: &Session, number: u64, held: &Held) {
    // Whoever holds it is settling it.
    let Ok(mut lease) = held.lease.try_lock() else { return };
    let full = core.config.lease;
    if lease.settled || lease.until.saturating_duration_since(Instant::now()) > full * 2 / 3 {
        return;
    }
    if Instant::now() >= lease.until {
        session.lapse("a lease ran out before the broker renewed it".into());
        return;
    }
    match change(core, &mut lease, full).await {
        Ok(true) => {}
        Ok(false) => {
            drop(lease);
            session.forget(number);
            session.lapse("the broker no longer knows a delivery".into());
        }
        Err(cause) => tracing::debug!(%cause, "a lease is not renewed yet"),
    }
}

/// Makes the lease end `length` from now on; false when the broker does not know the delivery.
pub(crate) async fn change(core: &Core, lease: &mut Lease, length: Duration) -> Result<bool> {
    let asked = Instant::now();
    let command = lease.receipt.change(length.as_millis());
    let answer = ask(core, lease, command).await?;
    match answer.code {
        answer::SUCCESS => {
            lease.receipt = lease.receipt.renewed(&answer)?;
            lease.until = asked + length;
            Ok(true)
        }
        code if is_unknown(code) => Ok(false),
        _ => Err(answer.refusal()),
    }
}

/// Acknowledges; false when the broker does not know the delivery.
pub(crate) async fn ack(core: &Core, lease: &Lease) -> Result<bool> {
    if let Some(gaps) = &lease.gaps {
        gaps.settle(core, lease.receipt.offset, core.deadline().min(lease.until)).await;
    }
    let answer = ask(core, lease, lease.receipt.ack()).await?;
    match answer.code {
        answer::SUCCESS => Ok(true),
        code if is_unknown(code) => Ok(false),
        _ => Err(answer.refusal()),
    }
}

/// Gives it back at once.
pub(crate) async fn give_back(core: &Core, lease: &mut Lease) -> Result<bool> {
    if let Some(gaps) = &lease.gaps {
        gaps.give_back(core, lease.receipt.offset, core.deadline().min(lease.until)).await;
    }
    change(core, lease, Duration::from_millis(fastrand::u64(GIVEN_BACK))).await
}

/// The offset is gone: trimmed, reset, or never there.
fn is_unknown(code: i32) -> bool {
    matches!(code, answer::MESSAGE_ILLEGAL | answer::PULL_NOT_FOUND | answer::QUERY_NOT_FOUND | 18 | 208)
}

async fn ask(core: &Core, lease: &Lease, command: Command) -> Result<Command> {
    let deadline = core.deadline().min(lease.until);
    core.ask(&lease.receipt.node, command, deadline).await
}
