//! The guard's part in a run: claims before the handler, completion after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::Error;
use crate::event::WorkerEvent;
use crate::guard::{Claimed, Scope};
use crate::worker::context::{Cancel, Context};
use crate::worker::pipeline::{Slot, Verdict, unless_cancelled};
use crate::worker::shared::Shared;
use crate::worker::side;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Claims every message of the batch. Those that are not to run now leave it for `slot.done`. While the store is down
/// this waits: nothing runs, and nothing is set aside.
pub(crate) async fn claim(shared: &Arc<Shared>, slot: &mut Slot, signal: Option<&Notify>) {
    let Some(guard) = &shared.guard else { return };
    let batch = std::mem::take(&mut slot.batch);
    for context in batch {
        // Without an id nothing can be claimed: it would run unguarded.
        let Some(id) = context.id() else {
            slot.done.push((context, Verdict::NoId));
            continue;
        };
        let scope = Scope { group: shared.group.clone(), id, redrives: context.control().redrives };
        let asked = ask(shared, || guard.claim(&scope, shared.guard_lease));
        let verdict = match unless_cancelled(std::slice::from_ref(&context), signal, Cancel::Stop, asked).await {
            None if context.cancel() == Cancel::Lost => Verdict::Lost,
            None => Verdict::GiveBack,
            Some(Claimed::Done) => Verdict::Duplicate,
            Some(Claimed::InProgress { retry_after }) => Verdict::Deferred(retry_after),
            Some(Claimed::Fresh(claim)) => {
                context.run().claim = Some(claim);
                slot.batch.push(context);
                continue;
            }
        };
        slot.done.push((context, verdict));
    }
}

/// The message was handled: the guard must know before it is acknowledged. When the worker has to stop while the store
/// is down, it is acknowledged all the same: it was handled, and running it again would be worse.
pub(crate) async fn complete(shared: &Shared, context: &Context, signal: Option<&Notify>) {
    let (Some(guard), Some(claim)) = (&shared.guard, context.run().claim.take()) else { return };
    let asked = ask(shared, || guard.complete(&claim));
    unless_cancelled(std::slice::from_ref(context), signal, Cancel::Overdue, asked).await;
}

/// Makes the claim last, beside the running handler. A claim found lost cancels the handler: somebody else may be
/// running it.
pub(crate) fn extend(shared: &Arc<Shared>, context: &Context) {
    let task = {
        let (shared, context) = (Arc::clone(shared), context.clone());
        async move {
            let claim = context.run().claim.clone();
            let (Some(guard), Some(claim)) = (&shared.guard, claim) else { return };
            match guard.extend(&claim, shared.guard_lease).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(id = %claim.scope.id, "the guard's claim was lost while the handler ran");
                    shared.cancel(Cancel::Overdue, |running| running.token() == context.token());
                }
                Err(error) => {
                    let again_in = shared.guard_lease / 3;
                    shared.event(&WorkerEvent::GuardUnavailable { error: &error, again_in });
                }
            }
        }
    };
    side::spawn(shared, context.token().lane, task);
}

/// Asks the store until it answers.
async fn ask<T, F>(shared: &Shared, question: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        match question().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::warn!(%error, again_in = ?wait, "the guard's store cannot be asked; messages wait");
                shared.event(&WorkerEvent::GuardUnavailable { error: &error, again_in: wait });
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
