//! Tells brokers that there is a producer of a group: they ask back on connections they have heard of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use mq_core::error::Result;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::Core;
use crate::remoting::{Command, Connection, Failure, Link, Question, code};
use crate::route::Node;

/// A broker forgets a connection that it has not heard of for 2 minutes.
const BEAT: Duration = Duration::from_secs(30);
/// How soon a new connection, or a new broker, is told.
const LOOK: Duration = Duration::from_secs(1);

/// Connections of one producer, one to each broker.
#[derive(Debug)]
pub(super) struct Presence {
    core: Arc<Core>,
    /// Names this producer among those of its group.
    client: String,
    group: String,
    questions: mpsc::Sender<Question>,
    links: Mutex<HashMap<String, Arc<Told>>>,
}

#[derive(Debug)]
struct Told {
    link: Arc<Link>,
    /// The connection that was told, and when.
    last: Mutex<Option<(Weak<Connection>, Instant)>>,
}

impl Presence {
    pub(super) fn new(core: Arc<Core>, client: String, group: String, questions: mpsc::Sender<Question>) -> Self {
        Self { core, client, group, questions, links: Mutex::default() }
    }

    /// The connection to a broker on which it asks back.
    pub(super) fn link(&self, address: &str) -> Arc<Link> {
        Arc::clone(&self.told(address).link)
    }

    fn told(&self, address: &str) -> Arc<Told> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.entry(address.to_owned()).or_insert_with(|| {
            let link = Link::new(address, &self.core.access).questions(self.questions.clone());
            Arc::new(Told { link: Arc::new(link), last: Mutex::default() })
        });
        Arc::clone(known)
    }

    /// Tells every broker that has not heard of late; the outcome for each that was told.
    pub(super) async fn tell(&self, deadline: Instant) -> Result<Vec<Result<()>>> {
        let nodes = self.core.nodes(deadline).await?;
        // One that is away hears of it when it is back: whoever opens does not wait for that.
        let deadline = Core::reach(deadline, nodes.len() > 1);
        Ok(join_all(nodes.iter().map(|node| self.tell_one(node, deadline))).await)
    }

    async fn tell_one(&self, node: &Node, deadline: Instant) -> Result<()> {
        let told = self.told(&node.address);
        let connection = told.link.ready(deadline).await?;
        let fresh = {
            let last = told.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.as_ref().is_some_and(|(which, at)| {
                std::ptr::eq(which.as_ptr(), Arc::as_ptr(&connection)) && at.elapsed() < BEAT
            })
        };
        if fresh {
            return Ok(());
        }
        let body = json!({
            "clientID": self.client,
            "producerDataSet": [{ "groupName": self.group }],
            "consumerDataSet": [],
            "heartbeatFingerprint": 0,
        });
        let beat = Command::request(code::HEART_BEAT).body(body.to_string());
        connection.call(beat, deadline).await.map_err(Failure::into_error)?.success()?;
        *told.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::downgrade(&connection), Instant::now()));
        Ok(())
    }

    /// Tells them as long as the broker is open.
    pub(super) async fn keep(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.core.ended() => return,
            }
            match self.tell(self.core.deadline()).await {
                Ok(outcomes) => {
                    for cause in outcomes.into_iter().filter_map(Result::err) {
                        tracing::debug!(%cause, "a broker does not know of this half producer yet");
                    }
                }
                Err(cause) => tracing::debug!(%cause, "no broker knows of this half producer now"),
            }
        }
    }

    /// Says good-bye, so that others of the group are asked at once.
    pub(super) async fn leave(&self, deadline: Instant) {
        let links: Vec<_> = self.links.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let command = Command::request(code::UNREGISTER_CLIENT)
            .field("clientID", &self.client)
            .field("producerGroup", &self.group);
        let told = links.iter().filter_map(|told| told.link.standing());
        join_all(told.map(async |connection| drop(connection.call(command.clone(), deadline).await))).await;
        self.end();
    }

    /// Ends the connections.
    pub(super) fn end(&self) {
        for (_, told) in self.links.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            told.link.close();
        }
    }
}
