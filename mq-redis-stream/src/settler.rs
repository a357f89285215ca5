//! Settling: a batch is one pipeline, its acknowledgements one script for each stream.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_core::driver::{DeadLettering, Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Headers, control};
use redis::{Cmd, Pipeline, Value};

use crate::error::{checked, copy, error, unexpected};
use crate::state::{INBOX, Out, Shared, State, key};
use crate::{reply, script, wire};

/// A script's `unpack` takes some thousands of values.
const ACKS: usize = 1_000;

#[derive(Debug)]
pub(crate) struct RedisSettler {
    pub(crate) shared: Arc<Shared>,
}

/// One command of a batch, and which settlements it answers.
struct Step {
    of: Vec<usize>,
    action: Action,
    lane: u32,
    inbox: bool,
}

/// What a batch asks of the broker.
struct Plan {
    epoch: u32,
    member: String,
    steps: Vec<Step>,
    commands: Pipeline,
    /// Which delivery each settlement is of.
    deliveries: Vec<Option<u64>>,
}

/// The acknowledgements of one stream: its lane, whether it is the inbox, and each with its place in the batch.
type Acks = (u32, bool, Vec<(usize, Token, Out)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Ack,
    Park,
    Hold,
    Dead,
}

#[async_trait]
impl SettlerDriver for RedisSettler {
    async fn settle(&self, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let batch: Vec<Settlement> = std::mem::take(batch);
        let mut results: Vec<Result<Settled>> = batch.iter().map(|_| Ok(Settled::Stale)).collect();
        let Plan { epoch, member, steps, commands, deliveries } = self.plan(&batch, &mut results);
        if steps.is_empty() {
            return results;
        }
        let core = &self.shared.core;
        match core.asking.ask_many(&commands, core.config.send_timeout).await {
            Err(cause) => {
                for step in &steps {
                    for at in &step.of {
                        results[*at] = Err(copy(&cause).with_operation("settle"));
                    }
                }
            }
            Ok(answers) => {
                for (step, answer) in steps.iter().zip(answers) {
                    let outcome = self.outcome(epoch, &member, step, &batch, answer).await;
                    for at in &step.of {
                        results[*at] = match &outcome {
                            Ok(settled) => Ok(*settled),
                            Err(cause) => Err(copy(cause).with_operation("settle")),
                        };
                    }
                }
                self.note(epoch, &batch, &deliveries, &results);
            }
        }
        results
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        // Every settlement is confirmed by the broker before its call returns.
        Ok(())
    }
}

impl RedisSettler {
    fn plan(&self, batch: &[Settlement], results: &mut [Result<Settled>]) -> Plan {
        let shared = &self.shared;
        let mut commands = redis::pipe();
        let mut steps: Vec<Step> = Vec::new();
        let mut acks: Vec<Acks> = Vec::new();
        let mut deliveries = vec![None; batch.len()];
        let state = shared.lock();
        let (epoch, member) = (state.epoch, state.member.clone());
        for (at, Settlement { token, action }) in batch.iter().enumerate() {
            let Some(out) = state.out.get(&key(*token)).filter(|_| token.epoch == epoch && state.live).copied() else {
                if shared.auto_ack && token.epoch == epoch && matches!(action, Settle::Ack) {
                    results[at] = Ok(Settled::Durable);
                }
                continue;
            };
            if let Some(delivery) = deliveries.get_mut(at) {
                *delivery = Some(out.number);
            }
            let inbox = token.minor & INBOX != 0;
            let Some(command) = self.command(&member, *token, inbox, action) else {
                match action {
                    Settle::Ack => match acks
                        .iter_mut()
                        .find(|(lane, of, list)| (*lane, *of) == (token.lane, inbox) && list.len() < ACKS)
                    {
                        Some((_, _, list)) => list.push((at, *token, out)),
                        None => acks.push((token.lane, inbox, vec![(at, *token, out)])),
                    },
                    // The session is the lease.
                    _ => results[at] = Ok(Settled::Durable),
                }
                continue;
            };
            let action = match action {
                Settle::Hold(_) => Action::Hold,
                Settle::DeadLetter(_) => Action::Dead,
                _ => Action::Park,
            };
            commands.add_command(command);
            steps.push(Step { of: vec![at], action, lane: token.lane, inbox });
        }
        drop(state);
        for (lane, inbox, mut list) in acks {
            let Some(of) = shared.lane(lane) else { continue };
            // Those with a record first.
            list.sort_by_key(|(_, _, out)| !out.recorded);
            let group = shared.group.as_str();
            let (stream, attempts) = (of.stream(group, inbox), of.keys.attempts(group, inbox));
            let (members, owner) = (of.keys.members(group), of.keys.owner(group));
            let mut command = script::call(&script::ACK, &[&stream, &attempts, &members, &owner]);
            command.arg(&member).arg(group).arg(u8::from(shared.ordered));
            command.arg(list.iter().filter(|(_, _, out)| out.recorded).count());
            let mut id = String::new();
            for (_, token, _) in &list {
                id.clear();
                // Into a string: it cannot fail.
                let _ = write!(id, "{}", wire::entry_id(*token));
                command.arg(&id);
            }
            commands.add_command(command);
            let of = list.into_iter().map(|(at, _, _)| at).collect();
            steps.push(Step { of, action: Action::Ack, lane, inbox });
        }
        Plan { epoch, member, steps, commands, deliveries }
    }

    /// What settles this one alone; acknowledgements go together.
    fn command(&self, member: &str, token: Token, inbox: bool, action: &Settle) -> Option<Cmd> {
        if matches!(action, Settle::Ack | Settle::Extend(_)) {
            return None;
        }
        let lane = self.shared.lane(token.lane)?;
        let group = self.shared.group.as_str();
        let stream = lane.stream(group, inbox);
        let (waiting, attempts) = (lane.keys.waiting(group, inbox), lane.keys.attempts(group, inbox));
        let members = lane.keys.members(group);
        let id = wire::entry_id(token).to_string();
        let park = |due: &str, blame: u8, record: &str| {
            let mut command = script::call(&script::PARK, &[&stream, &waiting, &attempts, &members]);
            command.arg(member).arg(group).arg(&id).arg(due).arg(blame).arg(record);
            Some(command)
        };
        match action {
            Settle::Ack | Settle::Extend(_) => None,
            Settle::Requeue => park("0", 1, ""),
            Settle::Release => park("0", 0, ""),
            Settle::Retry(retry) => {
                let due = String::from_utf8_lossy(&control::from_time(retry.due)).into_owned();
                park(&due, 0, &wire::attempt_record(retry.attempt, Some(retry.due), retry.first_failed))
            }
            Settle::Hold(hold) => {
                let mut command = script::call(&script::HOLD, &[&stream, &attempts, &members]);
                command.arg(member).arg(group).arg(&id);
                command.arg(wire::attempt_record(hold.attempt, Some(hold.due), None));
                Some(command)
            }
            Settle::DeadLetter(dead) => {
                let letters = lane.keys.dead_letters(group);
                let record = record(dead);
                let mut command = script::call(&script::DEAD, &[&stream, &attempts, &members, &letters]);
                command.arg(member).arg(group).arg(&id).arg(u8::from(inbox)).arg(record.len());
                for (name, value) in record.iter() {
                    command.arg(&name[..]).arg(&value[..]);
                }
                Some(command)
            }
        }
    }

    async fn outcome(
        &self,
        epoch: u32,
        member: &str,
        step: &Step,
        batch: &[Settlement],
        answer: Value,
    ) -> Result<Settled> {
        let number = reply::number(&checked(answer)?).ok_or_else(|| unexpected("a settlement"))?;
        match (step.action, number) {
            (_, -1) => {
                self.shared.end_session(epoch);
                Ok(Settled::Stale)
            }
            (_, -2) => {
                self.shared.look.notify_one();
                Ok(Settled::Stale)
            }
            (Action::Ack, 0) => Ok(Settled::Stale),
            (Action::Ack, _) => Ok(Settled::Durable),
            (Action::Dead, 2) => self.dead_from_memory(member, step, batch).await,
            (_, 1) => Ok(Settled::Durable),
            _ => Ok(Settled::Stale),
        }
    }

    /// The stream no longer has the entry: the dead letter is made of what we have.
    async fn dead_from_memory(&self, member: &str, step: &Step, batch: &[Settlement]) -> Result<Settled> {
        let settlement = step.of.first().and_then(|at| batch.get(*at));
        let (Some(Settlement { token, action: Settle::DeadLetter(dead) }), Some(lane)) =
            (settlement, self.shared.lane(step.lane))
        else {
            return Err(error(ErrorKind::Internal, "a dead letter without a message"));
        };
        let _ = member;
        let group = self.shared.group.as_str();
        let record = record(dead);
        let mut store = redis::cmd("XADD");
        store.arg(lane.keys.dead_letters(group)).arg("*").arg(wire::RECORD).arg(record.len());
        for (name, value) in record.iter() {
            store.arg(&name[..]).arg(&value[..]);
        }
        wire::encode(&dead.message, &mut store)?;
        let mut ack = redis::cmd("XACK");
        ack.arg(lane.stream(group, step.inbox)).arg(group).arg(wire::entry_id(*token).to_string());
        let mut commands = redis::pipe();
        commands.add_command(store).add_command(ack);
        let core = &self.shared.core;
        for answer in core.asking.ask_many(&commands, core.config.send_timeout).await? {
            checked(answer)?;
        }
        Ok(Settled::Durable)
    }

    /// Remembers what is settled, held, or soon due.
    fn note(&self, epoch: u32, batch: &[Settlement], deliveries: &[Option<u64>], results: &[Result<Settled>]) {
        let mut state = self.shared.lock();
        if state.epoch != epoch {
            return;
        }
        let mut look = false;
        for ((Settlement { token, action }, delivery), result) in batch.iter().zip(deliveries).zip(results) {
            let Ok(settled) = result else { continue };
            let State { out, held, .. } = &mut *state;
            // It may be here again already.
            let same = out.get_mut(&key(*token)).filter(|out| Some(out.number) == *delivery);
            match (action, same) {
                (Settle::Extend(_), _) => continue,
                (Settle::Hold(_), same) if *settled == Settled::Durable => {
                    if let Some(out) = same {
                        *held += usize::from(!out.held);
                        *out = Out { held: true, recorded: true, ..*out };
                    }
                    continue;
                }
                (_, Some(_)) => state.settled(*token),
                (_, None) => {}
            }
            let due = match action {
                Settle::Requeue | Settle::Release => Duration::ZERO,
                Settle::Retry(retry) => retry.due.duration_since(std::time::SystemTime::now()).unwrap_or_default(),
                _ => continue,
            };
            let at = tokio::time::Instant::now() + due.min(Duration::from_secs(3600));
            let inbox = usize::from(token.minor & INBOX != 0);
            if let Some(lane) = state.lane(token.lane) {
                lane.look[inbox] = lane.look[inbox].min(at);
                look = true;
            }
        }
        drop(state);
        self.shared.room.notify_one();
        if look {
            self.shared.look.notify_one();
        }
    }
}

/// What is recorded beside a dead letter.
fn record(dead: &DeadLettering) -> Headers {
    let mut record = dead.record.to_headers(&dead.message, 64 * 1024);
    if let Some(id) = dead.message.message_id() {
        record.append(control::ID, id.text().clone().into_bytes());
    }
    record
}
