//! Acknowledges many deliveries with one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use mq_core::driver::{Settled, Token};
use mq_core::error::Result;
use serde::Serialize;
use tokio::sync::MutexGuard;

use crate::core::Core;
use crate::error::again;
use crate::receipt::{Origin, Receipt};
use crate::remoting::{Command, code};
use crate::session::{Held, Lease, Session};

/// The most in one request: a broker writes each down by itself.
const MOST: usize = 256;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    broker_name: &'a str,
    acks: Vec<Entry<'a>>,
}

/// Deliveries of one queue that came in one answer, by the short names of the protocol.
#[derive(Serialize)]
struct Entry<'a> {
    c: &'a str,
    t: &'a str,
    r: &'a str,
    so: i64,
    q: u32,
    rq: i64,
    pt: i64,
    it: i64,
    /// A bit for each offset from the first on, the lowest bit first.
    b: String,
}

fn entry<'a>(group: &'a str, origin: Origin<'a>, bits: &[u8]) -> Entry<'a> {
    Entry {
        c: group,
        t: origin.topic,
        r: origin.kind,
        so: origin.start,
        q: origin.queue,
        rq: origin.revive_queue,
        pt: origin.pop_time,
        it: origin.invisible,
        b: STANDARD.encode(bits),
    }
}

fn request(receipts: &[&Receipt]) -> Option<Command> {
    let first = receipts.first()?;
    let mut origins: BTreeMap<Origin<'_>, Vec<u8>> = BTreeMap::new();
    for receipt in receipts {
        let (origin, bit) = receipt.origin()?;
        let bits = origins.entry(origin).or_default();
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        bits.resize(bits.len().max(byte + 1), 0);
        *bits.get_mut(byte)? |= mask;
    }
    let acks = origins.into_iter().map(|(origin, bits)| entry(&first.group, origin, &bits)).collect();
    let body = Body { broker_name: &first.node.name, acks };
    Some(Command::request(code::BATCH_ACK_MESSAGE).body(serde_json::to_vec(&body).ok()?))
}

/// One that is to be acknowledged: its place among those asked for, and its lease.
struct Ack<'a> {
    index: usize,
    token: Token,
    lease: MutexGuard<'a, Lease>,
}

/// What became of some, by their places, and those that must be settled by themselves.
type Outcome = (Vec<(usize, Result<Settled>)>, Vec<(usize, Token)>);

/// Acknowledges what can be acknowledged together.
pub(crate) async fn together(core: &Core, session: &Session, wanted: Vec<(usize, Token)>) -> Outcome {
    let held: Vec<(usize, Token, Arc<Held>)> =
        wanted.iter().filter_map(|(index, token)| session.held(*token).map(|held| (*index, *token, held))).collect();
    let mut brokers: BTreeMap<String, Vec<Ack<'_>>> = BTreeMap::new();
    let mut alone: Vec<(usize, Token)> =
        wanted.into_iter().filter(|(_, token)| session.held(*token).is_none()).collect();
    for (index, token, held) in &held {
        // One that is being renewed now is waited for by itself.
        match held.lease.try_lock() {
            Ok(lease) if lease.stands() && lease.gaps.is_none() && lease.receipt.origin().is_some() => {
                brokers.entry(lease.receipt.node.name.clone()).or_default().push(Ack {
                    index: *index,
                    token: *token,
                    lease,
                });
            }
            _ => alone.push((*index, *token)),
        }
    }
    let mut requests = Vec::new();
    for mut acks in brokers.into_values() {
        while !acks.is_empty() {
            let rest = acks.split_off(acks.len().min(MOST));
            requests.push(std::mem::replace(&mut acks, rest));
        }
    }
    let done = join_all(requests.into_iter().map(|acks| one(core, session, acks))).await;
    (done.into_iter().flatten().collect(), alone)
}

async fn one(core: &Core, session: &Session, acks: Vec<Ack<'_>>) -> Vec<(usize, Result<Settled>)> {
    let receipts: Vec<&Receipt> = acks.iter().map(|ack| &ack.lease.receipt).collect();
    let until = acks.iter().map(|ack| ack.lease.until).min();
    let (Some(first), Some(until)) = (receipts.first(), until) else { return Vec::new() };
    let answer = match request(&receipts) {
        Some(command) => core.ask(&first.node, command, core.deadline().min(until)).await.and_then(Command::success),
        None => Err(crate::error::error(mq_core::error::ErrorKind::Internal, "acknowledgements cannot be written")),
    };
    let settle = |mut ack: Ack<'_>| {
        let settled = match &answer {
            Ok(_) => {
                ack.lease.settled = true;
                Ok(())
            }
            Err(cause) => Err(again(cause)),
        };
        drop(ack.lease);
        (ack.index, settled.map(|()| session.forget(ack.token.major)))
    };
    acks.into_iter().map(settle).collect()
}
