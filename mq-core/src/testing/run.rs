//! One run: sends, faults, calm, the end.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytestring::ByteString;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::dead_letter::DeadLetter;
use crate::driver::{BrokerDriver, GroupSpec};
use crate::error::Result;
use crate::memory::{MemoryBroker, MemoryConfig};
use crate::message::Message;
use crate::name::{Topic, fnv1a};
use crate::testing::ending::Ending;
use crate::testing::fault::Planned;
use crate::testing::history::{Event, Recorder, What};
use crate::testing::judge::{Finding, judge};
use crate::testing::member::{Member, Site, Traits};
use crate::testing::probe::{Guards, name};
use crate::testing::random::Random;
use crate::testing::scenario::{PlannedSend, Scenario};
use crate::testing::sender::Sender;
use crate::testing::weather::Weather;
use crate::testing::weathering::Weathering;

/// What is left out of a run while a failure is made smaller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Without {
    pub(crate) faults: BTreeSet<usize>,
    pub(crate) sends: BTreeSet<usize>,
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) faults: Vec<Planned>,
    /// How many messages the scenario had to send.
    pub(crate) sends: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) findings: Vec<Finding>,
}

/// What the judge knows beside the history.
pub(crate) struct Facts {
    pub(crate) services: Vec<Traits>,
    pub(crate) sent: BTreeMap<ByteString, Message>,
    /// What is stored, by topic, in the order it was.
    pub(crate) stored: BTreeMap<Topic, Vec<Message>>,
    /// The dead letters of each service.
    pub(crate) dead: Vec<Vec<DeadLetter>>,
}

/// By the broker's clock every run begins at this time.
const WALL: Duration = Duration::from_secs(1_700_000_000);
/// How long may pass, after the last fault, until everything is handled.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// What stopping may take beside the drain limit: flushing, closing, a settlement under way.
const LEAVING: Duration = Duration::from_secs(60);
const SENDERS: u64 = 2;

/// Runs a scenario, in a runtime of its own, on this thread.
pub(crate) fn run(seed: u64, fill: &dyn Fn(&mut Scenario), without: &Without) -> Outcome {
    // What the core draws (jitter, ids) comes from this thread's generator.
    fastrand::seed(seed);
    let mut scenario = Scenario::new(seed);
    fill(&mut scenario);
    let sends = scenario.sends.len();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let findings = vec![Finding::new("set-up", None, 0, format!("no runtime: {error}"))];
            return Outcome { faults: Vec::new(), sends, events: Vec::new(), findings };
        }
    };
    runtime.block_on(async {
        let mut faults = Vec::new();
        let recorder = Recorder::new();
        match play(&mut scenario, &recorder, &mut faults, without).await {
            Ok((memory, facts, mut findings)) => {
                let events = recorder.take();
                findings.extend(judge(&events, &facts));
                findings.extend(invariants(scenario, &memory, &events));
                Outcome { faults, sends, events, findings }
            }
            Err(error) => {
                let findings = vec![Finding::new("set-up", None, 0, error.to_string())];
                Outcome { faults, sends, events: recorder.take(), findings }
            }
        }
    })
}

/// What the user says must hold.
fn invariants(scenario: Scenario, memory: &MemoryBroker, events: &[Event]) -> Vec<Finding> {
    let ending = Ending { memory, events };
    let mut findings = Vec::new();
    for invariant in scenario.invariants {
        let text = match catch_unwind(AssertUnwindSafe(|| invariant(&ending))) {
            Ok(Ok(())) => continue,
            Ok(Err(text)) => text,
            Err(panic) => panic_text(&*panic),
        };
        findings.push(Finding::new("invariant", mentioned(&text, events), events.len(), text));
    }
    findings
}

/// The message an invariant's text speaks of: the longest id in it.
fn mentioned(text: &str, events: &[Event]) -> Option<ByteString> {
    let words: BTreeSet<&str> = text.split(|c: char| c.is_whitespace() || "`'\",;:()[]".contains(c)).collect();
    let ids = events.iter().filter_map(|event| match &event.what {
        What::Sending { id, .. } if words.contains(&**id) => Some(id.clone()),
        _ => None,
    });
    ids.max_by_key(|id| id.len())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

async fn play(
    scenario: &mut Scenario,
    recorder: &Recorder,
    faults: &mut Vec<Planned>,
    without: &Without,
) -> Result<(MemoryBroker, Facts, Vec<Finding>)> {
    let partitions = scenario.partitions;
    let config = MemoryConfig { partitions, auto_create: true, history: 0, ..MemoryConfig::default() };
    let memory = MemoryBroker::starting_at(config, SystemTime::UNIX_EPOCH + WALL)?;
    let services = declare(scenario, &memory).await?;
    let guarded = services.iter().any(|service| service.guarded);
    *faults = scenario.schedule(guarded);
    let kept = |index: &usize| !without.faults.contains(index);
    *faults = faults.iter().enumerate().filter(|(index, _)| kept(index)).map(|(_, fault)| fault.clone()).collect();

    let site = Arc::new(Site {
        memory: memory.clone(),
        recorder: recorder.clone(),
        weather: Arc::new(Weather::default()),
        guards: Guards::default(),
        beneath: scenario.beneath.clone(),
        above: scenario.above.clone(),
    });
    let mut tasks = JoinSet::new();
    let members = hire(scenario, &site, &mut tasks);
    let weathering = Weathering { site: Arc::clone(&site), members };
    let mut sent = BTreeMap::new();
    let redrives = scenario.redrives;
    let senders = senders(scenario, &site, without, &mut sent).await?;
    let mut findings = Vec::new();
    let storm = async {
        tokio::join!(senders, weathering.run(faults.clone()));
        weathering.calm();
        let quiet = settle_down(&memory, recorder, &services).await;
        if quiet.is_some() || !redrives {
            return quiet;
        }
        redrive(&memory, recorder, &services).await;
        settle_down(&memory, recorder, &services).await
    };
    let quiet = tokio::select! {
        biased;
        quiet = storm => quiet,
        () = recorder.too_long() => Some(Finding::new("end", None, usize::MAX, "the run makes no end of events")),
    };
    recorder.write(None, What::Idle);
    findings.extend(quiet);
    weathering.close();
    let longest = services.iter().map(|service| service.drain).max().unwrap_or_default() + LEAVING;
    let everybody = async { while tasks.join_next().await.is_some() {} };
    if timeout(longest, everybody).await.is_err() {
        let text = format!("a process has not stopped {longest:?} after it was told to");
        findings.push(Finding::new("drain", None, usize::MAX, text));
    }
    let facts = Facts { stored: stored(&memory, &sent, &services), dead: dead(&memory, &services), services, sent };
    Ok((memory, facts, findings))
}

/// Declares every topic and group before anything is sent; what the services are like.
async fn declare(scenario: &Scenario, memory: &MemoryBroker) -> Result<Vec<Traits>> {
    let broker = memory.broker();
    for send in &scenario.sends {
        memory.declare_topic(send.message.topic())?;
    }
    let mut services = Vec::new();
    for plan in &scenario.services {
        let traits = (plan.make)(&broker, None)?.traits;
        let subscription = &traits.spec.subscription;
        let group = subscription.group().ok_or_else(|| {
            crate::error::Error::config("a simulated service needs a group")
                .with_hint("a broadcast subscription ends with its process: there is nothing to promise after a crash")
        })?;
        for topic in subscription.topics() {
            memory.declare_topic(topic)?;
            let mut spec = GroupSpec::new(topic.clone(), group.clone());
            spec.mode = subscription.group_mode();
            memory.admin().declare_group(&spec).await?;
        }
        services.push(traits);
    }
    Ok(services)
}

/// Starts the processes, some of them late.
fn hire(scenario: &mut Scenario, site: &Arc<Site>, tasks: &mut JoinSet<()>) -> Vec<Arc<Member>> {
    let mut random = Random::stream(scenario.seed(), 2);
    let mut members = Vec::new();
    for (service, plan) in scenario.services.drain(..).enumerate() {
        let make = Arc::new(plan.make);
        for _ in 0..plan.members {
            let make = Arc::clone(&make);
            let hired = Arc::new(Member {
                service,
                member: members.len(),
                make: Box::new(move |broker, process| make(broker, process)),
                current: Mutex::default(),
                rejoin: Mutex::default(),
                call: Notify::new(),
                ending: AtomicBool::new(false),
            });
            let late = if random.chance(70) { Duration::ZERO } else { random.between(Duration::ZERO, LATE) };
            members.push(Arc::clone(&hired));
            let site = Arc::clone(site);
            tasks.spawn(async move {
                hired.supervise(site, late).await;
            });
        }
    }
    members
}

const LATE: Duration = Duration::from_secs(5);

/// The producers. Messages of one key go by the same one, in order.
async fn senders(
    scenario: &mut Scenario,
    site: &Arc<Site>,
    without: &Without,
    sent: &mut BTreeMap<ByteString, Message>,
) -> Result<impl Future<Output = ()>> {
    let mut times: Vec<Duration> = scenario.sends.iter().map(|send| send.at).collect();
    times.sort_unstable();
    let mut shares: Vec<Vec<PlannedSend>> = (0..SENDERS).map(|_| Vec::new()).collect();
    let mut last = Duration::ZERO;
    for (index, (mut send, at)) in scenario.sends.drain(..).zip(times).enumerate() {
        if without.sends.contains(&index) {
            continue;
        }
        send.at = at;
        last = last.max(send.delay.unwrap_or_default());
        sent.insert(name(&send.message), send.message.clone());
        let share = send.message.key_bytes().map_or(index as u64, |key| fnv1a(key)) % SENDERS;
        if let Some(share) = shares.get_mut(share as usize) {
            share.push(send);
        }
    }
    let mut driver: Arc<dyn BrokerDriver> = Arc::new(site.memory.connection());
    if let Some(wrap) = &site.beneath {
        driver = wrap(driver);
    }
    let (broker, clock) = (Broker::from_driver(Arc::clone(&driver)), driver.clock());
    let mut tasks = JoinSet::new();
    for (number, share) in (10..).zip(shares) {
        let sender = Sender {
            producer: broker.producer().await?,
            recorder: site.recorder.clone(),
            clock,
            random: Random::stream(scenario.seed(), number),
            gives_up: scenario.producer_gives_up,
        };
        tasks.spawn(sender.run(share));
    }
    Ok(async move {
        while tasks.join_next().await.is_some() {}
        // What is to be delivered later counts nowhere before it is due.
        tokio::time::sleep(last).await;
    })
}

/// Waits until every group has nothing left to do.
async fn settle_down(memory: &MemoryBroker, recorder: &Recorder, services: &[Traits]) -> Option<Finding> {
    let begun = recorder.now();
    // A message that is handled may send another one: look until nothing has changed.
    for service in services.iter().chain(services) {
        let subscription = &service.spec.subscription;
        for topic in subscription.topics() {
            let Some(group) = subscription.group() else { continue };
            let left = PATIENCE.saturating_sub(recorder.now().saturating_sub(begun));
            if memory.until_idle(topic, group, left).await.is_err() {
                let lag = memory.backlog(topic, group).map(|lag| format!("{lag:?}")).unwrap_or_default();
                let text = format!("{PATIENCE:?} after the last fault {group} has not handled all of {topic}: {lag}");
                return Some(Finding::new("end", None, usize::MAX, text));
            }
        }
    }
    None
}

/// Brings every dead letter back once.
async fn redrive(memory: &MemoryBroker, recorder: &Recorder, services: &[Traits]) {
    for (service, traits) in services.iter().enumerate() {
        let Some(group) = traits.spec.subscription.group() else { continue };
        for topic in traits.spec.subscription.topics() {
            for letter in memory.dead_letters(topic, group).unwrap_or_default() {
                recorder.write(None, What::Redriven { service, id: name(&letter.message) });
            }
            if let Ok(mut dead) = memory.admin().dead_letters(topic, group).await {
                // What could not be brought back stays where it is, and the judge finds that it did not run.
                let _ = dead.redrive(usize::MAX).await;
            }
        }
    }
}

fn stored(
    memory: &MemoryBroker,
    sent: &BTreeMap<ByteString, Message>,
    services: &[Traits],
) -> BTreeMap<Topic, Vec<Message>> {
    let mut topics: BTreeSet<Topic> = sent.values().map(|message| message.topic().clone()).collect();
    topics.extend(services.iter().flat_map(|service| service.spec.subscription.topics().iter().cloned()));
    topics.into_iter().map(|topic| (topic.clone(), memory.sent(&topic).unwrap_or_default())).collect()
}

fn dead(memory: &MemoryBroker, services: &[Traits]) -> Vec<Vec<DeadLetter>> {
    let of = |service: &Traits| -> Vec<DeadLetter> {
        let Some(group) = service.spec.subscription.group() else { return Vec::new() };
        let topics = service.spec.subscription.topics().iter();
        topics.flat_map(|topic| memory.dead_letters(topic, group).unwrap_or_default()).collect()
    };
    services.iter().map(of).collect()
}
