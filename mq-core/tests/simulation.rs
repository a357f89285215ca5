//! The core under simulated faults. More schedules: the example `simulate`.
#![expect(clippy::panic, reason = "a test that cannot go on says where")]

use std::time::Duration;

use mq_core::memory::{SettleFault, SettledHow};
use mq_core::testing::{Failure, Fault, Passed, Scenario, history, scripted, simulate};
use mq_core::{Concurrency, Context, HandlerError, Message, RetryPolicy, Subscription, Worker};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn told(seed: u64) -> String {
    history(seed, scripted).iter().map(|event| format!("{event}\n")).collect()
}

fn passes(result: Result<Passed, Box<Failure>>) -> Passed {
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn the_same_seed_leads_to_the_same_history() {
    for seed in 0..50 {
        assert_eq!(told(seed), told(seed), "seed {seed}");
    }
    assert_ne!(told(1), told(2));
}

#[test]
fn the_core_keeps_its_promises() {
    let half = std::thread::spawn(|| simulate(0..1_000, scripted));
    let other = passes(simulate(1_000..2_000, scripted));
    let passed = passes(half.join().expect("it does not panic")).plus(&other);
    println!("{passed}");
    assert!(passed.crashes > 100 && passed.repeats > 100, "too little goes wrong: {passed}");
}

/// A record of an attempt that failed and is tried again must not overwrite that of a later attempt.
#[test]
fn an_attempt_recorded_late_does_not_reset_a_later_one() {
    let held = |scenario: &mut Scenario| {
        scenario.faults(0, Duration::ZERO).send(Message::new("t").unwrap().key("k"));
        scenario.service(1, |broker| {
            Worker::new(broker, Subscription::new("t", "g"))
                .retry(RetryPolicy::delays([MS(250), MS(300)]).keep_key_order())
                .handle(|context: Context| async move {
                    if context.attempt() < 3 {
                        return Err(HandlerError::retry("not yet"));
                    }
                    tokio::time::sleep(MS(1_000)).await;
                    Ok(())
                })
        });
        let crash = Fault::Crash { member: 0, noticed: Duration::ZERO, restarted: MS(10) };
        scenario.exactly([
            (Duration::ZERO, Fault::FailSettlements(SettledHow::Hold, vec![SettleFault::Unavailable; 3])),
            (MS(800), crash),
        ]);
    };
    passes(simulate(0..20, held));
}

/// A handler of several messages is stopped when the partition of one of them is lost; the others keep their places.
#[test]
fn the_loss_of_one_partition_does_not_put_messages_of_another_behind_the_next_of_their_key() {
    let batches = |scenario: &mut Scenario| {
        scenario.partitions(2).faults(0, Duration::ZERO);
        for number in 0..12 {
            scenario.send(Message::new("t").unwrap().key(format!("k{}", number % 4)));
        }
        scenario.service(2, |broker| {
            Worker::new(broker, Subscription::new("t", "g"))
                .concurrency(Concurrency::ByKey(1))
                .retry(RetryPolicy::delays([MS(100)]).keep_key_order())
                .handle_batch(4, |_: mq_core::Batch<Context>| async {
                    tokio::time::sleep(MS(8_000)).await;
                })
        });
        // The other process comes back at another time in each run: in some of them while a batch of both partitions runs.
        let restarted = MS(500 * (scenario.seed() % 40));
        scenario.exactly([(Duration::ZERO, Fault::Leave { member: 1, restarted })]);
    };
    passes(simulate(0..120, batches));
}

/// A broker that is there and silent is waited for, like one that is not there.
#[test]
fn a_worker_that_starts_while_the_broker_does_not_answer_waits_for_it() {
    let silent = |scenario: &mut Scenario| {
        scenario.faults(0, Duration::ZERO).send(Message::new("t").unwrap().body("patience"));
        scenario.service(1, |broker| Worker::new(broker, Subscription::new("t", "g")).handle(|| async {}));
        scenario.exactly([
            (Duration::ZERO, Fault::Leave { member: 0, restarted: MS(1_000) }),
            (MS(500), Fault::Stall { lasts: Duration::from_secs(40) }),
        ]);
    };
    passes(simulate(0..20, silent));
}
