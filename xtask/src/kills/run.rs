//! One run: send, handle, kill, start again, wait for everything, judge.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use super::judge::{Verdict, judge};
use super::note::Note;
use super::plan::{Blow, Plan};
use super::programs::Scene;
use crate::brokers::{Instance, Kind};
use crate::{command, interrupt};

/// The run fails when nothing is handled for this long: recovery takes a session of the group, and the broker's start.
const STUCK: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_millis(20);

/// What one run showed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) verdict: Verdict,
    /// From each answer of the restarted broker, or start of the next worker, to the first message handled after it;
    /// `None` when nothing was left to handle.
    pub(crate) resumed: Vec<Option<Duration>>,
    pub(crate) took: Duration,
}

/// Reads the notes as they are written.
struct Notes {
    reader: BufReader<File>,
    /// Bytes of whole lines read.
    place: u64,
    all: Vec<Note>,
}

impl Notes {
    fn open(scene: &Scene) -> Result<Self> {
        let path = scene.notes();
        File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self { reader: BufReader::new(File::open(path)?), place: 0, all: Vec::new() })
    }

    fn read(&mut self) -> Result<usize> {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.reader.read_line(&mut line)?;
            if !line.ends_with('\n') {
                // Half a line, or nothing: read again when there is more.
                self.reader.seek(SeekFrom::Start(self.place))?;
                return Ok(self.all.len());
            }
            self.place += u64::try_from(length).unwrap_or_default();
            self.all.push(Note::parse(line.trim_end()).with_context(|| format!("what note is this: {line:?}"))?);
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The node to kill: the leader of the topic's queue where the broker has one leader, else the one the plan names
/// (Kafka's partitions are led by all nodes alike).
fn victim<'a>(nodes: &'a [Instance], scene: &Scene, number: u64) -> Result<&'a Instance> {
    let choice = usize::try_from(number)?;
    let chosen = nodes.get(choice % nodes.len().max(1)).context("a cluster without nodes")?;
    if nodes.len() < 2 || chosen.kind == Kind::Kafka {
        return Ok(chosen);
    }
    let queues = command::output(chosen.control()?.args(["list_queues", "--quiet", "name", "leader"]));
    let queues = queues.context("the cluster does not tell its leaders")?;
    let leader = queues.lines().find(|line| line.starts_with(&scene.topic)).and_then(|line| {
        nodes.iter().enumerate().find(|(index, _)| line.contains(&format!("mq{}@", index + 1))).map(|(_, node)| node)
    });
    leader.with_context(|| format!("no leader of {} in:\n{queues}", scene.topic))
}

pub(crate) fn run(nodes: &[Instance], scene: &Scene, concurrency: u32, plan: &Plan) -> Result<Shown> {
    let begin = Instant::now();
    let mut create = vec!["topic", "create", &scene.topic];
    if nodes.iter().any(|node| node.kind == Kind::Kafka) {
        create.extend(["--partitions", "12"]);
    }
    scene.mq(&create)?;
    scene.mq(&["group", "create", &scene.topic, "--group", "g", "--mode", "ordered"])?;
    let mut notes = Notes::open(scene)?;
    let handled = Arc::new(AtomicU64::new(0));
    let mut worker = scene.worker(concurrency)?;
    let sender = scene.sender(Arc::clone(&handled))?;
    let mut blows = plan.blows.iter().copied().peekable();
    let mut answered = Vec::new();
    let (mut seen, mut progress) = (0, Instant::now());
    // Duplicates also count as notes: sending must not run ahead of what was really handled.
    let mut known = std::collections::HashSet::new();
    while u64::try_from(known.len())? < scene.messages {
        interrupt::check()?;
        let count = notes.read()?;
        if count > seen {
            known.extend(notes.all.iter().skip(seen).map(|note| note.number));
            (seen, progress) = (count, Instant::now());
            handled.store(u64::try_from(known.len())?, Ordering::Relaxed);
        }
        if let Some(status) = worker.ended()? {
            bail!("the worker ended by itself ({status})");
        }
        ensure!(progress.elapsed() < STUCK, "nothing was handled for {STUCK:?}; {} of all", known.len());
        if let Some((_, blow)) = blows.next_if(|(place, _)| u64::try_from(known.len()).is_ok_and(|n| n >= *place)) {
            match blow {
                Blow::Broker { down, node } => {
                    let instance = victim(nodes, scene, node)?;
                    instance.kill()?;
                    thread::sleep(down);
                    instance.start()?;
                    answered.push(now());
                }
                Blow::Worker => {
                    worker.kill()?;
                    worker = scene.worker(concurrency)?;
                    answered.push(now());
                }
            }
        }
        thread::sleep(LOOK);
    }
    sender.finish(DRAIN)?;
    worker.stop(DRAIN)?;
    notes.read()?;
    let lag = scene.mq(&["lag", &scene.topic, "--group", "g", "--json"])?;
    ensure!(is_empty(&lag), "all was handled, yet the group has something left: {lag}");
    scene.mq(&["topic", "delete", &scene.topic])?;
    let resumed = answered.iter().map(|at| {
        let next = notes.all.iter().filter(|note| note.begin > *at).map(|note| note.end).min();
        next.map(|next| next.saturating_sub(*at))
    });
    let resumed = resumed.collect();
    Ok(Shown { verdict: judge(&notes.all, scene.messages, scene.keys), resumed, took: begin.elapsed() })
}

/// Nothing waits and nothing is dead. What a broker does not tell (`null`) is no finding.
fn is_empty(json: &str) -> bool {
    let lag: serde_json::Value = serde_json::from_str(json.trim()).unwrap_or_default();
    let is = |name: &str, unknown: bool| lag.get(name).is_some_and(|value| value == 0 || (unknown && value.is_null()));
    is("ready", false) && is("dead", true) && is("retrying", true) && is("unsettled", true)
}
