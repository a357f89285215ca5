//! The thread that reads: it alone polls the client, so heartbeats and rebalances go on whatever handlers do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mq_core::driver::{Event, Incoming, Token};
use mq_core::error::{ErrorKind, Result};
use mq_core::message::{Position, control};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::assignment::{FINAL_COMMIT, JOINED, Revocation};
use crate::decode::Decoder;
use crate::lane::{Kind, Phase, Source};
use crate::offset_map::OffsetMap;
use crate::rebalance;
use crate::scheduler::LOOK;
use crate::shared::{Client, Failure, Shared};
use crate::state::offset_of;

/// How long a poll waits when there is nothing: also how soon requests are seen.
const IDLE: Duration = Duration::from_millis(50);
/// Messages read before they are passed on.
const BATCH: usize = 256;
/// How long a topic must be unknown to the brokers before the subscription ends: just after a restart a broker may
/// not know its topics yet.
const UNKNOWN: Duration = Duration::from_secs(5);

/// What decoding needs of a lane, without the lock.
pub(crate) struct Known {
    pub(crate) source: Source,
    pub(crate) epoch: u32,
}

/// Makes a client, subscribed if it is a member of a group.
pub(crate) type Open = Box<dyn Fn() -> Result<Arc<Client>> + Send>;

pub(crate) struct Reader {
    pub(crate) client: Arc<Client>,
    pub(crate) open: Open,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sources: HashMap<String, Source>,
    /// Lanes by topic and partition.
    pub(crate) places: HashMap<(String, i32), usize>,
    pub(crate) known: Vec<Known>,
    /// The client's topic handle and partition of the last message, and its lane: most messages are neighbours.
    pub(crate) last: Option<(usize, i32, usize)>,
    pub(crate) decoder: Decoder,
    pub(crate) batch: Vec<Event>,
    pub(crate) revocations: Vec<Revocation>,
    pub(crate) next_revocation: u64,
    pub(crate) paused: HashSet<usize>,
    pub(crate) full_since: Option<Instant>,
    pub(crate) overfull: bool,
    pub(crate) unknown_topic: Option<Instant>,
    pub(crate) timeout: Duration,
    pub(crate) commits: Option<JoinHandle<()>>,
    /// Nothing was assigned yet, or it is about to join again.
    pub(crate) joining: bool,
}

impl Reader {
    pub(crate) fn new(open: Open, shared: Arc<Shared>, sources: Vec<Source>, timeout: Duration) -> Result<Self> {
        Ok(Self {
            client: open()?,
            open,
            shared,
            sources: sources.into_iter().map(|source| (source.name.clone(), source)).collect(),
            places: HashMap::new(),
            known: Vec::new(),
            last: None,
            decoder: Decoder::default(),
            batch: Vec::with_capacity(BATCH),
            revocations: Vec::new(),
            next_revocation: 0,
            paused: HashSet::new(),
            full_since: None,
            overfull: false,
            unknown_topic: None,
            timeout,
            commits: None,
            joining: true,
        })
    }

    /// Assigns partitions by hand: for a subscription that is no member of a group.
    pub(crate) fn assign(&mut self, places: &[(String, i32, i64)]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in places {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
            self.open_lane(&(topic.clone(), *partition), Some(*offset), &OffsetMap::default());
        }
        self.joining = false;
        self.client.assign(&list)
    }

    /// Reads until the consumer is closed; commits on a thread beside it.
    pub(crate) fn run(mut self) {
        self.start_commits();
        while !self.shared.lock().closing {
            self.turn();
        }
        self.leave();
    }

    /// What the committing thread of an earlier client still hears counts for nothing.
    pub(crate) fn start_commits(&mut self) {
        let (client, shared) = (Arc::clone(&self.client), Arc::clone(&self.shared));
        let commits = std::thread::Builder::new().name("mq-kafka-commits".to_owned());
        let turn = shared.begin_commits();
        match commits.spawn(move || shared.run_commits(&client, turn)) {
            Ok(thread) => self.commits = Some(thread),
            Err(error) => self.fail(ErrorKind::Internal, format!("cannot start a thread: {error}")),
        }
    }

    fn turn(&mut self) {
        self.replace_stranded();
        self.rebalance();
        self.end_revocations();
        self.read_places_again();
        self.seek_back();
        let due = self.shared.release_due();
        let full = self.pause_or_resume();
        self.check_topic();
        self.shared.tick();
        if full {
            self.shared.wait_for_room(IDLE.min(due.unwrap_or(IDLE)));
            return;
        }
        self.read(IDLE.min(due.unwrap_or(IDLE)));
    }

    fn read(&mut self, wait: Duration) {
        let client = Arc::clone(&self.client);
        let mut wait = wait;
        for _ in 0..BATCH {
            match client.poll(wait) {
                Some(Ok(record)) => self.keep(&record),
                Some(Err(error)) => self.failed(&error),
                None => break,
            }
            wait = Duration::ZERO;
        }
        if self.batch.is_empty() {
            return;
        }
        if self.shared.options.auto_ack && !self.settle_before_delivery() {
            self.batch.clear();
            return;
        }
        self.shared.push(&mut self.batch);
    }

    fn keep(&mut self, record: &BorrowedMessage<'_>) {
        // The handle is only compared: equal while the assignment stands, and forgotten with it.
        let handle = record.topic_ptr() as usize;
        let partition = record.partition();
        let index = match self.last {
            Some((known, part, index)) if known == handle && part == partition => index,
            _ => {
                let Some(index) = self.places.get(&(record.topic().to_owned(), partition)).copied() else { return };
                self.last = Some((handle, partition, index));
                index
            }
        };
        let Some(known) = self.known.get(index) else { return };
        let (Ok(offset), Ok(lane)) = (u64::try_from(record.offset()), u32::try_from(index)) else { return };
        let mut decoded = self.decoder.decode(record, &known.source.topic, known.source.kind.is_owned());
        if known.source.kind == Kind::Delay {
            decoded.control.due = control::millis(&decoded.reserved, LOOK);
            let reserved = decoded.reserved.iter().map(|(name, value)| (name.clone(), value.clone()));
            decoded.message.headers_mut().extend(reserved);
        }
        let position =
            Position::Log { partition: u32::try_from(partition).unwrap_or_default(), offset: record.offset() };
        self.batch.push(Event::Message(Incoming {
            token: Token { epoch: known.epoch, lane, major: offset, minor: self.shared.number },
            message: decoded.message,
            position,
            control: decoded.control,
            redeliveries: 0,
            redelivered: false,
            origin: known.source.kind.origin(),
        }));
    }

    /// At most once: the place is committed before anybody sees the messages. False when that failed.
    fn settle_before_delivery(&mut self) -> bool {
        let mut ends: HashMap<u32, i64> = HashMap::new();
        let mut starts: HashMap<u32, i64> = HashMap::new();
        for event in &self.batch {
            let Event::Message(incoming) = event else { continue };
            let offset = offset_of(&incoming.token);
            ends.insert(incoming.token.lane, offset + 1);
            starts.entry(incoming.token.lane).or_insert(offset);
        }
        let list = |offsets: &HashMap<u32, i64>| {
            let mut list = TopicPartitionList::new();
            let state = self.shared.lock();
            for (lane, offset) in offsets {
                if let Some(lane) = state.lanes.get(*lane as usize) {
                    // An offset the broker itself just named is always valid.
                    let _ = list.add_partition_offset(&lane.source.name, lane.partition, Offset::Offset(*offset));
                }
            }
            list
        };
        if !self.shared.options.commits {
            return true;
        }
        match self.client.commit(&list(&ends), CommitMode::Sync) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "cannot commit before delivery; the messages are fetched again");
                if let Err(error) = self.client.seek_partitions(list(&starts), Duration::from_secs(1)) {
                    tracing::debug!(%error, "cannot seek back");
                }
                false
            }
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        match code {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.unknown_topic.get_or_insert_with(Instant::now);
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::Authentication
                | Code::SaslAuthenticationFailed,
            ) => {
                // The error does not say which topic.
                let mut topics: Vec<&str> = self.sources.keys().map(String::as_str).collect();
                topics.sort_unstable();
                let text = format!("the broker refuses to go on: {error}; this consumer reads {}", topics.join(", "));
                self.fail_with(ErrorKind::Auth, text, code.and_then(crate::error::hint).unwrap_or_default());
            }
            Some(Code::InconsistentGroupProtocol) => self.fail(
                ErrorKind::TopologyConflict,
                "other members of the group do not share partitions by `cooperative-sticky`; name another group"
                    .to_owned(),
            ),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                self.fail(ErrorKind::Rejected, format!("the client cannot go on: {error}"));
            }
            // Lost connections and the like: the client goes on by itself.
            _ => tracing::debug!(%error, "while receiving"),
        }
    }

    pub(crate) fn fail(&self, kind: ErrorKind, text: String) {
        self.fail_with(kind, text, "");
    }

    fn fail_with(&self, kind: ErrorKind, text: String, hint: &'static str) {
        self.shared.lock().failed = Some(Failure { kind, text, hint });
        self.shared.ready.notify_one();
    }

    /// A topic reported as unknown ends the subscription only when it stays so.
    fn check_topic(&mut self) {
        if self.unknown_topic.is_none_or(|since| since.elapsed() < UNKNOWN) {
            return;
        }
        self.unknown_topic = None;
        for source in self.sources.values() {
            let Ok(metadata) = self.client.fetch_metadata(Some(&source.name), Duration::from_secs(2)) else { continue };
            let gone = metadata.topics().iter().any(|topic| {
                topic.name() == source.name
                    && topic.error() == Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
            });
            if gone {
                self.fail(ErrorKind::NotFound, format!("the topic `{}` is gone", source.name));
            }
        }
    }

    /// Built for each call and dropped after it: a list that was used keeps the client from ending.
    pub(crate) fn list(&self, lanes: &[usize]) -> TopicPartitionList {
        let state = self.shared.lock();
        let mut list = TopicPartitionList::new();
        for lane in lanes.iter().filter_map(|index| state.lanes.get(*index)) {
            list.add_partition(&lane.source.name, lane.partition);
        }
        list
    }

    /// Commits what is settled, then leaves the group.
    fn leave(mut self) {
        // What is asked for while it joins, the client puts off; and a member gone without a word holds up all others
        // until its session has run out.
        let until = Instant::now() + JOINED;
        while self.joining && Instant::now() < until {
            drop(self.client.poll(IDLE));
            self.rebalance();
            self.end_revocations();
        }
        {
            let mut state = self.shared.lock();
            let all: Vec<usize> = (0..state.lanes.len()).collect();
            state.forget_unread(&all);
            for lane in &mut state.lanes {
                lane.dirty |= lane.phase != Phase::Gone;
            }
        }
        let target = self.shared.begin_flush();
        let until = Instant::now() + FINAL_COMMIT;
        while !self.shared.is_durable(target) && Instant::now() < until && !self.client.assignment_lost() {
            // Only callbacks matter now; a message read is not passed on and comes again.
            drop(self.client.poll(IDLE));
            self.shared.tick();
        }
        self.shared.stop_commits();
        rebalance::leave(&self.client);
        // Closed while it has no partition, librdkafka 2.12 tells the group nothing; unsubscribed it does.
        self.client.unsubscribe();
        let open: Vec<usize> = self.revocations.iter().flat_map(|revocation| revocation.lanes.clone()).collect();
        if !open.is_empty() {
            self.unassign(&open);
        }
        // The last to hold the client drops it, which blocks until the group is left: that must be here.
        if let Some(commits) = self.commits.take()
            && commits.join().is_err()
        {
            tracing::error!("the committing thread panicked");
        }
        let shared = Arc::clone(&self.shared);
        drop(self);
        shared.set_closed();
    }
}
