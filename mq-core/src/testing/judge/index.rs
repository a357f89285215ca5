//! The history, sorted by what the rules ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use bytestring::ByteString;

use crate::driver::{Settled, Token};
use crate::memory::SettledHow;
use crate::testing::fault::Fault;
use crate::testing::history::{Delivered, Event, Intent, Life, RunEnd, What};
use crate::testing::member::Traits;
use crate::testing::run::Facts;

/// A delivery, and when it came.
pub(super) struct Delivery<'a> {
    pub(super) event: usize,
    pub(super) life: Life,
    pub(super) what: &'a Delivered,
}

/// A run of the handler.
pub(super) struct Run<'a> {
    pub(super) number: u64,
    pub(super) event: usize,
    pub(super) at: Duration,
    pub(super) life: Life,
    pub(super) attempt: u32,
    pub(super) delivery: &'a Delivered,
    /// The event of its delivery.
    pub(super) delivered: usize,
    pub(super) ended: Option<(usize, RunEnd)>,
    /// The process crashed under it.
    pub(super) crashed: bool,
    /// It may be that a message it sent was not confirmed: then it counts as a failure, whatever the handler said.
    pub(super) in_doubt: bool,
}

impl Run<'_> {
    pub(super) fn is_success(&self) -> bool {
        self.ended.is_some_and(|(_, end)| end.is_success())
    }

    pub(super) fn end_event(&self) -> usize {
        self.ended.map_or(usize::MAX, |(event, _)| event)
    }
}

/// A settlement.
pub(super) struct Settlement<'a> {
    pub(super) event: usize,
    pub(super) life: Life,
    pub(super) token: Token,
    pub(super) how: SettledHow,
    pub(super) intent: Intent,
    pub(super) answer: Option<(usize, &'a Result<Settled, String>)>,
}

impl Settlement<'_> {
    pub(super) fn is_durable(&self) -> bool {
        matches!(self.answer, Some((_, Ok(Settled::Durable))))
    }

    pub(super) fn failed(&self) -> bool {
        matches!(self.answer, Some((_, Err(_))))
    }
}

/// Everything about one message in one service.
#[derive(Default)]
pub(super) struct Story<'a> {
    pub(super) deliveries: Vec<Delivery<'a>>,
    pub(super) runs: Vec<Run<'a>>,
    pub(super) settlements: Vec<Settlement<'a>>,
    /// Claims at a guard: event, guard, redrives, answer.
    pub(super) claims: Vec<(usize, Life, usize, u32, &'a str)>,
    /// Completions: event, guard, redrives, and whether the guard has confirmed it.
    pub(super) completions: Vec<(usize, usize, u32, bool)>,
}

/// Event, whose, and of which partitions; everybody's and all without.
type SessionEnd<'a> = (usize, Option<Life>, Option<&'a [u32]>);
/// A token that can be sorted.
type Order = (u32, u32, u64, u64);

pub(super) struct Index<'a> {
    pub(super) events: &'a [Event],
    pub(super) facts: &'a Facts,
    pub(super) stories: BTreeMap<(usize, ByteString), Story<'a>>,
    /// Ends of sessions: event, whose (everybody's when `None`), of which partitions (all when `None`).
    ends: Vec<SessionEnd<'a>>,
    /// When the members of a group changed, which moves partitions: event, service.
    changes: Vec<(usize, usize)>,
    /// When the broker did not answer.
    pub(super) stalls: Vec<(Duration, Duration)>,
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event], facts: &'a Facts) -> Self {
        let mut index =
            Self { events, facts, stories: BTreeMap::new(), ends: Vec::new(), changes: Vec::new(), stalls: Vec::new() };
        let mut tokens: BTreeMap<(Life, Order), (usize, &'a Delivered)> = BTreeMap::new();
        for (number, event) in events.iter().enumerate() {
            if let What::Fault(fault) = &event.what {
                match fault {
                    Fault::Disconnect { .. } | Fault::Evict => index.ends.push((number, None, None)),
                    Fault::Stall { lasts } => index.stalls.push((event.at, event.at + *lasts)),
                    _ => {}
                }
                if matches!(fault, Fault::Evict) {
                    index.changes.extend((0..facts.services.len()).map(|service| (number, service)));
                }
            }
            let Some(life) = event.life else { continue };
            match &event.what {
                What::Delivered(delivered) => {
                    tokens.insert((life, order(delivered.token)), (number, delivered));
                    let story = index.story(life, &delivered.id);
                    story.deliveries.push(Delivery { event: number, life, what: delivered });
                }
                What::Running { run, token, id, attempt } => {
                    let Some((delivered, delivery)) = tokens.get(&(life, order(*token))).copied() else { continue };
                    let (at, attempt) = (event.at, *attempt);
                    index.story(life, id).runs.push(Run {
                        number: *run,
                        event: number,
                        at,
                        life,
                        attempt,
                        delivery,
                        delivered,
                        ended: None,
                        crashed: false,
                        in_doubt: false,
                    });
                }
                What::RanTo { run, id, end } => {
                    let ended = index.story(life, id).runs.iter_mut().find(|open| open.number == *run);
                    if let Some(run) = ended {
                        run.ended = Some((number, *end));
                    }
                }
                What::Settling { token, id, how, intent } => {
                    let (token, how, intent) = (*token, *how, *intent);
                    let settlement = Settlement { event: number, life, token, how, intent, answer: None };
                    index.story(life, id).settlements.push(settlement);
                }
                What::Settled { token, id, how, result } => {
                    let asked = |one: &&mut Settlement<'_>| {
                        one.life == life && one.token == *token && one.how == *how && one.answer.is_none()
                    };
                    if let Some(settlement) = index.story(life, id).settlements.iter_mut().find(asked) {
                        settlement.answer = Some((number, result));
                    }
                }
                What::Claimed { guard, id, redrives, answer } => {
                    index.story(life, id).claims.push((number, life, *guard, *redrives, answer));
                }
                What::Completing { guard, id, redrives } => {
                    index.story(life, id).completions.push((number, *guard, *redrives, false));
                }
                What::Completed { guard, id, redrives, ok } => {
                    index.story(life, id).completions.push((number, *guard, *redrives, *ok));
                }
                What::FollowUp { error: Some(_), .. } => index.doubt(life),
                What::Crashed { .. } => {
                    index.ends.push((number, Some(life), None));
                    index.cut_off(life, number);
                }
                What::Ended { error } => {
                    if error.is_some() {
                        index.ends.push((number, Some(life), None));
                    }
                    index.changes.push((number, life.service));
                    index.cut_off(life, number);
                }
                What::CrashNoticed => {
                    // What was on its way to it goes back as well.
                    index.ends.push((number, Some(life), None));
                    index.changes.push((number, life.service));
                }
                What::Joined | What::Reconnected | What::Assigned(_) => {
                    index.changes.push((number, life.service));
                }
                What::Lost(lanes) => index.ends.push((number, Some(life), Some(lanes))),
                _ => {}
            }
        }
        index
    }

    fn story(&mut self, life: Life, id: &ByteString) -> &mut Story<'a> {
        self.stories.entry((life.service, id.clone())).or_default()
    }

    /// What still runs in this life ends with it.
    fn cut_off(&mut self, life: Life, event: usize) {
        for run in self.stories.values_mut().flat_map(|story| &mut story.runs) {
            if run.life == life && run.ended.is_none() {
                run.ended = Some((event, RunEnd::Dropped));
                run.crashed = true;
            }
        }
    }

    /// A follow-up failed: of which run, nobody says. Of one that has ended and is not settled yet.
    fn doubt(&mut self, life: Life) {
        for story in self.stories.values_mut() {
            for run in story.runs.iter_mut().filter(|run| run.life == life && run.is_success()) {
                let after = |one: &Settlement<'_>| {
                    one.life == life && one.how == SettledHow::Ack && one.event > run.end_event()
                };
                run.in_doubt |= !story.settlements.iter().any(after);
            }
        }
    }

    pub(super) fn service(&self, number: usize) -> Option<&'a Traits> {
        self.facts.services.get(number)
    }

    pub(super) fn at(&self, event: usize) -> Duration {
        let event = self.events.get(event).or(self.events.last());
        event.map_or(Duration::ZERO, |event| event.at)
    }

    /// True when between two events this life lost what it had of this partition.
    pub(super) fn session_ended(&self, life: Life, lane: u32, from: usize, to: usize) -> bool {
        let ended = self.ends.iter().any(|(event, whose, lanes)| {
            (from..to).contains(event)
                && whose.is_none_or(|whose| whose == life)
                && lanes.is_none_or(|lanes| lanes.contains(&lane))
        });
        ended || self.revoked_late(life, from, to)
    }

    /// True when members changed after `from`, and so long before `to` that a partition may have been taken away.
    fn revoked_late(&self, life: Life, from: usize, to: usize) -> bool {
        let Some(service) = self.service(life.service) else { return false };
        let drain = service.spec.drain;
        // A message may have been in the worker before its members changed, or have come just then.
        let changed = self.changes.iter().filter(|(event, of)| *of == life.service && (from..to).contains(event));
        changed.into_iter().any(|(event, _)| self.at(*event) + drain <= self.at(to))
    }

    /// How many copies of the message the log has.
    pub(super) fn copies(&self, service: usize, id: &ByteString) -> usize {
        let Some(service) = self.service(service) else { return 0 };
        let topics = service.spec.subscription.topics().iter().filter_map(|topic| self.facts.stored.get(topic));
        topics.flatten().filter(|message| message.message_id().is_some_and(|known| known.text() == id)).count()
    }

    /// True when there may be several copies of a message: it was sent twice, or stored twice by a settlement whose end
    /// nobody knows.
    pub(super) fn may_have_copies(&self, service: usize, id: &ByteString, story: &Story<'_>) -> bool {
        let doubtful = |settlement: &Settlement<'_>| {
            matches!(settlement.how, SettledHow::Retry | SettledHow::DeadLetter) && settlement.failed()
        };
        self.copies(service, id) > 1 || story.settlements.iter().any(doubtful)
    }
}

fn order(token: Token) -> Order {
    (token.epoch, token.lane, token.major, token.minor)
}
