//! Reading: as many messages as there is room for, no more; blocked while there are none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mq_core::driver::{Incoming, Origin};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::claims;
use crate::error::{checked, within};
use crate::reply::{self, Entry, EntryId};
use crate::script;
use crate::session::{self, End, Session, millis};
use crate::signs::{Sign, Signs};
use crate::state::{INBOX, Shared};
use crate::wire::{self, Place, Told};

/// How long a read of a shared group waits at the broker.
const BLOCK: Duration = Duration::from_millis(500);
/// How long a busy consumer may leave the inboxes alone: they are nearly always empty, and half of a read's streams.
const INBOXES: Duration = Duration::from_millis(100);
/// How long a busy consumer lets room gather, so that a small window is not read one message at a time.
const GATHER: Duration = Duration::from_millis(1);
/// How long the owner of partitions waits before it looks for what is due.
const BLOCK_ORDERED: Duration = Duration::from_millis(100);

/// Reads until the session ends.
pub(crate) async fn read(shared: &Arc<Shared>, session: &Session) -> End {
    let each = shared.ordered || shared.core.asking.is_cluster();
    let ended = if each { read_each(shared, session).await } else { read_shared(shared, session).await };
    // It ends well only when the consumer stops, which waits for it.
    ended.err().unwrap_or(End::Stop)
}

/// Waits for room; `None` when the consumer stops.
async fn space(shared: &Shared) -> Option<usize> {
    loop {
        let freed = shared.room.notified();
        {
            let state = shared.lock();
            if state.stopping {
                return None;
            }
            match shared.space(&state) {
                0 => {}
                space => return Some(space),
            }
        }
        freed.await;
    }
}

/// Waits a moment for room for half of the window.
async fn gather(shared: &Shared, space: usize) -> usize {
    let mut space = space;
    let mut over = std::pin::pin!(tokio::time::sleep(GATHER));
    while space < shared.prefetch.div_ceil(2) {
        let freed = shared.room.notified();
        tokio::select! {
            biased;
            () = &mut over => break,
            () = freed => {}
        }
        space = shared.space(&shared.lock());
    }
    space
}

async fn connect(shared: &Shared, session: &Session) -> Result<MultiplexedConnection, End> {
    let first = shared.lanes.first().map(|lane| lane.keys.stream.as_str()).unwrap_or_default();
    let mut connection = shared.core.asking.another(first).await?;
    let mut command = redis::cmd("CLIENT");
    command.arg("ID");
    if let Ok(id) = within(shared.core.limit(), connection.send_packed_command(&command)).await {
        session.blocked.store(reply::number(&id).unwrap_or(0), Ordering::Release);
    }
    Ok(connection)
}

async fn ask(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    wait: Duration,
) -> Result<Value, End> {
    let limit = wait + shared.core.config.session;
    Ok(checked(within(limit, connection.send_packed_command(command)).await?)?)
}

async fn read_shared(shared: &Shared, session: &Session) -> Result<(), End> {
    let mut connection = connect(shared, session).await?;
    let group = shared.group.as_str();
    let own: Vec<(u32, bool, String)> =
        (0..).zip(&shared.lanes).map(|(number, lane)| (number, false, lane.stream(group, false))).collect();
    // Each lane's inbox before its stream.
    let streams: Vec<(u32, bool, String)> = (0..)
        .zip(&shared.lanes)
        .flat_map(|(number, lane)| [true, false].map(|inbox| (number, inbox, lane.stream(group, inbox))))
        .collect();
    let places: HashMap<&[u8], (u32, bool)> =
        streams.iter().map(|(lane, inbox, name)| (name.as_bytes(), (*lane, *inbox))).collect();
    let (mut turn, mut own_turn) = (0, 0);
    let (mut busy, mut inboxes) = (false, Instant::now());
    while let Some(space) = space(shared).await {
        if busy && inboxes.elapsed() < INBOXES {
            let space = gather(shared, space).await;
            let width = space.min(own.len());
            if width == 0 {
                continue;
            }
            let window = own.iter().cycle().skip(own_turn).take(width);
            own_turn = (own_turn + width) % own.len();
            let command = group_read(shared, session, space / width, None, window);
            let answer = ask(shared, &mut connection, &command, Duration::ZERO).await?;
            busy = take(shared, session, &places, answer) > 0;
            if busy {
                continue;
            }
        }
        // Nothing was read since there was room: it is still there, unless the consumer was paused.
        inboxes = Instant::now();
        let width = space.min(streams.len());
        let count = (space / width.max(1)).max(1);
        let mut found = false;
        if width < streams.len() {
            // Little room: some streams at a time, so that no more is taken than there is room for.
            for _ in 0..streams.len().div_ceil(width) {
                let window = streams.iter().cycle().skip(turn).take(width);
                turn = (turn + width) % streams.len();
                let command = group_read(shared, session, count, None, window);
                let answer = ask(shared, &mut connection, &command, Duration::ZERO).await?;
                found = take(shared, session, &places, answer) > 0;
                if found {
                    break;
                }
            }
        }
        if !found {
            let count = if width < streams.len() { 1 } else { count };
            let command = group_read(shared, session, count, Some(BLOCK), streams.iter());
            let answer = ask(shared, &mut connection, &command, BLOCK).await?;
            found = take(shared, session, &places, answer) > 0;
        }
        busy = found;
    }
    Ok(())
}

fn group_read<'s>(
    shared: &Shared,
    session: &Session,
    count: usize,
    block: Option<Duration>,
    streams: impl Iterator<Item = &'s (u32, bool, String)> + Clone,
) -> Cmd {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(shared.group.as_str()).arg(&session.member).arg("COUNT").arg(count);
    if let Some(block) = block {
        command.arg("BLOCK").arg(millis(block));
    }
    command.arg("STREAMS");
    for (_, _, name) in streams.clone() {
        command.arg(name);
    }
    for _ in streams {
        command.arg(">");
    }
    command
}

fn take(shared: &Shared, session: &Session, places: &HashMap<&[u8], (u32, bool)>, answer: Value) -> usize {
    let mut incoming = Vec::new();
    for (name, entries) in reply::streams(answer) {
        let Some((lane, inbox)) = places.get(&*name).copied() else { continue };
        incoming.extend(entries.into_iter().filter_map(|entry| fresh(shared, session, lane, inbox, entry)));
    }
    let count = incoming.len();
    shared.deliver(session.epoch, incoming);
    count
}

fn fresh(shared: &Shared, session: &Session, lane: u32, inbox: bool, entry: Entry) -> Option<(Incoming, bool)> {
    incoming(shared, session, lane, inbox, entry, 1, bytes::Bytes::new())
}

/// An entry as a delivery of this session, and whether it has a record of attempts.
pub(crate) fn incoming(
    shared: &Shared,
    session: &Session,
    number: u32,
    inbox: bool,
    entry: Entry,
    deliveries: u32,
    attempts: bytes::Bytes,
) -> Option<(Incoming, bool)> {
    let lane = shared.lane(number)?;
    let place = Place { topic: &lane.topic, partition: lane.partition, inbox };
    let recorded = !attempts.is_empty();
    let told = Told { epoch: session.epoch, lane: number, deliveries, attempts, group: shared.group.as_str() };
    let mut incoming = wire::incoming(place, entry, &told);
    if inbox {
        incoming.token.minor |= INBOX;
    } else if shared.ordered && incoming.origin == Origin::Retry {
        // Held, not sent through the broker: the core lets it rest until it is due, and its followers with it.
        incoming.origin = Origin::Topic;
        incoming.control.group = None;
    }
    Some((incoming, recorded))
}

/// Each partition by itself: those this consumer owns, or on a cluster, where one read reaches one slot, all.
async fn read_each(shared: &Arc<Shared>, session: &Session) -> Result<(), End> {
    let mut waiting = Waiting::open(shared, session).await?;
    let mut turn = 0;
    while let Some(space) = space(shared).await {
        let lanes: Vec<u32> = {
            let state = shared.lock();
            let mine = (0..).zip(&state.lanes).filter(|(_, lane)| lane.owned && lane.revoking.is_none());
            mine.map(|(number, _)| number).collect()
        };
        if lanes.is_empty() {
            let _ = tokio::time::timeout(BLOCK_ORDERED, shared.room.notified()).await;
            continue;
        }
        let (lanes, space) = if shared.ordered {
            // What was out before comes before what is new.
            claims::claim(shared, session).await?;
            let (state, now) = (shared.lock(), Instant::now());
            if shared.space(&state) == 0 {
                continue;
            }
            // Not where there was no room to look for it.
            let looked = |number: &u32| {
                let lane = state.lanes.get(usize::try_from(*number).unwrap_or(usize::MAX));
                lane.is_some_and(|lane| lane.owned && lane.look.iter().all(|look| *look > now))
            };
            (lanes.into_iter().filter(looked).collect::<Vec<_>>(), shared.space(&state).min(space).max(1))
        } else {
            (lanes, space)
        };
        if lanes.is_empty() {
            continue;
        }
        let width = space.min(lanes.len());
        let mut found = false;
        for _ in 0..lanes.len().div_ceil(width) {
            let window: Vec<u32> = lanes.iter().cycle().skip(turn % lanes.len()).take(width).copied().collect();
            turn = (turn + width) % lanes.len();
            found = read_window(shared, session, &window, space / width).await?;
            if found {
                break;
            }
        }
        if !found {
            waiting.wait(shared, &lanes).await?;
        }
    }
    Ok(())
}

async fn read_window(shared: &Shared, session: &Session, window: &[u32], count: usize) -> Result<bool, End> {
    let group = shared.group.as_str();
    let mut commands = redis::pipe();
    for number in window {
        let Some(lane) = shared.lane(*number) else { continue };
        let keys = [lane.keys.stream.clone(), lane.keys.inbox(group), lane.keys.members(group), lane.keys.owner(group)];
        let mut command = script::call(&script::READ, &[&keys[0], &keys[1], &keys[2], &keys[3]]);
        command.arg(&session.member).arg(group).arg(count).arg(u8::from(shared.ordered));
        commands.add_command(command);
    }
    let answers = shared.core.asking.ask_many(&commands, shared.core.limit()).await?;
    let mut found = Vec::new();
    for (number, answer) in window.iter().zip(answers) {
        let Some(mut parts) = session::granted(shared, answer)? else { continue };
        let new = reply::entries(parts.next().unwrap_or(Value::Nil));
        let back = reply::entries(parts.next().unwrap_or(Value::Nil));
        let mut end = || parts.next().and_then(reply::bytes).and_then(|id| EntryId::parse(&id));
        if let (Some(stream), Some(inbox)) = (end(), end())
            && let Some(lane) = shared.lock().lane(*number)
        {
            lane.ends = [stream, inbox];
        }
        found.extend(back.into_iter().filter_map(|entry| fresh(shared, session, *number, true, entry)));
        found.extend(new.into_iter().filter_map(|entry| fresh(shared, session, *number, false, entry)));
    }
    let any = !found.is_empty();
    shared.deliver(session.epoch, found);
    Ok(any)
}

/// How it is learnt that there may be something: reading without the group is only a sign, and fences nobody out.
enum Waiting {
    /// One read for all partitions.
    Together(MultiplexedConnection),
    /// One for each, on a cluster.
    Apart(Signs),
}

impl Waiting {
    async fn open(shared: &Shared, session: &Session) -> Result<Self, End> {
        if shared.core.asking.is_cluster() {
            return Ok(Self::Apart(Signs::default()));
        }
        Ok(Self::Together(connect(shared, session).await?))
    }

    async fn wait(&mut self, shared: &Shared, lanes: &[u32]) -> Result<(), End> {
        let group = shared.group.as_str();
        let mut signs = Vec::new();
        let now = Instant::now();
        let mut until = now + if shared.ordered { BLOCK_ORDERED } else { BLOCK };
        {
            let mut state = shared.lock();
            for number in lanes {
                let Some(lane) = shared.lane(*number) else { continue };
                let Some(known) = state.lane(*number) else { continue };
                let [stream, inbox] = known.ends;
                let after =
                    [(lane.stream(group, false), stream.to_string()), (lane.stream(group, true), inbox.to_string())];
                signs.push(Sign { lane: *number, after });
                if shared.ordered {
                    until = known.look.iter().copied().fold(until, Instant::min);
                }
            }
        }
        let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
        match self {
            Self::Together(connection) => {
                let (names, ids): (Vec<String>, Vec<String>) = signs.into_iter().flat_map(|sign| sign.after).unzip();
                let mut command = redis::cmd("XREAD");
                command.arg("COUNT").arg(1).arg("BLOCK").arg(millis(wait)).arg("STREAMS").arg(names).arg(ids);
                ask(shared, connection, &command, wait).await.map(drop)
            }
            Self::Apart(known) => {
                let stop = shared.room.notified();
                let limit = shared.core.config.session;
                tokio::select! {
                    waited = known.wait(&shared.core.asking, signs, wait, limit) => Ok(waited?),
                    // Also that the consumer stops.
                    () = stop => Ok(()),
                }
            }
        }
    }
}
