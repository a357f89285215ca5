//! A client that has forgotten every broker looks for none any more (docs/decisions/kafka-stranded.md): another takes its
//! place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_core::driver::Event;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use rdkafka::topic_partition_list::Offset;

use crate::assignment::ids;
use crate::lane::Phase;
use crate::reader::Reader;
use crate::rebalance;
use crate::reports::Reports;
use crate::shared::Client;

/// Between two looks whether an old producer has told the end of everything it had.
const LOOK: Duration = Duration::from_millis(100);

impl Reader {
    /// As after a session that has ended: what was delivered is void, and comes again.
    pub(crate) fn replace_stranded(&mut self) {
        if !self.client.context().stranded.is_certain() {
            return;
        }
        let client = match (self.open)() {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "the client has lost every broker, and no other can be made now");
                return;
            }
        };
        tracing::warn!("the client has lost every broker and looks for none: another takes its place");
        retire_consumer(std::mem::replace(&mut self.client, client));
        self.last = None;
        self.paused.clear();
        if !self.shared.options.commits {
            self.assign_again();
            return;
        }
        self.start_commits();
        self.revocations.clear();
        self.joining = true;
        let mut state = self.shared.lock();
        state.membership = None;
        let lanes =
            (0..state.lanes.len()).filter(|index| state.lanes.get(*index).is_some_and(|l| l.phase != Phase::Gone));
        let lanes: Vec<usize> = lanes.collect();
        let _ = state.end(&lanes);
        drop(state);
        if !lanes.is_empty() {
            self.shared.push_event(Event::Lost(ids(&lanes)));
        }
    }

    /// A subscription that is no member of a group goes on where it has read to.
    fn assign_again(&self) {
        let mut list = TopicPartitionList::new();
        for lane in &self.shared.lock().lanes {
            // An offset the broker itself named is valid.
            let _ = list.add_partition_offset(&lane.source.name, lane.partition, Offset::Offset(lane.read));
        }
        if let Err(error) = self.client.assign(&list) {
            tracing::warn!(%error, "cannot take the partitions again");
        }
    }
}

/// Ends a consumer beside its successor: that waits for answers which may not come.
fn retire_consumer(old: Arc<Client>) {
    rebalance::leave(&old);
    let ending = std::thread::Builder::new().name("mq-kafka-retired".to_owned());
    if let Err(error) = ending.spawn(move || drop(old)) {
        tracing::warn!(%error, "cannot start a thread to end the old client");
    }
}

/// Ends everything a producer has, with an error that says it may be stored; at most for `limit`.
pub(crate) fn retire_producer(old: Arc<BaseProducer<Reports>>, limit: Duration) {
    old.context().give_up();
    let ending = std::thread::Builder::new().name("mq-kafka-retired".to_owned());
    let until = Instant::now() + limit;
    let end = move || {
        // Whoever took the old one a moment ago may still hand something over.
        while Instant::now() < until && (old.in_flight_count() > 0 || Arc::strong_count(&old) > 1) {
            old.purge(PurgeConfig::default().queue().inflight());
            old.poll(LOOK);
        }
    };
    if let Err(error) = ending.spawn(end) {
        tracing::warn!(%error, "cannot start a thread to end the old client");
    }
}

#[cfg(test)]
mod tests {
    use mq_core::driver::{ConsumerDriver as _, Settle, Settled, Settlement, SettlerDriver as _, Token};
    use mq_core::name::{Group, Topic};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use tokio::sync::Notify;

    use super::*;
    use crate::client::{Stranded, Watch, checked, consumer_config};
    use crate::config::Config;
    use crate::consumer::KafkaConsumer;
    use crate::lane::{Kind, Source};
    use crate::link::Link;
    use crate::outgoing::Outgoing;
    use crate::reader::Open;
    use crate::rebalance::Rebalances;
    use crate::settler::KafkaSettler;
    use crate::shared::{Options, Shared};

    type Cluster = MockCluster<'static, DefaultProducerContext>;

    fn cluster() -> (Cluster, Arc<Config>) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let brokers = vec![cluster.bootstrap_servers()];
        (cluster, Arc::new(Config { brokers, ..Config::default() }))
    }

    /// What the client would tell of itself if it had lost every broker.
    fn strand(stranded: &Stranded) {
        (0..2).for_each(|_| stranded.look(br#"{"brokers":{}}"#));
    }

    fn record(body: &str) -> Outgoing<'_> {
        Outgoing { topic: "orders", key: Some(b"k"), body: Some(body.as_bytes()), headers: None }
    }

    #[tokio::test]
    async fn a_producer_ends_what_it_has_and_goes_on() {
        let (cluster, config) = cluster();
        let link = Link::open(config).unwrap();
        link.store(&record("one")).await.unwrap();
        let first = link.client();
        cluster.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
        let waiting = link.start(&record("two")).await.unwrap();
        while Arc::ptr_eq(&first, &link.client()) {
            strand(&first.context().stranded);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(first);
        let error = link.stored(waiting).await.unwrap_err();
        assert!(error.is_ambiguous(), "it may be stored: {error:?}");
        cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
        link.store(&record("three")).await.unwrap();
        link.flush(Duration::from_secs(5)).await.unwrap();
    }

    /// The clients a consumer had so far.
    type Made = Arc<std::sync::Mutex<Vec<Arc<Client>>>>;

    fn member(link: &Arc<Link>) -> (KafkaConsumer, KafkaSettler, Arc<Shared>, Made) {
        let options = Options {
            prefetch: 10,
            buffer: 20,
            auto_ack: false,
            commits: true,
            commit_acks: 1,
            commit_interval: Duration::from_millis(50),
            duplicate_window: 10,
            drain: Duration::from_secs(1),
        };
        let shared = Arc::new(Shared::new(options, Arc::<Notify>::default()));
        let made = Made::default();
        let (config, keep) = (Arc::clone(&link.config), Arc::clone(&made));
        let open: Open = Box::new(move || {
            let context = Rebalances::new(Watch::new(&config));
            let client =
                Arc::new(checked(consumer_config(&config, "g").create_with_context(context), "open consumer")?);
            checked(Client::subscribe(&client, &["orders"]), "subscribe")?;
            keep.lock().unwrap().push(Arc::clone(&client));
            Ok(client)
        });
        let topic = Topic::parse("orders").unwrap();
        let source = Source { topic, name: "orders".to_owned(), kind: Kind::Source };
        let reader = Reader::new(open, Arc::clone(&shared), vec![source], Duration::from_secs(5)).unwrap();
        let settler = KafkaSettler::new(Arc::clone(&shared), Arc::clone(link), Group::parse("g").ok(), Vec::new());
        (KafkaConsumer::start(reader, Arc::clone(&shared)).unwrap(), settler, shared, made)
    }

    /// The next message, and whether partitions were lost before it came.
    async fn next(consumer: &mut KafkaConsumer) -> (Token, String, bool) {
        let (mut events, mut lost) = (Vec::new(), false);
        for _ in 0..600 {
            consumer.poll(&mut events, 1, Duration::from_millis(100)).await.unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Message(incoming) => {
                        let body = incoming.message.body_bytes().map(|body| body.escape_ascii().to_string());
                        return (incoming.token, body.unwrap_or_default(), lost);
                    }
                    Event::Lost(_) => lost = true,
                    Event::Revoking(revocation, _) => consumer.revoked(revocation).await.unwrap(),
                    _ => {}
                }
            }
        }
        panic!("no message within a minute");
    }

    #[tokio::test]
    async fn a_consumer_goes_on_where_it_was_and_settles_nothing_of_before() {
        let (_cluster, config) = cluster();
        let link = Link::open(config).unwrap();
        for body in ["one", "two", "three"] {
            link.store(&record(body)).await.unwrap();
        }
        let (mut consumer, settler, shared, made) = member(&link);
        let (one, body, _) = next(&mut consumer).await;
        assert_eq!(body, "one");
        settler.settle(&mut vec![Settlement { token: one, action: Settle::Ack }]).await.remove(0).unwrap();
        shared.flush().await;
        let (two, body, _) = next(&mut consumer).await;
        assert_eq!(body, "two");
        while made.lock().unwrap().len() == 1 {
            let first = made.lock().unwrap().first().map(Arc::clone).unwrap();
            strand(&first.context().stranded);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The test holds the old one no longer: it leaves.
        made.lock().unwrap().clear();
        let (again, body, lost) = next(&mut consumer).await;
        assert_eq!((body.as_str(), lost), ("two", true));
        let stale = settler.settle(&mut vec![Settlement { token: two, action: Settle::Ack }]).await.remove(0).unwrap();
        assert_eq!(stale, Settled::Stale);
        let settled =
            settler.settle(&mut vec![Settlement { token: again, action: Settle::Ack }]).await.remove(0).unwrap();
        assert_ne!(settled, Settled::Stale);
        assert_eq!(next(&mut consumer).await.1, "three");
        Box::new(consumer).close(Duration::from_secs(20)).await.unwrap();
    }
}
