//! What is known of brokers and topics: where they are now, and where they were.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::route::{Node, Queue, Route};

/// A broker that was not seen for so long counts as taken away on purpose.
const MISSED: Duration = Duration::from_secs(5 * 60);

/// Routes as they were last heard of.
#[derive(Debug, Default)]
pub(crate) struct Routes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    topics: HashMap<String, Known>,
    /// Where each broker was last.
    addresses: HashMap<String, String>,
}

#[derive(Debug)]
struct Known {
    /// `None`: to be asked for again.
    asked: Option<Instant>,
    route: Arc<Route>,
    /// When a broker was last among those of the topic.
    seen: BTreeMap<String, Instant>,
    /// The queues for keys.
    keyed: Arc<[Queue]>,
}

impl Routes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route, if it was asked for less than `age` ago.
    pub(crate) fn within(&self, topic: &str, age: Duration) -> Option<Arc<Route>> {
        let state = self.state();
        let known = state.topics.get(topic)?;
        known.asked.is_some_and(|asked| asked.elapsed() < age).then(|| Arc::clone(&known.route))
    }

    pub(crate) fn learn(&self, topic: &str, route: &Arc<Route>) {
        let now = Instant::now();
        let mut state = self.state();
        for node in &route.nodes {
            if state.addresses.get(&node.name) != Some(&node.address) {
                state.addresses.insert(node.name.clone(), node.address.clone());
            }
        }
        let known = state.topics.entry(topic.to_owned()).or_insert_with(|| Known {
            asked: None,
            route: Arc::clone(route),
            seen: BTreeMap::new(),
            keyed: [].into(),
        });
        let lost = |queue: &Queue| !route.nodes.iter().any(|node| node.name == queue.broker.name);
        if !known.keyed.iter().any(lost) {
            known.keyed = route.writable.as_slice().into();
        }
        known.asked = Some(now);
        known.route = Arc::clone(route);
        known.seen.retain(|_, at| at.elapsed() < MISSED);
        known.seen.extend(route.nodes.iter().map(|node| (node.name.clone(), now)));
    }

    /// The next question for it goes to the name servers.
    pub(crate) fn forget(&self, topic: &str) {
        if let Some(known) = self.state().topics.get_mut(topic) {
            known.asked = None;
        }
    }

    /// There is no such topic any more: one of this name would be another.
    pub(crate) fn remove(&self, topic: &str) {
        self.state().topics.remove(topic);
    }

    /// The queues among which keys are spread: those of all brokers that were seen with the topic. A key stays on its
    /// queue also while one of them is away and the name servers know fewer.
    pub(crate) fn keyed(&self, topic: &str) -> Arc<[Queue]> {
        self.state().topics.get(topic).map_or_else(|| [].into(), |known| Arc::clone(&known.keyed))
    }

    /// Brokers which had the topic a moment ago and are not in its route now.
    pub(crate) fn missing(&self, topic: &str) -> Vec<String> {
        let state = self.state();
        let Some(known) = state.topics.get(topic) else { return Vec::new() };
        let gone = |(name, at): &(&String, &Instant)| {
            at.elapsed() < MISSED && !known.route.nodes.iter().any(|node| node.name == **name)
        };
        known.seen.iter().filter(gone).map(|(name, _)| name.clone()).collect()
    }

    /// True while no second broker was heard of.
    pub(crate) fn is_single(&self) -> bool {
        self.state().addresses.len() <= 1
    }

    /// Where a broker is now: one that comes back may do so at another address.
    pub(crate) fn address(&self, node: &Node) -> String {
        self.state().addresses.get(&node.name).unwrap_or(&node.address).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(brokers: &[(&str, &str)]) -> Arc<Route> {
        let data: Vec<_> = brokers
            .iter()
            .map(|(name, address)| serde_json::json!({ "brokerName": name, "brokerAddrs": { "0": address } }))
            .collect();
        let queues: Vec<_> = brokers
            .iter()
            .map(|(name, _)| {
                serde_json::json!({ "brokerName": name, "perm": 6, "readQueueNums": 2, "writeQueueNums": 2 })
            })
            .collect();
        let body = serde_json::json!({ "brokerDatas": data, "queueDatas": queues }).to_string();
        Arc::new(Route::decode(body.as_bytes(), &BTreeMap::new()).unwrap())
    }

    #[test]
    fn keys_stay_while_a_broker_is_away() {
        let routes = Routes::default();
        let whole = route(&[("broker-a", "h:1"), ("broker-b", "h:2")]);
        routes.learn("t", &whole);
        assert_eq!((routes.keyed("t").len(), routes.is_single()), (4, false));
        let half = route(&[("broker-b", "h:3")]);
        routes.learn("t", &half);
        assert_eq!(*routes.keyed("t"), *whole.writable);
        assert_eq!(routes.missing("t"), ["broker-a"]);
        assert_eq!(routes.address(&whole.nodes[1]), "h:3", "it has moved");
        assert!(routes.within("t", Duration::from_secs(9)).is_some());
        routes.forget("t");
        assert!(routes.within("t", Duration::from_secs(9)).is_none() && !routes.keyed("t").is_empty());
        routes.learn("t", &route(&[("broker-a", "h:1"), ("broker-b", "h:2"), ("broker-c", "h:3")]));
        assert_eq!((routes.keyed("t").len(), routes.missing("t").len()), (6, 0), "for those who begin now");
        routes.remove("t");
        routes.learn("t", &half);
        assert_eq!(routes.keyed("t").len(), 2, "another topic of the same name");
    }
}
