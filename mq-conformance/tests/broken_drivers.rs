//! The suite is itself tested: each broken driver is caught by the scenario meant for it, which the sound one passes.

#![expect(clippy::unwrap_used, reason = "a test target")]

mod broken;
mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use mq_conformance::spoil::{Mischief, Spoilt};
use mq_conformance::{Faults, Foreign, Harness, Outcome, check};
use mq_core::Result;
use mq_core::driver::BrokerDriver;

use broken::{administering, consuming, faulty, half, producing, settling};
use memory::Memory;

/// The in-memory broker behind a driver that spoils one thing.
#[derive(Debug)]
struct Bad<M> {
    sound: Memory,
    mischief: Arc<M>,
}

#[async_trait]
impl<M: Mischief> Harness for Bad<M> {
    fn profile(&self) -> String {
        format!("broken: {:?}", self.mischief)
    }
    async fn version(&self) -> Result<String> {
        self.sound.version().await
    }
    async fn connect(&self) -> Result<Arc<dyn BrokerDriver>> {
        Ok(Spoilt::around(self.sound.connect().await?, Arc::clone(&self.mischief)))
    }
    fn patience(&self) -> std::time::Duration {
        // What the in-memory broker does not hand over at once, it never will.
        std::time::Duration::from_secs(4)
    }
    fn foreign(&self) -> Option<&dyn Foreign> {
        self.sound.foreign()
    }
    fn faults(&self) -> Option<&dyn Faults> {
        self.sound.faults()
    }
}

/// Fails unless `scenario` fails on the spoilt driver with `words` in what it says, and passes on the sound one. Words
/// parted by `|` are what it may say: which of them comes first is a matter of timing.
fn caught_by(scenario: &str, mischief: impl Mischief, words: &str) {
    let name = format!("{mischief:?}");
    let sound = check(Arc::new(Memory::default()), scenario).unwrap();
    assert_eq!(sound.outcome, Outcome::Passed, "the sound driver fails {scenario}: {:?}", sound.failure);
    let spoilt = Bad { sound: Memory::default(), mischief: Arc::new(mischief) };
    let result = check(Arc::new(spoilt), scenario).unwrap();
    assert_eq!(result.outcome, Outcome::Failed, "{name} passes {scenario}");
    let failure = result.failure.unwrap_or_default();
    assert!(
        words.split('|').any(|words| failure.contains(words)),
        "{name} fails {scenario} for another reason than `{words}`:\n{failure}"
    );
}

macro_rules! broken {
    ($($test:ident: $mischief:ty, $scenario:literal, $words:literal;)+) => {$(
        #[test]
        fn $test() {
            caught_by($scenario, <$mischief>::default(), $words);
        }
    )+};
}

broken! {
    // Sending.
    confirms_before_storing: producing::ConfirmsBeforeStoring, "publish::everything_arrives_as_sent", "in time";
    calls_every_send_good: producing::CallsEverySendGood, "send::an_unknown_topic_is_an_error", "was confirmed";
    mixes_up_outcomes: producing::MixesUpOutcomes, "send::good_and_bad_sends_in_flight_together", "was confirmed";
    drops_headers: producing::DropsHeaders, "publish::odd_headers_survive", "headers";
    loses_keys: producing::LosesKeys, "publish::no_key_is_no_empty_key", "key none";
    fills_tombstones: producing::FillsTombstones, "publish::an_empty_body_is_no_tombstone", "instead of none";
    ignores_delays: producing::IgnoresDelays, "delay::a_delayed_message_waits_and_is_whole", "early";
    loses_the_first: producing::LosesTheFirst, "publish::the_first_messages_of_a_new_topic_are_kept", "in time";
    overtakes_the_first: producing::OvertakesTheFirst, "publish::the_first_messages_of_a_new_topic_are_kept", "out of order";
    shows_half_messages: half::ShowsHalfMessages, "half::nobody_sees_one_before_its_commit", "should not";
    commits_rollbacks: half::CommitsRollbacks, "half::a_rollback_is_for_ever", "only what was committed";
    commits_the_unknown: half::CommitsTheUnknown, "half::what_is_not_known_is_asked_again", "in time";
    rolls_back_the_unknown: half::RollsBackTheUnknown, "half::what_is_not_known_is_asked_again", "in time";
    never_asks: half::NeverAsks, "half::one_nobody_decided_is_asked_back_about", "in time";
    // Receiving.
    forgets_attempts: consuming::ForgetsAttempts, "retry::attempts_count_on_and_survive_a_new_consumer", "attempt";
    blames_for_redeliveries: consuming::BlamesForRedeliveries, "settle::requeues_spend_no_attempt", "four requeues";
    trusts_forged_headers: consuming::TrustsForgedHeaders, "foreign::forged_control_headers_change_nothing", "forged";
    delivers_twice: consuming::DeliversTwice, "replay::a_declared_group_gets_what_is_sent_since", "should not";
    reorders_a_key: consuming::ReordersAKey, "order::first_deliveries_keep_the_order_of_a_key", "out of order";
    ignores_prefetch: consuming::IgnoresPrefetch, "receive::no_more_than_prefetch_are_out", "prefetch 5";
    never_pauses: consuming::NeverPauses, "receive::pause_and_resume", "should not";
    leaks_on_close: consuming::LeaksOnClose, "settle::what_is_unsettled_at_close_comes_again_without_blame", "in time";
    // Settling.
    loses_on_requeue: settling::LosesOnRequeue, "settle::a_requeue_comes_again", "in time";
    loses_on_release: settling::LosesOnRelease, "settle::a_dropped_delivery_comes_again", "in time";
    forgets_acks: settling::ForgetsAcks, "settle::nothing_is_unacked_at_the_broker_after_close", "waiting after";
    acks_neighbours: settling::AcksNeighbours, "settle::an_ack_out_of_order_consumes_no_neighbour", "stale";
    retries_early: settling::RetriesEarly, "retry::never_early_and_not_too_late", "early";
    queues_retries_in_a_row: settling::QueuesRetriesInARow, "retry::two_delays_keep_out_of_each_others_way", "behind a long";
    acks_instead_of_retrying: settling::AcksInsteadOfRetrying, "retry::a_retry_survives_its_consumer", "in time";
    // Under a worker.
    runs_twice_at_once: consuming::RunsTwiceAtOnce, "work::concurrency_is_used_and_bounded", "handled twice at once";
    reorders_a_key_under_a_worker: consuming::ReordersAKey, "keys::one_at_a_time_and_in_order_for_each_key", "out of order";
    loses_the_last_acks: settling::LosesTheLastAcks, "drain::nothing_is_unacked_after_a_stop_under_load", "at the broker";
    loses_the_last_acks_of_a_batch: settling::LosesTheLastAcks, "work::acks_in_batches", "should not";
    forgets_held_attempts: settling::ForgetsHeldAttempts, "keys::attempts_are_counted_in_key_order_too", "wrong attempt";
    retries_early_under_a_worker: settling::RetriesEarly, "failures::a_message_that_fails_twice_is_handled_at_the_third_attempt", "early";
    drops_the_trace: producing::DropsHeaders, "follow_ups::the_trace_travels", "in time";
    // Only when something breaks.
    commits_too_early: faulty::CommitsTooEarly, "faults::members_killed_under_load", "never came";
    forgets_on_reconnect: faulty::ForgetsOnReconnect, "faults::connections_cut_under_load", "after the fault|should have been handled";
    acks_stale: faulty::AcksStale, "faults::a_settlement_of_a_lost_session_is_stale", "stale";
    loses_the_last_batch_on_drain: faulty::LosesTheLastBatch, "faults::members_come_and_go", "wait at the broker|came again";
    // Dead letters, lag, what is declared.
    truncates_dead_letters: settling::TruncatesDeadLetters, "dead_letters::they_are_whole", "the message changed";
    forgets_the_reason: settling::ForgetsTheReason, "dead_letters::the_record_says_why", "attempts";
    listing_consumes: administering::ListingConsumes, "dead_letters::listing_thirty_times_consumes_nothing", "in round 1";
    redrives_to_all_groups: administering::RedrivesToAllGroups, "redrive::redrive_goes_to_the_failing_group_only", "should not";
    sees_no_lag: administering::SeesNoLag, "admin::lag_counts_what_waits", "after ten sends";
    denies_broadcast: administering::DeniesBroadcast, "capability::what_is_missing_is_refused", "was accepted";
    declares_no_bounds: administering::DeclaresNoBounds, "capability::bounds_are_declared", "no bound";
}
