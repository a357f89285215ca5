//! Where a topic is: its queues, and the brokers that have them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mq_core::error::{ErrorKind, Result};
use serde::Deserialize;

use crate::error::error;

/// Queues of one broker are numbered below this; a partition is a broker's place times this plus the queue.
const QUEUES: u32 = 4096;
const READ: u32 = 4;
const WRITE: u32 = 2;

/// A queue of one broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    pub(crate) broker: Arc<Node>,
    pub(crate) id: u32,
}

/// A broker that takes messages.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Its place among the brokers of the topic, by their names.
    place: u32,
}

impl Node {
    /// The number of one of its queues among those of all brokers.
    pub(crate) fn partition(&self, queue: u32) -> u32 {
        self.place.saturating_mul(QUEUES).saturating_add(queue)
    }

    /// The first `count` queues of a topic at this broker.
    pub(crate) fn queues(self: &Arc<Self>, count: u32) -> Vec<Queue> {
        (0..count.min(QUEUES)).map(|id| Queue { broker: Arc::clone(self), id }).collect()
    }
}

impl Queue {
    pub(crate) fn partition(&self) -> u32 {
        self.broker.partition(self.id)
    }
}

/// Where a topic is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) readable: Vec<Queue>,
    pub(crate) writable: Vec<Queue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    broker_datas: Vec<BrokerData>,
    #[serde(default)]
    queue_datas: Vec<QueueData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BrokerData {
    broker_name: String,
    #[serde(default)]
    broker_addrs: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueData {
    broker_name: String,
    #[serde(default)]
    perm: u32,
    #[serde(default)]
    read_queue_nums: u32,
    #[serde(default)]
    write_queue_nums: u32,
}

impl Route {
    /// Reads the name server's answer; `addresses` says where to go instead of an address it names.
    pub(crate) fn decode(body: &[u8], addresses: &BTreeMap<String, String>) -> Result<Self> {
        let data: Data = serde_json::from_slice(body)
            .map_err(|_| error(ErrorKind::Internal, "the name server's route cannot be read"))?;
        let mut brokers = data.broker_datas;
        brokers.sort_by(|one, other| one.broker_name.cmp(&other.broker_name));
        let mut route = Self::default();
        for (place, broker) in (0..).zip(brokers) {
            // Only the master takes messages and acknowledgements.
            let Some(address) = broker.broker_addrs.get("0") else { continue };
            let address = addresses.get(address).unwrap_or(address).clone();
            let node = Arc::new(Node { name: broker.broker_name, address, place });
            for queues in data.queue_datas.iter().filter(|queues| queues.broker_name == node.name) {
                if queues.perm & READ != 0 {
                    route.readable.extend(node.queues(queues.read_queue_nums));
                }
                if queues.perm & WRITE != 0 {
                    route.writable.extend(node.queues(queues.write_queue_nums));
                }
            }
            route.nodes.push(node);
        }
        Ok(route)
    }

    /// How many queues can be read at one broker.
    pub(crate) fn queues_at(&self, node: &Node) -> u32 {
        u32::try_from(self.readable.iter().filter(|queue| *queue.broker == *node).count()).unwrap_or(QUEUES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_numbered_over_all_brokers() {
        let body = br#"{"brokerDatas":[{"brokerAddrs":{"0":"h:2","1":"h:9"},"brokerName":"b"},
            {"brokerAddrs":{"0":"h:1"},"brokerName":"a"}],"queueDatas":[
            {"brokerName":"a","perm":6,"readQueueNums":2,"writeQueueNums":1},
            {"brokerName":"b","perm":4,"readQueueNums":1,"writeQueueNums":1}]}"#;
        let addresses = BTreeMap::from([("h:2".to_owned(), "tunnel:2".to_owned())]);
        let route = Route::decode(body, &addresses).unwrap();
        assert_eq!(route.readable.iter().map(Queue::partition).collect::<Vec<_>>(), [0, 1, 4096]);
        assert_eq!(route.writable.len(), 1);
        assert_eq!(route.nodes[1].address, "tunnel:2");
        assert!(Route::decode(b"nonsense", &addresses).is_err());
    }
}
