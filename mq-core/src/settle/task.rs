//! The task that sends settlements: quick ones in batches and in order, slow ones beside them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::driver::{Settle, Settled, Settlement, Token};
use crate::error::{Error, Result};
use crate::settle::queue::{Item, Look, Shared};

type Done = Option<oneshot::Sender<Result<Settled>>>;

/// How long an ack nobody waits for may wait for others, or for its consumer to take it along.
const REST: Duration = Duration::from_millis(1);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut items = VecDeque::new();
    let mut batch = Vec::new();
    let mut waiting: Vec<(Token, bool, Done)> = Vec::new();
    loop {
        rest(&shared).await;
        match shared.take(&mut items) {
            Look::Taken => {}
            Look::Nothing => {
                shared.wake.notified().await;
                continue;
            }
            Look::Closed => return,
        }
        for Item { settlement, done } in items.drain(..) {
            match settlement.action {
                Settle::Retry(_) | Settle::DeadLetter(_) => {
                    tokio::spawn(slow(Arc::clone(&shared), settlement, done));
                }
                _ => {
                    waiting.push((settlement.token, frees(&settlement.action), done));
                    batch.push(settlement);
                }
            }
        }
        if !batch.is_empty() {
            let results = shared.settler.settle(&mut batch).await;
            batch.clear();
            finish(&shared, &mut waiting, results);
        }
        shared.batch_over();
    }
}

/// Lets acks gather, unless something is in a hurry.
async fn rest(shared: &Shared) {
    let mut over = std::pin::pin!(tokio::time::sleep(REST));
    while shared.may_rest() {
        tokio::select! {
            biased;
            () = &mut over => return,
            () = shared.wake.notified() => {}
        }
    }
}

/// One settlement that publishes first.
async fn slow(shared: Arc<Shared>, settlement: Settlement, done: Done) {
    let token = settlement.token;
    let mut batch = vec![settlement];
    let result = shared.settler.settle(&mut batch).await.pop().unwrap_or_else(|| Err(unanswered()));
    trouble(token, &result);
    let failed = result.is_err();
    // Whoever waits for the outcome decides what becomes of a failed one; nobody waiting, it goes back to the broker,
    // since it must neither be lost nor stay ours for ever.
    let orphaned = match done {
        Some(done) => done.send(result).is_err(),
        None => true,
    };
    if failed && orphaned {
        let mut batch = vec![Settlement { token, action: Settle::Requeue }];
        let result = shared.settler.settle(&mut batch).await.pop();
        tracing::warn!(?result, "a retry or dead letter could not be stored; the message went back to the broker");
    }
    shared.done(1, usize::from(!failed || orphaned));
}

fn finish(shared: &Shared, waiting: &mut Vec<(Token, bool, Done)>, results: Vec<Result<Settled>>) {
    debug_assert_eq!(waiting.len(), results.len(), "one result per settlement");
    let answered = waiting.len();
    let mut settled = 0;
    let mut results = results.into_iter();
    for (token, frees, done) in waiting.drain(..) {
        let result = results.next().unwrap_or_else(|| Err(unanswered()));
        settled += usize::from(frees);
        trouble(token, &result);
        if let Some(done) = done {
            // The receiver may be gone: then nobody wants to know.
            let _ = done.send(result);
        }
    }
    shared.done(answered, settled);
}

/// The same for acks nobody waits for.
pub(super) fn finish_acks(shared: &Shared, tokens: &[Token], results: &[Result<Settled>]) {
    debug_assert_eq!(tokens.len(), results.len(), "one result per settlement");
    for (token, result) in tokens.iter().zip(results) {
        trouble(*token, result);
    }
    shared.done(tokens.len(), tokens.len());
    shared.batch_over();
}

fn trouble(token: Token, result: &Result<Settled>) {
    if !matches!(result, Ok(Settled::Durable | Settled::Sent)) {
        tracing::debug!(?token, ?result, "a settlement was not accepted");
    }
}

/// True when the settlement ends the delivery, so that its place in the window is free.
fn frees(action: &Settle) -> bool {
    !matches!(action, Settle::Extend(_) | Settle::Hold(_))
}

fn unanswered() -> Error {
    Error::new(crate::error::ErrorKind::Internal, "the driver did not answer a settlement")
}
