//! Which nodes have keys, and the connections to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use mq_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::route::{Member, Nodes, member};
use crate::config::RedisConfig;
use crate::connection::{FIRST_PAUSE, connect};
use crate::error::{checked, error, within};
use crate::link::{Live, Shared, To};
use crate::slots::{Address, SlotMap};
use crate::{reply, tls};

/// A node whose link was closed is forgotten by then.
const AGAIN: Duration = Duration::from_millis(20);
/// How long one node may take to say which has what.
const MAP_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at the slots while all is well: a node that has lost some says so itself.
const LOOK: Duration = Duration::from_secs(30);

/// An error unless the cluster serves, as far as this node knows: one that has just started does not yet.
pub(crate) async fn serves(connection: &mut MultiplexedConnection, limit: Duration) -> Result<()> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("INFO");
    let answer = within(limit, connection.send_packed_command(&command)).await.and_then(checked);
    let info = reply::text(answer.map_err(no_cluster)?).unwrap_or_default();
    if info.lines().any(|line| line.trim() == "cluster_state:ok") {
        return Ok(());
    }
    Err(error(ErrorKind::Unavailable, "the cluster is not in a state to serve").with_hint("look at CLUSTER INFO"))
}

fn no_cluster(cause: Error) -> Error {
    if cause.to_string().contains("cluster support disabled") {
        return error(ErrorKind::Config, "this is a single server, and no node of a Redis Cluster")
            .with_hint("use redis:// or rediss:// for a single server");
    }
    cause
}

/// Asks this node which has what.
async fn ask_map(config: &RedisConfig, address: &Address, connection: &mut MultiplexedConnection) -> Result<SlotMap> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let answer = within(MAP_LIMIT, connection.send_packed_command(&command)).await.and_then(checked);
    let map = SlotMap::read(answer.map_err(no_cluster)?, address, config);
    if map.is_whole() {
        return Ok(map);
    }
    Err(error(ErrorKind::Unavailable, "not every slot of the cluster has a node").with_hint("look at CLUSTER SLOTS"))
}

/// Keeps the connections to the nodes, and what is known of them.
struct Keeper {
    shared: Arc<Shared>,
    map: SlotMap,
    watches: HashMap<Address, watch::Receiver<Option<Live>>>,
    /// What was told last: the number of each node's connection.
    told: Option<HashMap<Address, u64>>,
    number: u64,
    standing: u64,
}

/// Runs until the link is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut keeper =
        Keeper { shared, map: SlotMap::default(), watches: HashMap::new(), told: None, number: 0, standing: 0 };
    let mut pause = FIRST_PAUSE;
    let mut ask = true;
    loop {
        if ask && let Err(cause) = keeper.look().await {
            tracing::debug!(%cause, "the cluster does not say which node has what");
            keeper.shared.failed(&cause);
        }
        let whole = keeper.tell();
        pause = if whole { FIRST_PAUSE } else { (pause * 2).min(keeper.shared.config.max_reconnect_delay) };
        let wait = if whole { LOOK } else { pause.mul_f64(0.5 + fastrand::f64()) };
        ask = tokio::select! {
            () = changed(&mut keeper.watches) => false,
            () = keeper.shared.lost.notified() => true,
            () = tokio::time::sleep(wait) => true,
        };
    }
}

/// Returns when the connection to some node is another one.
async fn changed(watches: &mut HashMap<Address, watch::Receiver<Option<Live>>>) {
    if watches.is_empty() {
        return std::future::pending().await;
    }
    // An error: that link is closed, and its node's keys have gone elsewhere.
    let ended = select_all(watches.values_mut().map(|watch| watch.changed().boxed())).await.0.is_err();
    if ended {
        tokio::time::sleep(AGAIN).await;
    }
}

impl Keeper {
    /// Asks for the map: those that are connected, or else any node that was ever heard of.
    async fn look(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut failure = None;
        let mut standing: Vec<(Address, MultiplexedConnection)> = Vec::new();
        for (address, watch) in &self.watches {
            if let Some(Live { to: To::One(connection), .. }) = watch.borrow().clone() {
                standing.push((address.clone(), connection));
            }
        }
        fastrand::shuffle(&mut standing);
        for (address, mut connection) in standing {
            match ask_map(&shared.config, &address, &mut connection).await {
                Ok(map) => return self.take(map),
                Err(cause) => failure = Some(cause),
            }
        }
        let seeds = shared.config.seeds.iter().filter_map(|seed| Address::parse(seed));
        let mut known: Vec<Address> = std::iter::once(shared.address.clone()).chain(seeds).collect();
        known.extend(self.map.nodes.iter().filter(|node| !known.contains(node)).cloned().collect::<Vec<_>>());
        for address in known {
            let asking = async {
                let client = tls::client(&shared.config, address.clone())?;
                let mut connection = connect(&shared.config, &client, shared.config.connect_timeout).await?;
                ask_map(&shared.config, &address, &mut connection).await
            };
            match tokio::time::timeout(MAP_LIMIT, asking).await {
                Ok(Ok(map)) => return self.take(map),
                Ok(Err(cause)) if !cause.is_transient() => return Err(cause),
                Ok(Err(cause)) => failure = Some(cause),
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(|| error(ErrorKind::Unavailable, "no node of the cluster answers")))
    }

    /// Connects to those that have keys now, and lets go of those that have none any more.
    fn take(&mut self, map: SlotMap) -> Result<()> {
        if self.map != map {
            tracing::debug!(masters = ?map.masters(), "the cluster's slots");
        }
        let masters = map.masters();
        for address in &masters {
            if !self.watches.contains_key(address) {
                let link = member(&self.shared, address)?;
                self.watches.insert(address.clone(), link.shared.live.subscribe());
            }
        }
        self.map = map;
        let Some(mut links) = self.shared.links() else { return Ok(()) };
        self.watches.retain(|address, _| {
            let has = masters.contains(address);
            if !has && let Some(link) = links.remove(address) {
                link.close();
            }
            has
        });
        Ok(())
    }

    /// Tells what is connected now; true when that is every node that has keys.
    fn tell(&mut self) -> bool {
        let mut members = HashMap::new();
        let mut missing = self.watches.is_empty();
        for (address, watch) in &mut self.watches {
            let live = watch.borrow_and_update().clone();
            let link = self.shared.links().and_then(|links| links.get(address).cloned());
            let (Some(Live { number, to: To::One(connection), .. }), Some(link)) = (live, link.clone()) else {
                missing = true;
                if let Some(cause) = link.and_then(|link| link.failure()) {
                    self.shared.failed(&cause);
                }
                continue;
            };
            members.insert(address.clone(), Member { link, number, connection });
        }
        let numbers: HashMap<Address, u64> =
            members.iter().map(|(address, member)| (address.clone(), member.number)).collect();
        let lost = self.told.as_ref().is_some_and(|told| {
            told.iter().any(|(address, number)| numbers.get(address).is_none_or(|now| now != number))
        });
        if lost {
            self.standing += 1;
            self.told = None;
        }
        if missing {
            self.shared.live.send_if_modified(|live| live.take().is_some());
            return false;
        }
        let same = |live: &Option<Live>| {
            live.as_ref().is_some_and(|live| matches!(&live.to, To::Many(nodes) if nodes.map == self.map))
        };
        if lost || self.told.as_ref() != Some(&numbers) || !same(&self.shared.live.borrow()) {
            self.number += 1;
            let to = To::Many(Arc::new(Nodes { map: self.map.clone(), members }));
            self.shared.succeeded(Live { number: self.number, standing: self.standing, to });
        }
        self.told = Some(numbers);
        true
    }
}
