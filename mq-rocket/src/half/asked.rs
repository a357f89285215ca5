//! Answers the questions of brokers.

use std::sync::Arc;

use mq_core::driver::{CheckBack, Decision};
use mq_core::error::{ErrorKind, Result};
use mq_core::name::Topic;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::driver::Shared;
use super::ticket::Ticket;
use crate::error::error;
use crate::names;
use crate::remoting::{Question, code};
use crate::stored::{self, Stored};
use crate::wire::{self, HALF_TOPIC, REAL_TOPIC};

/// Questions being answered at once; the core lets fewer run.
const AT_ONCE: usize = 64;

/// Answers until nobody asks any more or the broker is closed.
pub(super) async fn answer(shared: Arc<Shared>, mut questions: mpsc::Receiver<Question>, check: Arc<dyn CheckBack>) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.recv(), if under_way.len() < AT_ONCE => {
                let Some(question) = question else { return };
                let (shared, check) = (Arc::clone(&shared), Arc::clone(&check));
                under_way.spawn(async move {
                    if let Err(cause) = one(&shared, question, &*check).await {
                        tracing::warn!(%cause, "a question about a half message is not answered: the broker will ask again");
                    }
                });
            }
            Some(_) = under_way.join_next() => {}
            () = shared.core.ended() => return,
        }
    }
}

async fn one(shared: &Shared, question: Question, check: &dyn CheckBack) -> Result<()> {
    let Question { address, command } = question;
    if command.code != code::CHECK_TRANSACTION_STATE {
        return Ok(());
    }
    let deadline = shared.core.deadline();
    let mut half = stored::decode(command.body.clone())?;
    let half = half.pop().ok_or_else(|| error(ErrorKind::Internal, "the broker asks about no message"))?;
    let nodes = shared.core.nodes(deadline).await?;
    let node = nodes.iter().find(|node| *node.address == *address);
    let broker = node.map_or("", |node| &node.name);
    let topic = half.properties.get(REAL_TOPIC).cloned().unwrap_or_default();
    let ticket = Ticket::of_question(&command, broker, &topic)?;
    let cell = shared.decided.of(&ticket.transaction);
    // Told just now: should that not get through, the broker asks again.
    let Ok(told) = cell.try_lock().map(|told| told.is_some()) else { return Ok(()) };
    let mut answer = Decision::Rollback;
    if !told {
        let topic = topic_of(&half, &topic)?;
        match check.check(&wire::decode(&topic, half).message).await.decision() {
            Some(decision) => answer = decision,
            None => return Ok(()),
        }
    }
    let Ok(mut told) = cell.try_lock() else { return Ok(()) };
    if told.is_some() {
        // Confirmed before: what the broker still has is a leftover.
        answer = Decision::Rollback;
    }
    // The check had time of its own.
    let deadline = shared.core.deadline();
    shared.end(&address, ticket.decide(&shared.group, answer, true), deadline).await?;
    told.get_or_insert(answer);
    Ok(())
}

/// The topic it was prepared for: a long name is cut at the broker.
fn topic_of(half: &Stored, name: &str) -> Result<Topic> {
    match half.properties.get(HALF_TOPIC) {
        Some(whole) => Topic::parse(whole.clone()),
        None => names::portable(name)
            .ok_or_else(|| error(ErrorKind::Internal, "the broker asks about a message of a topic that cannot be")),
    }
}
