//! A consumer's session: it joins its group, reads, keeps itself alive, and leaves or is replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mq_core::driver::Event;
use mq_core::error::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::error::{about, checked, error};
use crate::state::Shared;
use crate::{groups, keeper, reader, reply, script};

/// Between two attempts to join again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a read under way may take to end when the consumer closes.
const LAST_READ: Duration = Duration::from_secs(2);

/// One session, from joining to its end.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) epoch: u32,
    pub(crate) member: String,
    /// Of the connection that is joined by.
    pub(crate) standing: u64,
    /// The client id of the connection that blocks.
    pub(crate) blocked: AtomicI64,
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The consumer closes.
    Stop,
    /// Others count it as dead.
    Fenced,
    /// The connection was lost.
    Lost(String),
    /// It cannot go on.
    Failed(Error),
}

impl From<Error> for End {
    fn from(cause: Error) -> Self {
        if passes(&cause) { Self::Lost(cause.to_string()) } else { Self::Failed(cause) }
    }
}

/// Joins the group under a new name; the name of before, if any, is dead from then on.
pub(crate) async fn join(shared: &Arc<Shared>, previous: Option<&str>) -> Result<Session> {
    let core = &shared.core;
    let live = core.asking.ready(Instant::now() + core.limit()).await?;
    let mode = if shared.ordered { "o" } else { "s" };
    let member = format!("{mode}-{:016x}{:08x}", fastrand::u64(..), std::process::id());
    let mut commands = redis::pipe();
    let group = shared.group.as_str();
    for lane in &shared.lanes {
        let members = lane.keys.members(group);
        if let Some(previous) = previous {
            let mut command = script::call(&script::FENCE, &[&members]);
            command.arg(previous);
            commands.add_command(command);
        }
    }
    let fences = commands.len();
    for lane in &shared.lanes {
        let mut command = script::call(&script::JOIN, &[&lane.keys.members(group)]);
        command.arg(&member).arg(millis(core.config.session)).arg(mode);
        commands.add_command(command);
    }
    for (at, answer) in core.asking.ask_many(&commands, core.limit()).await?.into_iter().enumerate() {
        if reply::number(&checked(answer)?) == Some(0) && at >= fences {
            let text = format!("the group `{group}` is in use in the other mode");
            return Err(error(ErrorKind::TopologyConflict, text).with_hint(
                "consumers of a group are all shared or all ordered: stop the others, or use another group",
            ));
        }
    }
    let mut state = shared.lock();
    state.member.clone_from(&member);
    state.live = true;
    let now = Instant::now();
    for lane in &mut state.lanes {
        lane.owned = !shared.ordered;
        lane.revoking = None;
        lane.look = [now; 2];
    }
    if !shared.ordered {
        let all = (0..shared.lanes.len()).filter_map(|lane| u32::try_from(lane).ok()).collect();
        state.events.push_back(Event::Assigned(all));
    }
    let epoch = state.epoch;
    drop(state);
    shared.news.notify_one();
    Ok(Session { epoch, member, standing: live.standing, blocked: AtomicI64::new(0) })
}

/// Runs sessions until the consumer closes or cannot go on.
pub(crate) async fn run(shared: Arc<Shared>, mut session: Session) {
    loop {
        let end = serve(&shared, &session).await;
        match end {
            End::Stop => {
                leave(&shared, &session).await;
                break;
            }
            End::Failed(cause) => {
                let cause = shared.lanes.first().map(|lane| &lane.topic).into_iter().fold(cause, about);
                shared.lock().failed = Some(cause);
                leave(&shared, &session).await;
                break;
            }
            End::Fenced | End::Lost(_) => {}
        }
        let lost = owned(&shared);
        shared.end_session(session.epoch);
        let disconnected = match end {
            End::Lost(reason) => {
                tracing::debug!(group = shared.group.as_str(), reason, "the session of a consumer is lost");
                shared.tell(Event::Disconnected(reason.into()));
                true
            }
            _ => {
                tracing::warn!(group = shared.group.as_str(), "a consumer was taken for dead, and joins again");
                shared.tell(Event::Lost(lost));
                false
            }
        };
        for lane in &mut shared.lock().lanes {
            lane.owned = false;
            lane.revoking = None;
        }
        let Some(next) = again(&shared, &session.member, disconnected).await else { break };
        session = next;
    }
    let mut state = shared.lock();
    state.epoch = shared.core.epoch();
    state.live = false;
    state.ended = true;
    state.buffer.clear();
    state.out.clear();
    drop(state);
    shared.core.unregister(shared.number);
    shared.news.notify_one();
}

/// True for what waiting mends.
fn passes(cause: &Error) -> bool {
    cause.is_transient() || cause.is_ambiguous()
}

/// Joins again as soon as possible; `None` when the consumer closes or cannot go on.
async fn again(shared: &Arc<Shared>, previous: &str, disconnected: bool) -> Option<Session> {
    loop {
        let joining = async {
            let joined = join(shared, Some(previous)).await;
            if joined.as_ref().is_err_and(passes) {
                tokio::time::sleep(AGAIN).await;
            }
            joined
        };
        let joined = tokio::select! {
            joined = joining => joined,
            () = shared.stop.notified() => return None,
        };
        match joined {
            Ok(session) => {
                if disconnected {
                    // Before the partitions are assigned.
                    shared.lock().events.push_front(Event::Reconnected);
                    sort_reconnected(shared);
                }
                return Some(session);
            }
            Err(cause) if passes(&cause) => {}
            Err(cause) => {
                shared.lock().failed = Some(cause);
                return None;
            }
        }
    }
}

/// `Disconnected` may still be waiting for the owner: `Reconnected` comes behind it, and before `Assigned`.
fn sort_reconnected(shared: &Shared) {
    let mut state = shared.lock();
    let Some(reconnected) = state.events.pop_front() else { return };
    let at = state.events.iter().rposition(|event| matches!(event, Event::Disconnected(_))).map_or(0, |at| at + 1);
    state.events.insert(at, reconnected);
}

fn owned(shared: &Shared) -> Vec<u32> {
    let state = shared.lock();
    let owned = state.lanes.iter().enumerate().filter(|(_, lane)| lane.owned);
    owned.filter_map(|(lane, _)| u32::try_from(lane).ok()).collect()
}

async fn serve(shared: &Arc<Shared>, session: &Session) -> End {
    let reading = reader::read(shared, session);
    let keeping = keeper::keep(shared, session);
    tokio::pin!(reading, keeping);
    loop {
        tokio::select! {
            end = &mut keeping => return end,
            end = &mut reading => return end,
            () = shared.over.notified() => {
                if shared.lock().epoch != session.epoch {
                    return End::Fenced;
                }
            }
            () = shared.core.asking.gone(session.standing) => {
                return End::Lost("the connection is lost".to_owned());
            }
            () = shared.stop.notified() => {
                shared.lock().stopping = true;
                shared.room.notify_one();
                unblock(shared, session).await;
                // What it reads now goes back with the rest.
                let _ = tokio::time::timeout(LAST_READ, &mut reading).await;
                return End::Stop;
            }
        }
    }
}

async fn unblock(shared: &Shared, session: &Session) {
    let id = session.blocked.load(Ordering::Acquire);
    if id > 0 {
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(id);
        // Without the permission the read ends by itself, a little later.
        let _ = shared.core.asking.ask(&command, LAST_READ).await;
    }
}

/// Gives everything back, and the group of a broadcast consumer up.
async fn leave(shared: &Shared, session: &Session) {
    let core = &shared.core;
    let dropped = shared.lock().dropped;
    let mut commands = redis::pipe();
    for lane in 0..shared.lanes.len() {
        if dropped {
            let Some(lane) = shared.lanes.get(lane) else { continue };
            let mut command = script::call(&script::FENCE, &[&lane.keys.members(shared.group.as_str())]);
            command.arg(&session.member);
            commands.add_command(command);
        } else {
            commands.add_command(keeper::leaving(shared, session, lane, true));
        }
    }
    if let Err(cause) = core.asking.ask_many(&commands, core.limit()).await {
        // Others find what it had when its session ends.
        tracing::debug!(%cause, "a consumer could not leave its group");
    }
    if shared.ephemeral {
        let topics: BTreeSet<_> = shared.lanes.iter().map(|lane| &lane.topic).collect();
        for topic in topics {
            let count = shared.lanes.iter().filter(|lane| lane.topic == *topic).count();
            let count = u32::try_from(count).unwrap_or(0);
            if let Err(cause) = groups::delete(core, topic, &shared.group, count).await {
                tracing::warn!(%cause, %topic, "the group of a broadcast consumer is left behind");
            }
        }
    }
}

/// What a script answers behind its state; `None` where the partition is no longer ours, which the keeper looks into.
pub(crate) fn granted(shared: &Shared, answer: redis::Value) -> Result<Option<std::vec::IntoIter<redis::Value>>, End> {
    let mut parts = reply::items(checked(answer)?).into_iter();
    match parts.next().and_then(reply::text).as_deref() {
        Some("ok") => Ok(Some(parts)),
        Some("fenced") => Err(End::Fenced),
        _ => {
            shared.look.notify_one();
            Ok(None)
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
