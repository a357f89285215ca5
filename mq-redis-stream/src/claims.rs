//! Taking what is due, and what the dead held.

use std::time::Duration;

use tokio::time::Instant;

use crate::reader;
use crate::reply::{self, Entry};
use crate::script;
use crate::session::{self, End, Session, millis};
use crate::state::Shared;

/// The longest pause between two looks for what the dead held.
const LOOK: Duration = Duration::from_secs(1);

/// Looks where it is time to.
pub(crate) async fn claim(shared: &Shared, session: &Session) -> Result<(), End> {
    let group = shared.group.as_str();
    let mut commands = redis::pipe();
    let mut asked = Vec::new();
    {
        let state = shared.lock();
        let mut space = shared.space(&state);
        let now = Instant::now();
        let owned = (0_u32..).zip(&state.lanes).filter(|(_, lane)| lane.owned && lane.revoking.is_none());
        let due = owned.flat_map(|(number, lane)| [(number, false, lane.look[0]), (number, true, lane.look[1])]);
        let due: Vec<_> = due.filter(|(_, _, look)| *look <= now).collect();
        let mut left = due.len();
        for (number, inbox, _) in due {
            let Some(lane) = shared.lane(number) else { continue };
            let max = space.div_ceil(left.max(1));
            left = left.saturating_sub(1);
            if max == 0 {
                break;
            }
            space -= max;
            let keys = [
                lane.stream(group, inbox),
                lane.keys.waiting(group, inbox),
                lane.keys.attempts(group, inbox),
                lane.keys.members(group),
                lane.keys.owner(group),
            ];
            let mut command = script::call(&script::CLAIM, &[&keys[0], &keys[1], &keys[2], &keys[3], &keys[4]]);
            command.arg(&session.member).arg(group).arg(max);
            command.arg(millis(shared.core.config.stranger_lease)).arg(u8::from(shared.ordered));
            commands.add_command(command);
            asked.push((number, inbox, max));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let answers = shared.core.asking.ask_many(&commands, shared.core.limit()).await?;
    let mut found = Vec::new();
    for ((number, inbox, max), answer) in asked.into_iter().zip(answers) {
        let Some(mut parts) = session::granted(shared, answer)? else { continue };
        let entries = reply::items(parts.next().unwrap_or(redis::Value::Nil));
        let lost = parts.next().as_ref().and_then(reply::number).unwrap_or(0);
        let wait = parts.next().as_ref().and_then(reply::number).unwrap_or(-1);
        let more = parts.next().as_ref().and_then(reply::number).unwrap_or(0) == 1 || entries.len() >= max;
        if lost > 0 {
            tracing::error!(group, lost, "messages were trimmed or deleted by others before they were settled");
        }
        for entry in entries {
            found.extend(delivery(shared, session, number, inbox, entry));
        }
        let pause = match u64::try_from(wait) {
            _ if more => Duration::ZERO,
            Ok(wait) => LOOK.min(Duration::from_millis(wait)),
            Err(_) => LOOK,
        };
        if let Some(lane) = shared.lock().lane(number) {
            lane.look[usize::from(inbox)] = Instant::now() + pause;
        }
    }
    shared.deliver(session.epoch, found);
    Ok(())
}

/// `{id, fields, deliveries, record of attempts}`.
fn delivery(
    shared: &Shared,
    session: &Session,
    lane: u32,
    inbox: bool,
    value: redis::Value,
) -> Option<(mq_core::driver::Incoming, bool)> {
    let mut parts = reply::items(value).into_iter();
    let id = reply::EntryId::parse(&reply::bytes(parts.next()?)?)?;
    let fields = reply::fields(parts.next()?);
    let deliveries = parts.next().as_ref().and_then(reply::number).and_then(|count| u32::try_from(count).ok());
    let attempts = parts.next().and_then(reply::bytes).unwrap_or_default();
    reader::incoming(shared, session, lane, inbox, Entry { id, fields }, deliveries.unwrap_or(1), attempts)
}
