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
    pub(crate) leaving: AtomicBool,
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
            let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
            let ended = if assigned { client.incremental_assign(list) } else { client.incremental_unassign(list) };
            if ended.is_err() {
                // The protocol is not cooperative, or the client gave the partitions up already.
                let _ = client.unassign();
            }
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
