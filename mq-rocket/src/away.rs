//! Brokers that could not be reached of late: what can go elsewhere does, until they answer again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mq_core::error::Result;
use tokio::time::Instant;

use crate::core::Core;
use crate::remoting::{Command, Failure, code};
use crate::route::Node;

/// Before such a broker is first asked whether it is there; it doubles.
const REST: Duration = Duration::from_secs(1);
/// The longest pause between two questions.
const LONGEST: Duration = Duration::from_secs(4);
/// How long its answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Who is left out at the moment.
#[derive(Debug)]
pub(crate) struct Away {
    core: Weak<Core>,
    /// By their names.
    brokers: Mutex<HashSet<String>>,
    count: AtomicUsize,
}

impl Away {
    pub(crate) fn new(core: Weak<Core>) -> Self {
        Self { core, brokers: Mutex::default(), count: AtomicUsize::new(0) }
    }

    fn brokers(&self) -> MutexGuard<'_, HashSet<String>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when every broker is believed to be there.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn contains(&self, node: &Node) -> bool {
        !self.is_empty() && self.brokers().contains(&node.name)
    }

    /// Leaves a broker out until it answers again. Only where there are others: the only one is waited for.
    pub(crate) fn add(&self, node: &Arc<Node>) {
        let mut brokers = self.brokers();
        if brokers.insert(node.name.clone()) {
            self.count.store(brokers.len(), Ordering::Release);
            tracing::warn!(broker = node.name, "a broker is away: what can go to another does");
            tokio::spawn(watch(Weak::clone(&self.core), Arc::clone(node)));
        }
    }

    fn remove(&self, node: &Node) {
        let mut brokers = self.brokers();
        brokers.remove(&node.name);
        self.count.store(brokers.len(), Ordering::Release);
        tracing::info!(broker = node.name, "a broker is back");
    }
}

/// Asks a broker until it answers.
async fn watch(core: Weak<Core>, node: Arc<Node>) {
    let mut pause = REST;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
        let Some(core) = core.upgrade() else { return };
        if core.check_open().is_err() {
            return;
        }
        match ask(&core, &node).await {
            Ok(()) => return core.away.remove(&node),
            Err(cause) => tracing::debug!(%cause, broker = node.name, "a broker is still away"),
        }
    }
}

/// Any answer will do, also a refusal.
async fn ask(core: &Core, node: &Node) -> Result<()> {
    let deadline = Instant::now() + ANSWER;
    // It may have come back at another address.
    core.forget_nodes();
    core.nodes(deadline).await?;
    let connection = core.link(node).ready_at_once(deadline).await?;
    let question = Command::request(code::GET_TOPIC_CONFIG).field("topic", "SELF_TEST_TOPIC");
    connection.call(question, deadline).await.map_err(Failure::into_error).map(drop)
}
