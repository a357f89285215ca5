//! A member ends at each step between handling a message and the broker's knowing (G2, G3, G4, G7).

use std::time::Duration;

use super::KEYS;
use crate::failure::Verdict;
use crate::faults::crash::{Crash, Step};
use crate::faults::load::Load;
use crate::faults::plan::Plan;
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("faults":
    crashed_between_handled_and_acked [2, 3, 9] [KeyedOrder] breaks [Way];
    crashed_in_the_middle_of_a_batch_of_acks [2, 3, 9] [KeyedOrder] breaks [Way];
    crashed_before_a_failure_was_written [2, 4, 7] [NonBlockingRetry, DeadLetters] breaks [Way];
    crashed_between_a_failure_written_and_acked [2, 3, 4, 6, 7] [NonBlockingRetry, DeadLetters] breaks [Way];
    crashed_while_draining [2, 3, 12] [KeyedOrder] breaks [Way];
);

const MESSAGES: usize = 200;

/// Members crash one after the other, each at the next of `crashes`; the last one does not.
async fn crash(lab: &Lab, plan: Plan, crashes: &[Crash], batched: Option<(usize, Duration)>) -> Verdict {
    let mut load = Load::new(lab, plan).await?;
    load.send(MESSAGES, KEYS, 400);
    for crash in crashes {
        let mut spec = load.spec();
        (spec.crash, spec.batched) = (Some(*crash), batched);
        load.join_as(spec).await?;
        let drains = crash.step == Step::DuringDrain;
        if drains {
            let handled = load.record.progress().handled;
            load.handled((handled + crash.passes).min(MESSAGES)).await?;
        }
        load.crashed(drains).await?;
    }
    load.join().await?;
    load.finish().await.map(drop)
}

async fn crashed_between_handled_and_acked(lab: &Lab) -> Verdict {
    let at = |passes| Crash { step: Step::BeforeAck, passes };
    crash(lab, Plan::smooth(21), &[at(0), at(3), at(12)], None).await
}

async fn crashed_in_the_middle_of_a_batch_of_acks(lab: &Lab) -> Verdict {
    let at = |passes| Crash { step: Step::MidBatch, passes };
    let batched = Some((8, Duration::from_millis(200)));
    crash(lab, Plan::smooth(22), &[at(0), at(2)], batched).await
}

/// Half fails: a step that is passed often.
fn failing(seed: u64) -> Plan {
    Plan { retried: 300, retried_twice: 100, hopeless: 150, ..Plan::rough(seed, false) }
}

async fn crashed_before_a_failure_was_written(lab: &Lab) -> Verdict {
    let at = |passes| Crash { step: Step::BeforeRepublish, passes };
    crash(lab, failing(23), &[at(0), at(4)], None).await
}

async fn crashed_between_a_failure_written_and_acked(lab: &Lab) -> Verdict {
    let during = |micros| Crash { step: Step::DuringRepublish { micros }, passes: 2 };
    let after = Crash { step: Step::AfterRepublish, passes: 1 };
    crash(lab, failing(24), &[during(200), during(1500), during(4000), after], None).await
}

async fn crashed_while_draining(lab: &Lab) -> Verdict {
    let at = |passes| Crash { step: Step::DuringDrain, passes };
    crash(lab, Plan::smooth(25), &[at(20), at(40)], None).await
}
