//! The simulation, tested itself: drivers and guards that each break one promise, most of them only under faults, must
//! be caught within a bounded number of seeds, by the rule meant for it.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, in functions they share")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_conformance::spoil::{Mischief, Spoilt};
use mq_core::driver::{BrokerDriver, ConsumerDriver, ConsumerSpec, Event, ProducerDriver, Publish, Receipt};
use mq_core::driver::{Settle, Settled, Settlement, SettlerDriver, Token};
use mq_core::guard::{Claim, Claimed, Guard, Scope};
use mq_core::message::Headers;
use mq_core::testing::{Failure, Scenario, scripted, simulate};
use mq_core::{MemoryGuard, Message, Result, RetryPolicy, Subscription, Worker};

/// Seeds within which every one of them is to be caught.
const SEEDS: u64 = 600;

fn wrap<M: Mischief + Default>(inner: Arc<dyn BrokerDriver>) -> Arc<dyn BrokerDriver> {
    Spoilt::around(inner, Arc::new(M::default()))
}

fn failure(fill: impl Fn(&mut Scenario) + Send + Sync) -> Failure {
    match simulate(0..SEEDS, fill) {
        Ok(passed) => panic!("not caught: {passed}"),
        Err(failure) => *failure,
    }
}

fn is_one_of(failure: &Failure, rules: &[&str]) {
    assert!(rules.contains(&failure.rule()), "caught by another rule than {rules:?}:\n{failure}");
    println!("caught with seed {} by {} faults\n{failure}", failure.seed(), failure.faults().len());
}

/// A broker that does wrong.
fn beneath<M: Mischief + Default>(rules: &[&str]) {
    let failure = failure(|scenario| {
        scripted(scenario);
        scenario.broker_beneath(wrap::<M>);
    });
    is_one_of(&failure, rules);
}

/// A worker that does wrong: what it is told, or what it says, is spoilt on the way.
fn above<M: Mischief + Default>(rules: &[&str]) {
    let failure = failure(|scenario| {
        scripted(scenario);
        scenario.broker_above(wrap::<M>);
    });
    is_one_of(&failure, rules);
}

/// Changes settlements before they are passed on.
async fn changed(
    to: &dyn SettlerDriver,
    batch: &mut Vec<Settlement>,
    change: impl Fn(&mut Settle) + Send,
) -> Vec<Result<Settled>> {
    batch.iter_mut().for_each(|settlement| change(&mut settlement.action));
    to.settle(batch).await
}

#[derive(Debug, Default)]
struct AcksAtReceipt;

#[async_trait]
impl Mischief for AcksAtReceipt {
    fn opening(&self, spec: &mut ConsumerSpec) {
        spec.auto_ack = true;
    }
}

#[test]
fn acknowledging_before_handling_is_caught() {
    beneath::<AcksAtReceipt>(&["loss", "stale", "end"]);
}

#[derive(Debug, Default)]
struct AcksInsteadOfStoring;

#[async_trait]
impl Mischief for AcksInsteadOfStoring {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        changed(to, batch, |action| {
            if matches!(action, Settle::Retry(_)) {
                *action = Settle::Ack;
            }
        })
        .await
    }
}

#[test]
fn acknowledging_a_retry_that_is_not_stored_is_caught() {
    beneath::<AcksInsteadOfStoring>(&["loss"]);
    // As a fault of the worker the acknowledgement itself is wrong.
    above::<AcksInsteadOfStoring>(&["loss", "ack"]);
}

/// Answers at once, and sends acknowledgements with the next batch.
#[derive(Debug, Default)]
struct LosesTheLastBatch(Mutex<Vec<Settlement>>);

#[async_trait]
impl Mischief for LosesTheLastBatch {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        if !batch.iter().all(|settlement| matches!(settlement.action, Settle::Ack)) {
            return to.settle(batch).await;
        }
        let answers = batch.iter().map(|_| Ok(Settled::Durable)).collect();
        let mut late = std::mem::replace(&mut *self.0.lock().unwrap(), std::mem::take(batch));
        to.settle(&mut late).await;
        answers
    }
}

#[test]
fn losing_the_last_batch_of_a_drain_is_caught() {
    beneath::<LosesTheLastBatch>(&["duplicate", "blame", "order", "end"]);
}

/// A worker that is not told what it loses.
#[derive(Debug, Default)]
struct ForgetsLanes;

#[async_trait]
impl Mischief for ForgetsLanes {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let mut index = 0;
        events.retain(|event| {
            index += 1;
            index <= first || !matches!(event, Event::Revoking(..) | Event::Lost(_) | Event::Disconnected(_))
        });
    }
}

#[test]
fn going_on_with_what_was_revoked_is_caught() {
    above::<ForgetsLanes>(&["lost", "overlap"]);
}

#[derive(Debug, Default)]
struct ForgetsAttempts;

#[async_trait]
impl Mischief for ForgetsAttempts {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        for event in &mut events[first..] {
            if let Event::Message(incoming) = event
                && incoming.redelivered
            {
                incoming.control.attempt = 1;
            }
        }
    }
}

#[test]
fn a_crash_that_resets_the_attempt_is_caught() {
    beneath::<ForgetsAttempts>(&["attempt"]);
}

#[derive(Debug, Default)]
struct AcceptsStale;

#[async_trait]
impl Mischief for AcceptsStale {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        to.settle(batch).await.into_iter().map(|answer| answer.map(|_| Settled::Durable)).collect()
    }
}

#[test]
fn settling_what_is_stale_is_caught() {
    beneath::<AcceptsStale>(&["stale"]);
}

#[derive(Debug, Default)]
struct ReleasesEarly;

#[async_trait]
impl Mischief for ReleasesEarly {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        changed(to, batch, |action| {
            if let Settle::Retry(retry) = action {
                retry.due -= Duration::from_millis(50);
            }
        })
        .await
    }
}

#[test]
fn a_retry_that_is_early_is_caught() {
    beneath::<ReleasesEarly>(&["early"]);
}

#[derive(Debug, Default)]
struct SendsEarly;

#[async_trait]
impl Mischief for SendsEarly {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        for publish in batch {
            let due: Option<SystemTime> = publish.deliver_at().map(|due| due - Duration::from_secs(1));
            let message = publish.message().clone();
            let (inner, pending) = mq_core::driver::in_flight(message, publish.destination().clone(), due, true);
            pending.on_complete(move |outcome| {
                let asked = publish.deliver_at();
                publish.complete(outcome.map(|receipt| match asked {
                    Some(asked) => receipt.due(asked, false),
                    None => receipt,
                }));
            });
            to.publish(vec![inner]).await;
        }
    }
}

#[test]
fn a_delayed_message_that_is_early_is_caught() {
    beneath::<SendsEarly>(&["early"]);
}

/// Confirms every seventh message without storing it.
#[derive(Debug, Default)]
struct ConfirmsUnstored(Mutex<u32>);

#[async_trait]
impl Mischief for ConfirmsUnstored {
    async fn publish(&self, to: &dyn ProducerDriver, batch: Vec<Publish>) {
        let mut stored = Vec::new();
        for publish in batch {
            let mut count = self.0.lock().unwrap();
            *count += 1;
            if count.is_multiple_of(7) {
                publish.complete(Ok(Receipt::default()));
            } else {
                stored.push(publish);
            }
        }
        to.publish(stored).await;
    }
}

#[test]
fn confirming_what_is_not_stored_is_caught() {
    beneath::<ConfirmsUnstored>(&["receipt"]);
}

#[derive(Debug, Default)]
struct DropsHeaders;

#[async_trait]
impl Mischief for DropsHeaders {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        changed(to, batch, |action| {
            if let Settle::DeadLetter(dead) = action {
                dead.message = dead.message.clone().with_headers(Headers::new());
            }
        })
        .await
    }
}

#[test]
fn a_dead_letter_that_is_not_whole_is_caught() {
    beneath::<DropsHeaders>(&["dead letter"]);
}

#[derive(Debug, Default)]
struct BlamesTheInnocent;

#[async_trait]
impl Mischief for BlamesTheInnocent {
    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        changed(to, batch, |action| {
            if matches!(action, Settle::Release) {
                *action = Settle::Requeue;
            }
        })
        .await
    }
}

#[test]
fn blame_for_what_was_given_back_is_caught() {
    beneath::<BlamesTheInnocent>(&["blame", "crash limit"]);
}

/// Acknowledges everything before the message as well, as a consumer that commits the highest offset.
#[derive(Debug, Default)]
struct CommitsTooMuch(Mutex<Vec<Token>>);

#[async_trait]
impl Mischief for CommitsTooMuch {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        let tokens = events[first..].iter().filter_map(|event| match event {
            Event::Message(incoming) => Some(incoming.token),
            _ => None,
        });
        self.0.lock().unwrap().extend(tokens);
    }

    async fn settle(&self, to: &dyn SettlerDriver, batch: &mut Vec<Settlement>) -> Vec<Result<Settled>> {
        let mut more = Vec::new();
        for settlement in batch.iter().filter(|settlement| matches!(settlement.action, Settle::Ack)) {
            let token = settlement.token;
            let before = |other: &&Token| other.lane == token.lane && other.major < token.major;
            let tokens = self.0.lock().unwrap();
            let acks = tokens.iter().filter(before).map(|token| Settlement { token: *token, action: Settle::Ack });
            more.extend(acks);
        }
        let answers = to.settle(batch).await;
        to.settle(&mut more).await;
        answers
    }
}

#[test]
fn committing_past_what_is_unsettled_is_caught() {
    beneath::<CommitsTooMuch>(&["loss", "order"]);
}

#[derive(Debug, Default)]
struct TurnsBatchesRound;

#[async_trait]
impl Mischief for TurnsBatchesRound {
    fn received(&self, events: &mut Vec<Event>, first: usize) {
        if events[first..].iter().all(|event| matches!(event, Event::Message(_))) {
            events[first..].reverse();
        }
    }
}

#[test]
fn a_key_out_of_order_is_caught() {
    beneath::<TurnsBatchesRound>(&["order"]);
}

/// Leaves without giving anything back.
#[derive(Debug, Default)]
struct LeavesRudely;

#[async_trait]
impl Mischief for LeavesRudely {
    async fn close(&self, consumer: Box<dyn ConsumerDriver>, _deadline: Duration) -> Result<()> {
        // For the broker its process was killed.
        drop(consumer);
        Ok(())
    }
}

#[test]
fn leaving_without_goodbye_is_caught() {
    beneath::<LeavesRudely>(&["blame", "crash limit"]);
}

/// Remembers a message as handled when its handler begins.
#[derive(Debug, Default)]
struct MarksBeforeHandling(MemoryGuard);

#[async_trait]
impl Guard for MarksBeforeHandling {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        let claimed = self.0.claim(scope, lease).await?;
        if let Claimed::Fresh(claim) = &claimed {
            self.0.complete(claim).await?;
        }
        Ok(claimed)
    }
    async fn extend(&self, _: &Claim, _: Duration) -> Result<bool> {
        Ok(true)
    }
    async fn complete(&self, claim: &Claim) -> Result<()> {
        self.0.complete(claim).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.0.release(claim).await
    }
}

/// Forgets what was handled.
#[derive(Debug, Default)]
struct Forgetful(MemoryGuard);

#[async_trait]
impl Guard for Forgetful {
    async fn claim(&self, scope: &Scope, lease: Duration) -> Result<Claimed> {
        self.0.claim(scope, lease).await
    }
    async fn extend(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.0.extend(claim, lease).await
    }
    async fn complete(&self, claim: &Claim) -> Result<()> {
        self.0.release(claim).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.0.release(claim).await
    }
}

fn guarded<G: Guard + Default>(rules: &[&str]) {
    let failure = failure(|scenario| {
        for number in 0..12 {
            scenario.send(Message::new("t").unwrap().body(number.to_string()));
        }
        let guard: Arc<dyn Guard> = Arc::new(G::default());
        scenario.service(2, move |broker| {
            Worker::new(broker, Subscription::new("t", "g"))
                .retry(RetryPolicy::delays([Duration::from_secs(1)]))
                .idempotency_shared(Arc::clone(&guard))
                .idempotency_lease(Duration::from_secs(5))
                .handle(|| async { tokio::time::sleep(Duration::from_millis(300)).await })
        });
    });
    is_one_of(&failure, rules);
}

#[test]
fn a_guard_that_marks_before_handling_is_caught() {
    guarded::<MarksBeforeHandling>(&["loss", "ack"]);
}

#[test]
fn a_guard_that_forgets_is_caught() {
    guarded::<Forgetful>(&["guard"]);
}
