//! The scenario by which the core is tested itself: a worker with random settings and a handler that does what its
//! script says.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use crate::guard::{Guard, MemoryGuard};
use crate::handler::{Handler, HandlerError, OnUnknown, Outcome};
use crate::message::Message;
use crate::name::Topic;
use crate::retry::RetryPolicy;
use crate::subscription::Subscription;
use crate::testing::random::Random;
use crate::testing::scenario::Scenario;
use crate::worker::{AckStrategy, Concurrency, Context, Worker};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// What the handler does with a message, one entry for each attempt; then it succeeds.
#[derive(Debug, Clone, Copy)]
enum Act {
    Ok,
    Retry,
    RetryAfter(Duration),
    DeadLetter,
    Discard,
    Decode,
    Unknown,
    Panic,
    FollowUp,
}

/// A step of a script: what is done, and how long it takes.
type Step = (Duration, Act);

/// The settings of one worker, drawn from the seed.
#[derive(Debug, Clone)]
struct Settings {
    concurrency: Concurrency,
    retry: RetryPolicy,
    ack: AckStrategy,
    guard: Option<(Arc<MemoryGuard>, Duration)>,
    timeout: Option<Duration>,
    drain: Duration,
    crash_limit: u32,
    on_unknown: OnUnknown,
    prefetch: Option<usize>,
    batch: usize,
}

/// Fills a scenario with random messages, a worker with random settings, and a handler that fails in every way there
/// is. No invariant of its own: what the SDK promises is always checked.
pub fn scripted(scenario: &mut Scenario) {
    let settings = settings(scenario.random());
    let members = 1 + scenario.random().below(3);
    let partitions = 1 + scenario.random().below(3) as u32;
    let keys = scenario.random().below(5);
    let count = 4 + scenario.random().below(20);
    let mut scripts = BTreeMap::new();
    for number in 1..=count {
        let (message, script, delay) = message(scenario.random(), number, keys);
        scripts.insert(ByteString::from(format!("m{number}")), script);
        match delay {
            None => scenario.send(message),
            Some(delay) => scenario.send_after(message, delay),
        };
    }
    if scenario.random().chance(15) {
        scenario.producers_give_up();
    }
    if scenario.random().chance(25) {
        scenario.redrive();
    }
    let scripts = Arc::new(scripts);
    scenario.partitions(partitions);
    scenario.service(members, move |broker| {
        let mut subscription = subscription();
        if let Some(prefetch) = settings.prefetch {
            subscription = subscription.prefetch(prefetch);
        }
        let mut worker = Worker::new(broker, subscription)
            .concurrency(settings.concurrency)
            .retry(settings.retry.clone())
            .ack(settings.ack)
            .drain(settings.drain)
            .crash_limit(settings.crash_limit)
            .on_unknown(settings.on_unknown);
        if let Some((guard, lease)) = &settings.guard {
            let guard: Arc<dyn Guard> = Arc::clone(guard) as Arc<dyn Guard>;
            worker = worker.idempotency_shared(guard).idempotency_lease(*lease);
        }
        if let Some(timeout) = settings.timeout {
            worker = worker.timeout(timeout);
        }
        worker.handle_with(Script { scripts: Arc::clone(&scripts), batch: settings.batch })
    });
}

fn subscription() -> Subscription {
    Subscription::new("work", "workers")
}

fn settings(random: &mut Random) -> Settings {
    let concurrency = match random.below(5) {
        0 => Concurrency::Sequential,
        1 => Concurrency::Parallel(2 + random.below(3)),
        _ => Concurrency::ByKey(1 + random.below(4)),
    };
    let mut retry = match random.below(5) {
        0 => RetryPolicy::never(),
        1 => RetryPolicy::exponential(MS(200), MS(4_000)).attempts(2 + random.below(4) as u32).jitter(0.5),
        _ => RetryPolicy::delays([MS(100), MS(1_000), MS(5_000)]),
    };
    if !matches!(concurrency, Concurrency::Parallel(_)) && random.chance(50) {
        retry = retry.keep_key_order();
    }
    let guard = random.chance(40).then(|| (Arc::new(MemoryGuard::new()), random.between(MS(1_000), MS(20_000))));
    Settings {
        concurrency,
        retry,
        ack: if random.chance(30) { AckStrategy::Batched { max: 4, every: MS(200) } } else { AckStrategy::Manual },
        guard,
        timeout: random.chance(30).then(|| random.between(MS(500), MS(4_000))),
        drain: random.between(MS(100), MS(10_000)),
        crash_limit: 1 + random.below(10) as u32,
        on_unknown: if random.chance(30) { OnUnknown::Retry } else { OnUnknown::DeadLetter },
        prefetch: random.chance(50).then(|| 1 + random.below(12)),
        batch: if random.chance(20) { 1 + random.below(4) } else { 1 },
    }
}

fn message(random: &mut Random, number: usize, keys: usize) -> (Message, Vec<Step>, Option<Duration>) {
    let mut message = Message::to(subscription().topics().first().cloned().unwrap_or_else(Topic::unnamed))
        .id(format!("m{number}"))
        .body(format!("body of {number}"))
        .header("color", "red")
        .header("color", "blue");
    if keys > 0 && random.chance(85) {
        message = message.key(format!("k{}", random.below(keys)));
    }
    let script = (0..random.below(4)).map(|_| (time(random), act(random))).collect();
    let delay = random.chance(8).then(|| random.between(MS(1), MS(8_000)));
    (message, script, delay)
}

fn time(random: &mut Random) -> Duration {
    match random.below(10) {
        0..4 => Duration::ZERO,
        4..9 => random.between(MS(1), MS(900)),
        _ => random.between(MS(1_000), MS(12_000)),
    }
}

fn act(random: &mut Random) -> Act {
    match random.below(20) {
        0..6 => Act::Ok,
        6..12 => Act::Retry,
        12 => Act::RetryAfter(random.between(MS(1), MS(4_000))),
        13 => Act::DeadLetter,
        14 => Act::Discard,
        15 => Act::Decode,
        16 => Act::Unknown,
        17 => Act::Panic,
        _ => Act::FollowUp,
    }
}

/// Does what is written for the message and the attempt.
struct Script {
    scripts: Arc<BTreeMap<ByteString, Vec<Step>>>,
    batch: usize,
}

impl Handler for Script {
    async fn handle(&self, batch: &[Context], outcomes: &mut Vec<Outcome>) {
        for context in batch {
            let step = context
                .message()
                .message_id()
                .and_then(|id| self.scripts.get(id.text()))
                .and_then(|script| script.get(context.attempt() as usize - 1));
            let (takes, act) = step.copied().unwrap_or((Duration::ZERO, Act::Ok));
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            outcomes.push(act.perform(context));
        }
    }

    fn batch_size(&self) -> usize {
        self.batch
    }
}

impl Act {
    fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Ok => Ok(()),
            Self::Retry => Err(HandlerError::retry("busy")),
            Self::RetryAfter(delay) => Err(HandlerError::retry_after(delay, "busy for a while")),
            Self::DeadLetter => Err(HandlerError::dead_letter("hopeless")),
            Self::Discard => Err(HandlerError::discard("not wanted")),
            Self::Decode => {
                Err(HandlerError::Decode(crate::error::Error::new(crate::error::ErrorKind::Codec, "nonsense")))
            }
            Self::Unknown => Err(HandlerError::unknown("nobody knows")),
            // Not `panic!`: nobody wants its text on the terminal a hundred thousand times.
            Self::Panic => resume_unwind(Box::new("it panicked on purpose")),
            Self::FollowUp => {
                let follow_up = Message::new("follow-ups")?.body("done");
                context.send(follow_up).map_err(HandlerError::retry)
            }
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("messages", &self.scripts.len()).finish_non_exhaustive()
    }
}
