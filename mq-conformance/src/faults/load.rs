//! A load under faults: senders, members, a way to break, and the end, when everything must have come through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mq_core::capability::Feature;
use mq_core::driver::GroupSpec;
use mq_core::name::{Group, Topic};
use mq_core::subscription::GroupMode;
use mq_core::{Broker, Error, Message, Producer};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::child::Process;
use super::crash::End;
use super::judge::{Seen, Terms, judge, verdict};
use super::log::{Deed, Ear, Progress, Record, Told};
use super::member::{MemberSpec, Witness, connection, service};
use super::plan::Plan;
use super::sender::{self, Sending};
use super::way::{Breakage, Faults, Way};
use crate::failure::{Failure, Verdict, ensure};
use crate::history::What;
use crate::lab::Lab;
use crate::reader::ident;
use crate::result::Measured;

/// Handlers of one member at a time.
const CONCURRENCY: usize = 8;

/// A load and everything it runs on.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    lab: &'a Lab,
    pub(crate) way: Arc<dyn Way>,
    pub(crate) record: Record,
    topic: Topic,
    group: Group,
    plan: Plan,
    prefetch: usize,
    /// How many settlements of a member the broker may not have been told of yet, as declared.
    untold: usize,
    connection: Broker,
    members: Vec<(String, Member)>,
    born: usize,
    sending: Option<JoinHandle<Verdict>>,
    /// The load goes on.
    lasting: Arc<AtomicBool>,
    slowest: Option<Duration>,
    declared: tokio::time::Instant,
    pub(crate) terms: Terms,
}

#[derive(Debug)]
enum Member {
    Process(Process),
    Task(Task),
}

/// A member in this process, on a connection of its own.
#[derive(Debug)]
struct Task {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<mq_core::Result<()>>,
    broker: Broker,
    witness: Arc<Witness>,
    crashed: Arc<Notify>,
}

impl<'a> Load<'a> {
    /// A topic with an ordered group, and a way to them.
    pub(crate) async fn new(lab: &'a Lab, plan: Plan) -> Verdict<Self> {
        let topic = lab.topic("t").await?;
        let group = Group::parse("g".to_owned())?;
        let mut spec = GroupSpec::new(topic.clone(), group.clone());
        spec.mode = GroupMode::Ordered;
        spec.retry_delays.clone_from(&plan.delays);
        lab.admin().await?.declare_group(&spec).await?;
        let way = lab.faults()?.way().await?;
        let record = Record::new(lab.history().clone(), group.as_str());
        let terms = Terms::default();
        let connection = lab.connect_by(&*way).await?;
        let capability = connection.capabilities().get(Feature::OutOfOrderAck);
        let untold = capability.and_then(|capability| capability.limits.duplicate_window).unwrap_or_default();
        Ok(Self {
            lab,
            way,
            record,
            topic,
            group,
            plan,
            prefetch: 16,
            untold: usize::try_from(untold).unwrap_or(usize::MAX / 1024),
            connection,
            members: Vec::new(),
            born: 0,
            sending: None,
            lasting: Arc::default(),
            slowest: None,
            declared: tokio::time::Instant::now(),
            terms,
        })
    }

    pub(crate) fn faults(&self) -> Verdict<&'a dyn Faults> {
        self.lab.faults()
    }

    /// A connection that the way leads to.
    pub(crate) async fn connect(&self) -> Verdict<Broker> {
        self.lab.connect_by(&*self.way).await
    }

    /// Begins to send by the way.
    pub(crate) fn send(&mut self, messages: usize, keys: usize, rate: u32) {
        self.send_on(self.connection.clone(), 0, messages, keys, rate);
    }

    /// As [`send`](Self::send), and goes on until the [end](Self::finish), so that a recovery always has messages to
    /// show itself by.
    pub(crate) fn send_throughout(&mut self, messages: usize, keys: usize, rate: u32) {
        self.lasting.store(true, Ordering::Relaxed);
        self.send(messages, keys, rate);
    }

    /// Begins to send on a way that nobody breaks.
    pub(crate) async fn send_aside(&mut self, messages: usize, keys: usize, rate: u32) -> Verdict {
        self.send_aside_from(0, messages, keys, rate).await
    }

    /// As [`send_aside`](Self::send_aside), but the first message has this number.
    pub(crate) async fn send_aside_from(&mut self, first: usize, messages: usize, keys: usize, rate: u32) -> Verdict {
        let broker = self.lab.fresh().await?;
        self.send_on(broker, first, messages, keys, rate);
        Ok(())
    }

    fn send_on(&mut self, broker: Broker, first: usize, messages: usize, keys: usize, rate: u32) {
        let sending = Sending {
            topic: self.topic.clone(),
            first,
            messages,
            keys,
            window: 64,
            rate,
            lasting: Arc::clone(&self.lasting),
        };
        let record = self.record.clone();
        self.sending = Some(tokio::spawn(async move { sender::send(&broker, sending, record).await }));
    }

    /// Message `number` of a load with so many keys.
    pub(crate) fn message(&self, number: usize, keys: usize) -> Message {
        sender::message(&self.topic, number, keys)
    }

    /// Sends one message as often as it takes.
    pub(crate) async fn send_until_confirmed(&self, producer: &Producer, number: usize, keys: usize) -> Verdict {
        let id = format!("m{number}");
        let began = Instant::now();
        loop {
            let message = self.message(number, keys);
            self.record.history.note(&id, "", What::Sent { key: message.key_bytes().cloned(), due: None });
            let outcome = producer.send(message).await;
            self.lab.sent(&id, outcome.as_ref().map_err(|error| error.error()));
            match outcome {
                Ok(_) => {
                    self.record.confirmed(&id);
                    return Ok(());
                }
                Err(error) if began.elapsed() > self.lab.patience() * 2 => {
                    return Err(Failure::from(error).at(format!("{id} cannot be sent")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// SIGKILL: every session ends.
    pub(crate) async fn kill_broker(&mut self) -> Verdict {
        // RabbitMQ notes on disk every half second which queues it has: a younger one comes back as an empty shell that
        // answers nothing. Topics of production are older.
        tokio::time::sleep_until(self.declared + Duration::from_secs(2)).await;
        self.record.fault("the broker is killed");
        self.strike(self.members.len());
        Ok(self.faults()?.kill().await?)
    }

    /// The broker comes back on its data.
    pub(crate) async fn start_broker(&self) -> Verdict {
        self.faults()?.start().await?;
        self.record.fault("the broker answers again");
        Ok(())
    }

    /// For so long the broker takes nothing more.
    pub(crate) async fn block_broker(&self, time: Duration) -> Verdict {
        self.faults()?.block(true).await?;
        self.record.fault("the broker takes nothing more");
        tokio::time::sleep(time).await;
        // Also after a failure it must go on for those who come next: so nothing is asked in between.
        self.faults()?.block(false).await?;
        self.record.fault("the broker goes on");
        Ok(())
    }

    /// What members do unless they are told otherwise.
    pub(crate) fn spec(&self) -> MemberSpec {
        MemberSpec {
            topic: self.topic.to_string(),
            group: self.group.to_string(),
            concurrency: CONCURRENCY,
            prefetch: self.prefetch,
            drain: Duration::from_secs(8),
            batched: None,
            crash: None,
            plan: self.plan.clone(),
        }
    }

    /// One member more: in a process of its own where the broker can be reached from one.
    pub(crate) async fn join(&mut self) -> Verdict {
        self.join_as(self.spec()).await
    }

    /// One member more that does what it is told.
    pub(crate) async fn join_as(&mut self, spec: MemberSpec) -> Verdict {
        match self.way.address() {
            Some(address) if !self.lab.lacks(Breakage::Process) => self.join_process(spec, Some(address)),
            _ => self.join_task_as(spec).await,
        }
    }

    /// One member more, on a way that nobody breaks.
    pub(crate) async fn join_aside(&mut self) -> Verdict {
        let spec = self.spec();
        let broker = self.lab.fresh().await?;
        self.start_task(spec, &broker)
    }

    fn witness(&mut self) -> (String, Arc<Witness>) {
        self.born += 1;
        let name = format!("member {}", self.born);
        (name.clone(), Arc::new(Witness::new(self.record.clone(), name)))
    }

    fn join_process(&mut self, spec: MemberSpec, address: Option<SocketAddr>) -> Verdict {
        let (name, witness) = self.witness();
        let process = Process::start(spec, address, witness)?;
        self.members.push((name, Member::Process(process)));
        Ok(())
    }

    /// One member more, in this process.
    pub(crate) async fn join_task(&mut self) -> Verdict {
        self.join_task_as(self.spec()).await
    }

    async fn join_task_as(&mut self, spec: MemberSpec) -> Verdict {
        let broker = self.connect().await?;
        self.start_task(spec, &broker)
    }

    fn start_task(&mut self, spec: MemberSpec, broker: &Broker) -> Verdict {
        let (name, witness) = self.witness();
        let crashed = Arc::new(Notify::new());
        let broker = connection(Arc::clone(broker.driver()), spec.crash, End::Task(Arc::clone(&crashed)));
        let (stop, stopped) = oneshot::channel::<()>();
        let ear: Arc<dyn Ear> = Arc::<Witness>::clone(&witness);
        let service = service(&broker, spec, Arc::clone(&ear))?;
        let task = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            let ended = service.run_until(stop).await.map(drop);
            ear.hear(Told::now(match &ended {
                Ok(()) => Deed::Stopped,
                Err(error) => Deed::Said(format!("failed: {error}")),
            }));
            ended
        });
        self.members.push((name, Member::Task(Task { stop: Some(stop), task, broker, witness, crashed })));
        Ok(())
    }

    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// What one fault that ends the sessions of so many members may repeat.
    pub(crate) fn window(&self, members: usize) -> usize {
        // Parked messages are apart from the prefetch: so are settlements that are still on their way beside them.
        let parked = if self.plan.keep_order { self.prefetch / 8 + CONCURRENCY } else { 0 };
        members * (self.prefetch + parked + self.untold)
    }

    /// A fault has ended the sessions of so many members.
    pub(crate) fn strike(&mut self, members: usize) {
        self.terms.bound += self.window(members);
    }

    /// Kills a member. False when there is none.
    pub(crate) async fn kill_member(&mut self, index: usize) -> bool {
        if self.members.is_empty() {
            return false;
        }
        let (name, member) = self.members.swap_remove(index % self.members.len());
        self.record.fault(format!("{name} is killed"));
        self.strike(1);
        kill(member).await;
        true
    }

    /// Waits until the member that joined last has ended at the step it was told to.
    pub(crate) async fn crashed(&mut self, stop: bool) -> Verdict {
        let Some((name, mut member)) = self.members.pop() else { return Ok(()) };
        let limit = self.lab.patience() * 2;
        self.strike(1);
        if stop {
            self.record.fault(format!("{name} is asked to stop"));
        }
        match &mut member {
            Member::Process(process) if stop => process.close_input(),
            Member::Task(task) if stop => drop(task.stop.take()),
            _ => {}
        }
        let late = |_| Failure::new(format!("{name} did not come to its end within {limit:?}; {}", self.tale()));
        match member {
            Member::Process(process) => process.ended(limit).await.map_err(late)?,
            Member::Task(task) => {
                let crashed = Arc::clone(&task.crashed);
                tokio::time::timeout(limit, crashed.notified()).await.map_err(|_| late(Error::timeout(limit)))?;
                kill(Member::Task(task)).await;
            }
        }
        self.record.fault(format!("{name} has crashed"));
        Ok(())
    }

    /// Stops or continues the process of a member. False when it has none.
    pub(crate) fn freeze(&self, index: usize, frozen: bool) -> bool {
        match self.members.get(index % self.members.len().max(1)) {
            Some((name, Member::Process(process))) => {
                self.record.fault(format!("{name} {}", if frozen { "is stopped" } else { "goes on" }));
                process.freeze(frozen);
                true
            }
            _ => false,
        }
    }

    /// A member leaves as one that is deployed anew does.
    pub(crate) async fn leave(&mut self, index: usize) -> Verdict {
        if self.members.is_empty() {
            return Ok(());
        }
        let (name, member) = self.members.swap_remove(index % self.members.len());
        self.record.fault(format!("{name} is asked to leave"));
        stop(member).await.map_err(|failure| failure.at(name))
    }

    /// Waits until so many messages were handled once.
    pub(crate) async fn handled(&self, count: usize) -> Verdict {
        let limit = self.lab.patience() * 2;
        ensure!(
            self.record.until(limit, |progress| progress.handled >= count).await,
            "{:?} after {limit:?}: {count} should have been handled; {}",
            self.record.progress(),
            self.tale()
        );
        Ok(())
    }

    /// Waits until one more handler has ended: the first sign of life after a fault. Returns how long that took.
    pub(crate) async fn recovered(&mut self) -> Verdict<Duration> {
        let ended = self.record.progress().ended;
        self.recovered_when(|progress| progress.ended > ended).await
    }

    /// As [`recovered`](Self::recovered), where handlers may go on for a while with what they have: so many messages
    /// were handled.
    pub(crate) async fn recovered_from(&mut self, handled: usize) -> Verdict<Duration> {
        self.recovered_when(|progress| progress.handled >= handled).await
    }

    async fn recovered_when(&mut self, far: impl FnMut(&Progress) -> bool) -> Verdict<Duration> {
        let began = Instant::now();
        let limit = self.lab.patience() * 2;
        ensure!(
            self.record.until(limit, far).await,
            "nothing was handled within {limit:?} after the fault; {}",
            self.tale()
        );
        let took = began.elapsed();
        self.slowest = self.slowest.max(Some(took));
        Ok(took)
    }

    /// Two handlers of a message may run at once from `since` on until a moment from now: a session ended of which its
    /// member could not know.
    pub(crate) fn blind_since(&mut self, since: Duration) {
        self.terms.blind.push((since, self.record.history.now() + Duration::from_secs(2)));
    }

    /// The end: everything was sent, confirmed and handled; members leave; the broker holds nothing; and the record is
    /// as the contract wants it.
    pub(crate) async fn finish(mut self) -> Verdict<Seen> {
        self.way.stall(false);
        self.way.slow(None);
        self.way.refuse(false);
        self.lasting.store(false, Ordering::Relaxed);
        let limit = self.lab.patience() * 3;
        if let Some(mut sending) = self.sending.take() {
            let sent = tokio::time::timeout(limit, &mut sending).await;
            let Ok(sent) = sent else {
                sending.abort();
                return Err(Failure::new(format!("not everything was sent within {limit:?}; {}", self.tale())));
            };
            sent.map_err(|error| Failure::new(format!("the sender panicked: {error}")))??;
        }
        let mut done = self.record.until(limit, |progress| progress.done >= progress.confirmed).await;
        if done && self.plan.hopeless > 0 {
            // What was given up and could not be set aside comes again: only the broker knows.
            self.nothing_waits(limit).await;
            done = self.record.until(limit, |progress| progress.done >= progress.confirmed).await;
        }
        for (name, member) in std::mem::take(&mut self.members) {
            stop(member).await.map_err(|failure| failure.at(format!("{name}; {}", self.tale())))?;
        }
        if !done {
            let open = self.record.open();
            // The judge has the story; it may also have come in the last moment.
            self.record.fault(format!("after {limit:?} {} messages are not done", open.len()));
        }
        self.look_at_the_broker().await?;
        let entries = self.record.history.sorted();
        let (seen, findings) = judge(&entries, self.group.as_str(), &self.terms);
        let measured = Measured {
            recovery_millis: self.slowest.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            duplicates: seen.duplicates,
            bound: self.terms.bound,
        };
        self.lab.measure(measured, seen.clone());
        verdict(&entries, &seen, &findings, &self.terms)?;
        Ok(seen)
    }

    /// Waits until the broker holds nothing for the group, while its members are at work; at most `limit`.
    async fn nothing_waits(&self, limit: Duration) {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Ok(admin) = self.lab.admin().await
                && let Ok(lag) = admin.lag(&self.topic, &self.group).await
                && lag.ready + lag.unsettled.unwrap_or_default() + lag.retrying.unwrap_or_default() == 0
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What waits at the broker, and its dead letters, which must be whole.
    async fn look_at_the_broker(&self) -> Verdict {
        let admin = self.lab.admin().await?;
        let began = Instant::now();
        loop {
            let lag = admin.lag(&self.topic, &self.group).await?;
            let waiting = lag.ready + lag.unsettled.unwrap_or_default();
            // What is left is a repetition that was given back when the members left.
            if usize::try_from(waiting).unwrap_or(usize::MAX) <= self.terms.bound {
                break;
            }
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "everything is done, and {waiting} messages wait at the broker; faults explain {}; {}",
                self.terms.bound,
                self.tale()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if self.plan.hopeless == 0 {
            return Ok(());
        }
        let letters = admin.dead_letters(&self.topic, &self.group).await?.list(10_000).await?;
        for letter in letters {
            let id = ident(&letter.message);
            let number = id.trim_start_matches('m').parse().unwrap_or(usize::MAX);
            ensure!(number != usize::MAX, "a dead letter nobody sent: {id}");
            let original = sender::message(&self.topic, number, usize::MAX);
            let whole = letter.message.body_bytes() == original.body_bytes()
                && letter
                    .message
                    .headers()
                    .iter()
                    .any(|(name, value)| name == "number" && value.as_ref() == number.to_string().as_bytes());
            ensure!(whole, "the dead letter {id} is not what was sent: {:?}", letter.message);
            let attempts = letter.record.as_ref().map(|record| record.attempts);
            ensure!(attempts == Some(1), "the dead letter {id} of the first attempt says {attempts:?} attempts");
            self.record.history.note(&id, self.group.as_str(), What::Dead);
        }
        Ok(())
    }

    /// The lines that concern everybody, and the story of one message that is not done or not confirmed.
    pub(crate) fn tale(&self) -> String {
        let entries = self.record.history.sorted();
        let open = self.record.open();
        // Where everything confirmed is done, what is not confirmed may say why nothing goes on.
        let story = match open.iter().min() {
            Some(id) => crate::history::story(&entries, id),
            None => crate::history::unconfirmed(&entries),
        };
        format!("{:?}, not done: {}; {story}", self.record.progress(), open.len())
    }
}

async fn kill(member: Member) {
    match member {
        Member::Process(process) => process.kill().await,
        Member::Task(task) => {
            task.task.abort();
            let _ = task.task.await;
            // What it has in flight ends with its connection.
            let _ = task.broker.driver().close(Duration::ZERO).await;
            task.witness.died(SystemTime::now());
        }
    }
}

async fn stop(member: Member) -> Verdict {
    let limit = Duration::from_secs(25);
    match member {
        Member::Process(process) => Ok(process.stop(limit).await?),
        Member::Task(mut task) => {
            drop(task.stop.take());
            let ended = tokio::time::timeout(limit, &mut task.task).await;
            let ended = ended.map_err(|_| Failure::new(format!("it did not stop within {limit:?}")))?;
            ended.map_err(|error| Failure::new(format!("it panicked: {error}")))??;
            let _ = task.broker.close().await;
            Ok(())
        }
    }
}
