//! What the client's callbacks report of rebalances, and of its connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;

use crate::client::{Stranded, Watch};

/// What the client's callbacks report; the reading thread acts on it after the poll.
pub(crate) struct Rebalances {
    watch: Watch,
    pub(crate) seen: Mutex<Vec<Seen>>,
    /// The consumer is being dropped: nobody is left to end a revocation but the callback.
    leaving: AtomicBool,
    pub(crate) stranded: Stranded,
}

pub(crate) enum Seen {
    Assigned(Vec<(String, i32)>),
    Revoked { partitions: Vec<(String, i32)>, lost: bool },
}

impl Rebalances {
    pub(crate) fn new(watch: Watch) -> Self {
        Self { watch, seen: Mutex::default(), leaving: AtomicBool::new(false), stranded: Stranded::default() }
    }
}

/// Says yes to whatever the group wants: it does not let a member go that still owes it an answer.
fn answer(client: &BaseConsumer<Rebalances>, assigned: bool, list: &TopicPartitionList) {
    let ended = if assigned { client.incremental_assign(list) } else { client.incremental_unassign(list) };
    if ended.is_err() {
        // The protocol is not cooperative, or the client gave the partitions up already.
        let _ = client.unassign();
    }
}

/// From now on the group is answered without the reading thread, beginning with what that has not yet looked at: a
/// consumer dropped with an answer owing is never let go.
pub(crate) fn leave(client: &BaseConsumer<Rebalances>) {
    let rebalances = client.context();
    rebalances.leaving.store(true, Ordering::Release);
    let seen = std::mem::take(&mut *rebalances.seen.lock().unwrap_or_else(PoisonError::into_inner));
    for seen in seen {
        let (assigned, partitions) = match seen {
            Seen::Assigned(partitions) => (true, partitions),
            Seen::Revoked { partitions, .. } => (false, partitions),
        };
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        answer(client, assigned, &list);
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.watch.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats_raw(&self, figures: &[u8]) {
        self.stranded.look(figures);
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, client: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.leaving.load(Ordering::Acquire) {
            answer(client, error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS, list);
            return;
        }
        let partitions = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let seen = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Seen::Assigned(partitions)
        } else {
            Seen::Revoked { partitions, lost: client.assignment_lost() }
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

impl fmt::Debug for Rebalances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rebalances")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::client::consumer_config;
    use crate::config::Config;

    /// Polls until the group wants something: until that is answered, it waits.
    fn asked(client: &BaseConsumer<Rebalances>) -> Seen {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            drop(client.poll(Duration::from_millis(50)));
            if let Some(seen) = client.context().seen.lock().unwrap().pop() {
                return seen;
            }
            assert!(Instant::now() < until, "the group wants nothing");
        }
    }

    /// The group takes its partitions, and the reading thread ends before it has looked.
    #[test]
    fn a_member_that_owes_an_answer_can_leave() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let config = Config { brokers: vec![cluster.bootstrap_servers()], ..Config::default() };
        let context = Rebalances::new(Watch::new(&config));
        let client: BaseConsumer<Rebalances> = consumer_config(&config, "g").create_with_context(context).unwrap();
        client.subscribe(&["orders"]).unwrap();
        assert!(matches!(asked(&client), Seen::Assigned(_)));
        let mut list = TopicPartitionList::new();
        list.add_partition("orders", 0);
        client.incremental_assign(&list).unwrap();
        drop(list);
        client.unsubscribe();
        let unseen = asked(&client);
        assert!(matches!(unseen, Seen::Revoked { .. }));
        client.context().seen.lock().unwrap().push(unseen);
        leave(&client);
        let (ended, told) = mpsc::channel();
        std::thread::spawn(move || {
            drop(client);
            ended.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(30)).expect("the group lets it go");
    }
}
