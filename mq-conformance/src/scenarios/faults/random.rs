//! A few random schedules: a soak of seconds.

use crate::failure::{Failure, Verdict};
use crate::faults::schedule::Schedule;
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("faults":
    random_schedules [1, 2, 3, 4, 6, 7, 9, 12, 13] [KeyOrderedRetry, DeadLetters] breaks [Way];
);

/// Another one, or one again: its schedule.
const SEED: &str = "MQ_FAULT_SEED";

/// Each on topics of its own, one after the other.
async fn random_schedules(lab: &Lab) -> Verdict {
    let lacks = lab.faults()?.lacks();
    let seeds = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().map_err(|_| Failure::new(format!("{SEED} is no number: {seed}")))?],
        Err(_) => vec![1, 2, 3],
    };
    for seed in seeds {
        let part = lab.part();
        let lived = Schedule::new(seed, lacks, false).run(&part).await;
        part.clean_up().await;
        lived?;
        if let (Some(measured), Some(seen)) = (part.measured(), part.seen()) {
            lab.measure(measured, seen);
        }
    }
    Ok(())
}
