//! Keeping a session alive: signs of life, ownership of partitions, what is due, and trimming.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mq_core::driver::Event;
use mq_core::error::ErrorKind;
use redis::Cmd;
use tokio::time::Instant;

use crate::error::checked;
use crate::scheduler::{self, move_due};
use crate::session::{End, Session, millis};
use crate::state::Shared;
use crate::{abandoned, claims, groups, reply, script};

/// In ordered groups: how soon a new member gets its share.
const SHARE: Duration = Duration::from_millis(250);
/// Between two trims of what is older than its retention.
const TRIM: Duration = Duration::from_secs(60);

/// Runs until the session ends.
pub(crate) async fn keep(shared: &Arc<Shared>, session: &Session) -> End {
    match keep_alive(shared, session).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

enum Never {}

async fn keep_alive(shared: &Arc<Shared>, session: &Session) -> Result<Never, End> {
    let config = &shared.core.config;
    let pause = if shared.ordered { SHARE.min(config.session / 3) } else { config.session / 3 };
    let now = Instant::now();
    let (mut next_beat, mut next_move, mut next_trim) = (now, now, now);
    let partitions: Vec<_> = shared.lanes.iter().map(|lane| lane.keys.clone()).collect();
    loop {
        let now = Instant::now();
        if now >= next_beat {
            beat(shared, session).await?;
            next_beat = now + pause;
        }
        give_up_drained(shared, session).await?;
        if !shared.ordered {
            claims::claim(shared, session).await?;
        }
        if now >= next_move {
            let (_, more) = move_due(&shared.core, &partitions).await?;
            next_move = if more { now } else { now + scheduler::LOOK };
        }
        if now >= next_trim {
            trim(shared).await?;
            next_trim = now + TRIM;
        }
        let mut until = next_beat.min(next_move);
        if !shared.ordered {
            let state = shared.lock();
            if shared.space(&state) > 0 {
                until = state.lanes.iter().flat_map(|lane| lane.look).fold(until, Instant::min);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = shared.look.notified() => if shared.ordered && revoking(shared) { next_beat = Instant::now() },
        }
    }
}

fn revoking(shared: &Shared) -> bool {
    shared.lock().lanes.iter().any(|lane| lane.revoking.is_some())
}

async fn beat(shared: &Shared, session: &Session) -> Result<(), End> {
    let group = shared.group.as_str();
    let mut commands = redis::pipe();
    for lane in &shared.lanes {
        let mut command = script::call(&script::BEAT, &[&lane.keys.members(group), &lane.keys.owner(group)]);
        command.arg(&session.member).arg(millis(shared.core.config.session));
        command.arg(u8::from(shared.ordered)).arg(lane.partition).arg(0);
        commands.add_command(command);
    }
    let limit = shared.core.config.session;
    let answers = shared.core.asking.ask_many(&commands, limit).await?;
    let (mut assigned, mut revoked, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let mut state = shared.lock();
    let now = Instant::now();
    let number = state.revocations + 1;
    for (at, answer) in answers.into_iter().enumerate() {
        let text = reply::items(checked(answer)?).into_iter().next().and_then(reply::text);
        let (Ok(number_of_lane), Some(lane)) = (u32::try_from(at), state.lanes.get_mut(at)) else { continue };
        match text.as_deref() {
            Some("fenced") => return Err(End::Fenced),
            Some("own") if !lane.owned => {
                lane.owned = true;
                lane.look = [now; 2];
                assigned.push(number_of_lane);
            }
            Some("yield") if lane.owned && lane.revoking.is_none() => {
                lane.revoking = Some((number, now + shared.drain, false));
                revoked.push(number_of_lane);
            }
            Some("ok") if shared.ordered && lane.owned => {
                lane.owned = false;
                lane.revoking = None;
                lost.push(number_of_lane);
            }
            _ => {}
        }
    }
    for lane in &revoked {
        state.clear_lane(*lane, true);
    }
    for lane in &lost {
        state.clear_lane(*lane, false);
    }
    if !assigned.is_empty() {
        state.events.push_back(Event::Assigned(assigned));
    }
    if !revoked.is_empty() {
        state.revocations = number;
        state.events.push_back(Event::Revoking(number, revoked));
    }
    if !lost.is_empty() {
        state.events.push_back(Event::Lost(lost));
    }
    drop(state);
    shared.news.notify_one();
    shared.room.notify_one();
    Ok(())
}

/// Lets go of the partitions whose messages are done, or late.
async fn give_up_drained(shared: &Shared, session: &Session) -> Result<(), End> {
    let now = Instant::now();
    let done: Vec<usize> = {
        let mut state = shared.lock();
        let done: Vec<usize> = state
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.revoking.is_some_and(|(_, deadline, drained)| drained || now >= deadline))
            .map(|(at, _)| at)
            .collect();
        let mut late = Vec::new();
        for at in &done {
            if let Some(lane) = state.lanes.get_mut(*at) {
                lane.owned = false;
                lane.revoking = None;
            }
            let Ok(lane) = u32::try_from(*at) else { continue };
            if state.clear_lane(lane, false) {
                late.push(lane);
            }
        }
        if !late.is_empty() {
            state.events.push_back(Event::Lost(late));
        }
        done
    };
    if done.is_empty() {
        return Ok(());
    }
    shared.news.notify_one();
    let mut commands = redis::pipe();
    for lane in done {
        commands.add_command(leaving(shared, session, lane, false));
    }
    for answer in shared.core.asking.ask_many(&commands, shared.core.limit()).await? {
        if reply::number(&checked(answer)?) == Some(-1) {
            return Err(End::Fenced);
        }
    }
    shared.room.notify_one();
    Ok(())
}

/// Gives a partition back.
pub(crate) fn leaving(shared: &Shared, session: &Session, lane: usize, for_good: bool) -> Cmd {
    let group = shared.group.as_str();
    let keys = shared.lanes.get(lane).map(|lane| {
        let keys = &lane.keys;
        [
            keys.stream.clone(),
            keys.waiting(group, false),
            keys.inbox(group),
            keys.waiting(group, true),
            keys.members(group),
            keys.owner(group),
        ]
    });
    let keys = keys.unwrap_or_default();
    let named: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut command = script::call(&script::LEAVE, &named);
    command.arg(&session.member).arg(group).arg(u8::from(shared.ordered)).arg(u8::from(for_good));
    command
}

/// Trims what is older than its topic's retention, and settled by every group that somebody may still read.
async fn trim(shared: &Shared) -> Result<(), End> {
    let core = &shared.core;
    for lane in &shared.lanes {
        match abandoned::remove(core, &lane.topic, &lane.keys).await {
            // Others may do it.
            Err(cause) if cause.kind() == ErrorKind::Auth => tracing::debug!(%cause, "old groups stay"),
            removed => removed?,
        }
    }
    for lane in shared.lanes.iter().filter(|lane| !lane.topic.is_foreign()) {
        let mut ask = redis::cmd("HGET");
        ask.arg(core.topic_key(&lane.topic)).arg("retention");
        let Some(retention) = reply::number(&core.ask(&ask).await?).and_then(|millis| u64::try_from(millis).ok())
        else {
            continue;
        };
        let Some(oldest) = SystemTime::now().checked_sub(Duration::from_millis(retention)) else { continue };
        let mut command = script::call(&script::TRIM, &[&lane.keys.stream]);
        command.arg(groups::before(oldest).to_string());
        core.ask(&command).await?;
    }
    Ok(())
}
