//! Where a topic is: its queues, and the brokers that have them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mq_core::error::{ErrorKind, Result};
use mq_core::name::fnv1a;
use serde::Deserialize;

use crate::error::error;

/// Queues of one broker are numbered below this; a partition is a broker's place times this plus the queue.
const QUEUES: u32 = 4096;
/// Places below this are for names that end in a letter or a number; others have the rest of those a partition has room for.
const PLAIN: u32 = 1024;
const PLACES: u32 = 1 << 20;
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
    /// Its number among the brokers, by its name.
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

/// The number of a broker by its name alone: who knows fewer of the brokers, as one of them is away, must come to the
/// same positions. `broker-a` and `broker-0` are the first, `broker-b` and `broker-1` the second; other names are hashed.
fn place(name: &str) -> u32 {
    let digits = name.len() - name.trim_end_matches(|last: char| last.is_ascii_digit()).len();
    if let Some(number) = name.get(name.len() - digits..).and_then(|digits| digits.parse().ok()).filter(|n| *n < PLAIN)
    {
        return number;
    }
    match name.as_bytes() {
        [.., b'-' | b'_' | b'.', last @ b'a'..=b'z'] => u32::from(last - b'a'),
        _ => hashed(name),
    }
}

fn hashed(name: &str) -> u32 {
    let room = u64::from(PLACES - PLAIN);
    PLAIN + u32::try_from(fnv1a(name.as_bytes()) % room).unwrap_or_default()
}

impl Route {
    /// What several name servers know, together; where they differ about a broker the first is believed.
    pub(crate) fn merged(routes: impl IntoIterator<Item = Self>) -> Self {
        let mut whole = Self::default();
        for route in routes {
            let new = |node: &Arc<Node>| !whole.nodes.iter().any(|known| known.name == node.name);
            let nodes: Vec<_> = route.nodes.into_iter().filter(new).collect();
            let of_new = |queue: &Queue| nodes.iter().any(|node| node.name == queue.broker.name);
            whole.readable.extend(route.readable.into_iter().filter(of_new));
            whole.writable.extend(route.writable.into_iter().filter(of_new));
            whole.nodes.extend(nodes);
        }
        let by_name = |one: &Queue, other: &Queue| (&one.broker.name, one.id).cmp(&(&other.broker.name, other.id));
        whole.nodes.sort_by(|one, other| one.name.cmp(&other.name));
        whole.readable.sort_by(by_name);
        whole.writable.sort_by(by_name);
        whole
    }

    /// Reads the name server's answer; `addresses` says where to go instead of an address it names.
    pub(crate) fn decode(body: &[u8], addresses: &BTreeMap<String, String>) -> Result<Self> {
        let data: Data = serde_json::from_slice(body)
            .map_err(|_| error(ErrorKind::Internal, "the name server's route cannot be read"))?;
        let mut brokers = data.broker_datas;
        brokers.sort_by(|one, other| one.broker_name.cmp(&other.broker_name));
        let mut route = Self::default();
        for broker in brokers {
            // Only the master takes messages and acknowledgements.
            let Some(address) = broker.broker_addrs.get("0") else { continue };
            let address = addresses.get(address).unwrap_or(address).clone();
            let mut place = place(&broker.broker_name);
            if route.nodes.iter().any(|other| other.place == place) {
                place = hashed(&broker.broker_name);
            }
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
        let body = br#"{"brokerDatas":[{"brokerAddrs":{"0":"h:2","1":"h:9"},"brokerName":"n-b"},
            {"brokerAddrs":{"0":"h:1"},"brokerName":"n-a"}],"queueDatas":[
            {"brokerName":"n-a","perm":6,"readQueueNums":2,"writeQueueNums":1},
            {"brokerName":"n-b","perm":4,"readQueueNums":1,"writeQueueNums":1}]}"#;
        let addresses = BTreeMap::from([("h:2".to_owned(), "tunnel:2".to_owned())]);
        let route = Route::decode(body, &addresses).unwrap();
        assert_eq!(route.readable.iter().map(Queue::partition).collect::<Vec<_>>(), [0, 1, 4096]);
        assert_eq!(route.writable.len(), 1);
        assert_eq!(route.nodes[1].address, "tunnel:2");
        assert!(Route::decode(b"nonsense", &addresses).is_err());
    }

    #[test]
    fn a_number_is_its_names_own() {
        for (name, number) in [("broker-a", 0), ("broker-b", 1), ("broker-0", 0), ("RaftNode01", 1), ("mq_c", 2)] {
            assert_eq!(place(name), number, "{name}");
        }
        for name in ["", "orders", "broker-2026", "broker-99999999999999", "ä", "é-ä"] {
            assert!((PLAIN..PLACES).contains(&place(name)), "{name}");
        }
        let both = br#"{"brokerDatas":[{"brokerAddrs":{"0":"h:1"},"brokerName":"broker-a"},
            {"brokerAddrs":{"0":"h:2"},"brokerName":"broker-0"}]}"#;
        let route = Route::decode(both, &BTreeMap::new()).unwrap();
        assert_ne!(route.nodes[0].partition(0), route.nodes[1].partition(0));
    }

    #[test]
    fn what_one_name_server_does_not_know_another_may() {
        let route = |name: &str, address: &str| {
            let body = format!(
                r#"{{"brokerDatas":[{{"brokerAddrs":{{"0":"{address}"}},"brokerName":"{name}"}}],
                "queueDatas":[{{"brokerName":"{name}","perm":6,"readQueueNums":2,"writeQueueNums":2}}]}}"#
            );
            Route::decode(body.as_bytes(), &BTreeMap::new()).unwrap()
        };
        let merged = Route::merged([route("n-b", "h:2"), route("n-a", "h:1"), route("n-b", "h:9")]);
        assert_eq!(merged.nodes.iter().map(|node| &*node.address).collect::<Vec<_>>(), ["h:1", "h:2"]);
        assert_eq!(merged.writable.iter().map(Queue::partition).collect::<Vec<_>>(), [0, 1, 4096, 4097]);
    }
}
