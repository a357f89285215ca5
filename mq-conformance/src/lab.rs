//! What a scenario works with: connections, topics and groups of its own, and the record.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mq_core::capability::{Capabilities, Feature};
use mq_core::driver::{AdminDriver, ConsumerSpec, GroupSpec, Receipt, TopicSpec};
use mq_core::error::Result;
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::subscription::{GroupMode, StartFrom, Subscription};
use mq_core::{Broker, Producer, SendError};

use crate::failure::{Failure, Verdict};
use crate::faults::judge::Seen;
use crate::faults::{Breakage, Faults, Way};
use crate::harness::{Foreign, Harness};
use crate::history::{Action, Entry, History, What};
use crate::reader::Reader;
use crate::result::Measured;

/// How long it waits to see that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(700);

/// Tells runs on the same broker apart.
static RUN: LazyLock<String> = LazyLock::new(|| {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}{:x}", since.as_secs(), fastrand::u16(..))
});
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One scenario's share of the broker.
#[derive(Debug)]
pub(crate) struct Lab {
    harness: Arc<dyn Harness>,
    capabilities: Capabilities,
    prefix: String,
    history: History,
    state: Mutex<State>,
    shared: tokio::sync::OnceCell<Broker>,
}

#[derive(Debug, Default)]
struct State {
    brokers: Vec<Broker>,
    topics: Vec<Topic>,
    foreign: Vec<Topic>,
    sent: HashMap<String, Message>,
    measured: Option<Measured>,
    seen: Option<Seen>,
}

impl Lab {
    pub(crate) fn new(harness: Arc<dyn Harness>, capabilities: Capabilities, scenario: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let short: String = scenario.rsplit("::").next().unwrap_or_default().chars().take(24).collect();
        let prefix = format!("c-{}-{number}-{short}", *RUN).trim_end_matches('_').to_owned();
        Self {
            harness,
            capabilities,
            prefix,
            history: History::default(),
            state: Mutex::default(),
            shared: tokio::sync::OnceCell::new(),
        }
    }

    /// A share of its own of the same broker, with a record of its own.
    pub(crate) fn part(&self) -> Self {
        Self::new(Arc::clone(&self.harness), self.capabilities.clone(), "part")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// What the adapter declares.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(crate) fn supports(&self, feature: Feature) -> bool {
        self.capabilities.supports(feature)
    }

    /// How long a scenario waits for what must come.
    pub(crate) fn patience(&self) -> Duration {
        self.harness.patience()
    }

    /// How late something may be beyond what is declared.
    pub(crate) fn slack(&self) -> Duration {
        self.harness.slack()
    }

    /// The scenario's own connection.
    pub(crate) async fn broker(&self) -> Verdict<Broker> {
        self.shared.get_or_try_init(|| self.fresh()).await.cloned()
    }

    /// One more connection: what another process would have.
    pub(crate) async fn fresh(&self) -> Verdict<Broker> {
        let broker = Broker::from_driver(self.harness.connect().await?);
        self.state().brokers.push(broker.clone());
        Ok(broker)
    }

    pub(crate) async fn admin(&self) -> Verdict<Arc<dyn AdminDriver>> {
        Ok(self.broker().await?.admin())
    }

    pub(crate) async fn producer(&self) -> Verdict<Producer> {
        Ok(self.broker().await?.producer().await?)
    }

    /// Ways to break the broker.
    pub(crate) fn faults(&self) -> Verdict<&dyn Faults> {
        let missing = "the harness cannot break its broker: implement Harness::faults";
        self.harness.faults().ok_or_else(|| Failure::new(missing))
    }

    /// True when this cannot happen to the broker.
    pub(crate) fn lacks(&self, breakage: Breakage) -> bool {
        self.harness.faults().is_some_and(|faults| faults.lacks().contains(&breakage))
    }

    /// A connection that a way leads to.
    pub(crate) async fn connect_by(&self, way: &dyn Way) -> Verdict<Broker> {
        let driver = match way.address() {
            Some(address) => self.harness.connect_at(address).await?,
            None => self.harness.connect().await?,
        };
        let broker = Broker::from_driver(driver);
        self.state().brokers.push(broker.clone());
        Ok(broker)
    }

    /// Keeps what was measured for the result.
    pub(crate) fn measure(&self, measured: Measured, seen: Seen) {
        let mut state = self.state();
        (state.measured, state.seen) = (Some(measured), Some(seen));
    }

    /// What was seen of a load with faults, if it came to its end.
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.state().seen.clone()
    }

    /// What was measured, if anything was.
    pub(crate) fn measured(&self) -> Option<Measured> {
        self.state().measured
    }

    /// The stock client.
    pub(crate) fn foreign(&self) -> Verdict<&dyn Foreign> {
        let missing = "the harness has no stock client: implement Harness::foreign";
        self.harness.foreign().ok_or_else(|| Failure::new(missing))
    }

    /// A name nobody else has, portable, without dots.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    /// A topic of its own, declared.
    pub(crate) async fn topic(&self, suffix: &str) -> Verdict<Topic> {
        self.declare(&self.name(suffix)).await
    }

    /// Declares a topic of this name; it is removed in the end.
    pub(crate) async fn declare(&self, name: &str) -> Verdict<Topic> {
        let topic = Topic::parse(name.to_owned())?;
        self.state().topics.push(topic.clone());
        self.admin().await?.declare_topic(&self.harness.topic_spec(TopicSpec::new(topic.clone()))).await?;
        Ok(topic)
    }

    /// A place that belongs to another program; it is removed in the end.
    pub(crate) async fn foreign_place(&self, suffix: &str) -> Verdict<Topic> {
        let place = self.foreign()?.create(&self.name(suffix)).await?;
        self.state().foreign.push(place.clone());
        Ok(place)
    }

    /// A group of `topic`, declared, shared.
    pub(crate) async fn group(&self, topic: &Topic, name: &str) -> Verdict<Group> {
        self.group_with(topic, name, GroupMode::Shared, &[]).await
    }

    /// A group with everything it needs to retry, declared.
    pub(crate) async fn group_with(
        &self,
        topic: &Topic,
        name: &str,
        mode: GroupMode,
        delays: &[Duration],
    ) -> Verdict<Group> {
        let group = Group::parse(name.to_owned())?;
        let mut spec = GroupSpec::new(topic.clone(), group.clone());
        spec.mode = mode;
        spec.retry_delays = delays.to_vec();
        self.admin().await?.declare_group(&spec).await?;
        Ok(group)
    }

    /// A topic with one shared group.
    pub(crate) async fn place(&self) -> Verdict<(Topic, Group)> {
        let topic = self.topic("t").await?;
        let group = self.group(&topic, "g").await?;
        Ok((topic, group))
    }

    /// A topic with a group whose order per key is kept, where the broker has such groups.
    pub(crate) async fn ordered_place(&self) -> Verdict<(Topic, Group)> {
        let topic = self.topic("t").await?;
        let group = self.group_with(&topic, "g", GroupMode::Ordered, &[]).await?;
        Ok((topic, group))
    }

    /// Reads `topic` as `group` on the scenario's own connection.
    pub(crate) async fn reader(&self, topic: &Topic, group: &Group) -> Verdict<Reader<'_>> {
        let broker = self.broker().await?;
        self.reader_on(&broker, ConsumerSpec::new(Subscription::new(topic, group))).await
    }

    /// Reads from the oldest retained message on.
    pub(crate) async fn reader_from(&self, topic: &Topic, group: &Group, start: StartFrom) -> Verdict<Reader<'_>> {
        let broker = self.broker().await?;
        self.reader_on(&broker, ConsumerSpec::new(Subscription::new(topic, group).start(start))).await
    }

    /// What a consumer of an ordered group is opened with.
    pub(crate) fn ordered(&self, topic: &Topic, group: &Group, prefetch: usize) -> ConsumerSpec {
        let subscription = Subscription::new(topic, group).mode(GroupMode::Ordered).prefetch(prefetch);
        ConsumerSpec::new(subscription)
    }

    /// Reads on a connection, as `spec` says.
    pub(crate) async fn reader_on(&self, broker: &Broker, spec: ConsumerSpec) -> Verdict<Reader<'_>> {
        let group = spec.subscription.group().map_or_else(|| self.name("broadcast"), ToString::to_string);
        Ok(Reader::new(self, broker.consumer_with(spec).await?, group))
    }

    /// A message with a body, a header and the id `m<number>`.
    pub(crate) fn message(&self, topic: &Topic, number: usize) -> Message {
        Message::to(topic.clone())
            .id(format!("m{number}"))
            .body(format!("body of {number}"))
            .header("number", number.to_string())
    }

    /// Sends one message, confirmed and recorded.
    pub(crate) async fn send(&self, producer: &Producer, message: Message) -> Verdict<Receipt> {
        let id = self.sending(&message, None);
        let outcome = producer.send(message).await;
        self.sent(&id, outcome.as_ref().map_err(SendError::error));
        Ok(outcome?)
    }

    /// Sends `count` messages from number 0 on, pipelined, confirmed and recorded.
    pub(crate) async fn send_many(&self, producer: &Producer, topic: &Topic, count: usize) -> Verdict {
        self.send_all(producer, (0..count).map(|number| self.message(topic, number))).await
    }

    /// Sends all, pipelined in their order, confirmed and recorded.
    pub(crate) async fn send_all(&self, producer: &Producer, messages: impl IntoIterator<Item = Message>) -> Verdict {
        let mut pending = Vec::new();
        for message in messages {
            let id = self.sending(&message, None);
            pending.push((id, producer.enqueue(message).await?));
        }
        for (id, pending) in pending {
            let outcome = pending.await;
            self.sent(&id, outcome.as_ref().map_err(SendError::error));
            outcome?;
        }
        Ok(())
    }

    /// Records that a send begins, and keeps the message for comparison. Returns its id.
    pub(crate) fn sending(&self, message: &Message, delay: Option<Duration>) -> String {
        let id = message.message_id().map_or_else(|| "?".to_owned(), ToString::to_string);
        let due = delay.map(|delay| self.history.now() + delay);
        self.history.note(&id, "", What::Sent { key: message.key_bytes().cloned(), due });
        self.state().sent.insert(id.clone(), message.clone());
        id
    }

    /// Records how a send ended.
    pub(crate) fn sent(&self, id: &str, outcome: Result<&Receipt, &mq_core::Error>) {
        let what = match outcome {
            Ok(_) => What::Confirmed,
            Err(error) => What::Refused { ambiguous: error.is_ambiguous(), error: error.to_string() },
        };
        self.history.note(id, "", what);
    }

    /// The message sent under this id.
    pub(crate) fn original(&self, id: &str) -> Option<Message> {
        self.state().sent.get(id).cloned()
    }

    /// Waits until `count` handlers of `group` ended with `action`; they must.
    pub(crate) async fn until_ended(&self, group: &Group, action: Action, count: usize) -> Verdict {
        let right = |lines: &[Entry]| crate::history::ended(lines, action) >= count;
        if self.history.until(group.as_str(), self.patience() * 2, right).await {
            return Ok(());
        }
        let entries = self.history.entries();
        let lines: Vec<Entry> = entries.into_iter().filter(|entry| *entry.group == *group.as_str()).collect();
        let ended = crate::history::ended(&lines, action);
        let open = lines.iter().rev().find(|entry| matches!(entry.what, What::Settled { .. } | What::Delivered { .. }));
        let tale = open.map(|entry| crate::history::story(&lines, &entry.id)).unwrap_or_default();
        Err(Failure::new(format!(
            "{ended} of {count} handlers ended with {action:?} in time; the last of them: {tale}"
        )))
    }

    /// The shortest delay worth asking this broker for: at least 300 ms, at least its granularity for `feature`.
    pub(crate) fn delay(&self, feature: Feature) -> Duration {
        let granularity = self.capabilities.get(feature).and_then(|capability| capability.limits.granularity);
        granularity.unwrap_or_default().max(Duration::from_millis(300))
    }

    /// The latest a delay of `feature` may take beyond itself.
    pub(crate) fn lateness(&self, feature: Feature) -> Duration {
        let limits = self.capabilities.get(feature).map(|capability| capability.limits.clone()).unwrap_or_default();
        limits.lateness.unwrap_or_default() + limits.granularity.unwrap_or_default() + self.slack()
    }

    /// Removes what the scenario made. Errors are of no interest: the verdict stands.
    pub(crate) async fn clean_up(&self) {
        let (topics, places, brokers) = {
            let mut state = self.state();
            (std::mem::take(&mut state.topics), std::mem::take(&mut state.foreign), std::mem::take(&mut state.brokers))
        };
        let limit = Duration::from_secs(20);
        let removal = async {
            if let Some(broker) = brokers.first() {
                for topic in &topics {
                    let _ = broker.admin().delete_topic(topic).await;
                }
            }
            if let Some(foreign) = self.harness.foreign() {
                for place in &places {
                    let _ = foreign.remove(place).await;
                }
            }
        };
        let _ = tokio::time::timeout(limit, removal).await;
        for broker in brokers {
            let _ = tokio::time::timeout(limit, broker.driver().close(Duration::from_secs(5))).await;
        }
    }
}
